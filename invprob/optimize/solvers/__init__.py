"""Algorithms for the maximum of a posterior."""

from invprob.optimize.solvers.admm import ADMM
from invprob.optimize.solvers.base import AbstractSolver, Metrics, State
from invprob.optimize.solvers.cg import ConjugateGradient
from invprob.optimize.solvers.newton import NewtonCG
from invprob.optimize.solvers.optax import Optax
from invprob.optimize.solvers.plugplay import PlugAndPlay
from invprob.optimize.solvers.primal_dual import PrimalDual
from invprob.optimize.solvers.proximal import ProximalGradient
from invprob.optimize.solvers.twogrid import TwoGrid
from invprob.optimize.solvers.wiener import Wiener

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
