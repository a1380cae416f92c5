"""Algorithms for the maximum of a posterior."""

from invprob.infer.solvers.base import AbstractSolver, Metrics, State
from invprob.infer.solvers.cg import ConjugateGradient
from invprob.infer.solvers.optax import Optax
from invprob.infer.solvers.twogrid import TwoGrid
from invprob.infer.solvers.wiener import Wiener

__all__ = ["AbstractSolver", "ConjugateGradient", "Metrics", "Optax", "State", "TwoGrid", "Wiener"]
