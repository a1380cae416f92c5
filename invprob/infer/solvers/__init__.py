"""Algorithms for the maximum of a posterior."""

from invprob.infer.solvers.admm import ADMM
from invprob.infer.solvers.base import AbstractSolver, Metrics, State
from invprob.infer.solvers.cg import ConjugateGradient
from invprob.infer.solvers.newton import NewtonCG
from invprob.infer.solvers.optax import Optax
from invprob.infer.solvers.plugplay import PlugAndPlay
from invprob.infer.solvers.primal_dual import PrimalDual
from invprob.infer.solvers.proximal import ProximalGradient
from invprob.infer.solvers.twogrid import TwoGrid
from invprob.infer.solvers.wiener import Wiener

__all__ = [
    "ADMM",
    "AbstractSolver",
    "ConjugateGradient",
    "Metrics",
    "NewtonCG",
    "Optax",
    "PlugAndPlay",
    "PrimalDual",
    "ProximalGradient",
    "State",
    "TwoGrid",
    "Wiener",
]
