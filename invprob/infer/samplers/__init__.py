"""Samplers: independent exact draws, Gibbs, and the Hamiltonian ones of TensorFlow Probability."""

from invprob.infer.samplers.base import AbstractIndependent, AbstractMarkov, AbstractSampler, Chains, Draw, Info
from invprob.infer.samplers.gaussian import Conditioned, Filtered, Perturbed, exact_draws, exact_sampler
from invprob.infer.samplers.gibbs import ScaleMixture
from invprob.infer.samplers.langevin import Langevin
from invprob.infer.samplers.messenger import Messenger
from invprob.infer.samplers.split import Split
from invprob.infer.samplers.strength import StrengthMixture
from invprob.infer.samplers.tfp import HMC, NUTS

__all__ = [
    "HMC",
    "NUTS",
    "AbstractIndependent",
    "AbstractMarkov",
    "AbstractSampler",
    "Chains",
    "Conditioned",
    "Draw",
    "Filtered",
    "Info",
    "Langevin",
    "Messenger",
    "Perturbed",
    "ScaleMixture",
    "Split",
    "StrengthMixture",
    "exact_draws",
    "exact_sampler",
]
