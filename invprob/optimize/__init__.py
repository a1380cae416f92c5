"""The most probable image: `find_map`, its solvers, and how one is chosen."""

from invprob.optimize.choose import choose_solver
from invprob.optimize.find_map import Solution, as_solver, find_map, solve, solve_many
from invprob.optimize.solvers import (
    ADMM,
    AbstractSolver,
    ConjugateGradient,
    Metrics,
    NewtonCG,
    Optax,
    PlugAndPlay,
    PrimalDual,
    ProximalGradient,
    State,
    TwoGrid,
    Wiener,
)

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
    "Solution",
    "State",
    "TwoGrid",
    "Wiener",
    "as_solver",
    "choose_solver",
    "find_map",
    "solve",
    "solve_many",
]
