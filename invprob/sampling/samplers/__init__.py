"""Samplers: independent exact draws, Gibbs, and the Hamiltonian ones of TensorFlow Probability."""

from invprob.sampling.samplers.base import AbstractIndependent, AbstractMarkov, AbstractSampler, Chains, Draw, Info
from invprob.sampling.samplers.gaussian import (
    ConstrainedRealization,
    Filtered,
    PerturbationOptimization,
    exact_draws,
    exact_sampler,
)
from invprob.sampling.samplers.gibbs import ScaleMixture
from invprob.sampling.samplers.langevin import Langevin
from invprob.sampling.samplers.messenger import Messenger
from invprob.sampling.samplers.split import Split
from invprob.sampling.samplers.strength import StrengthMixture
from invprob.sampling.samplers.tfp import HMC, NUTS

__all__ = [
    "HMC",
    "NUTS",
    "AbstractIndependent",
    "AbstractMarkov",
    "AbstractSampler",
    "Chains",
    "ConstrainedRealization",
    "Draw",
    "Filtered",
    "Info",
    "Langevin",
    "Messenger",
    "PerturbationOptimization",
    "ScaleMixture",
    "Split",
    "StrengthMixture",
    "exact_draws",
    "exact_sampler",
]
