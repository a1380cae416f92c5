"""Contract tests for operators, covariances, priors, solvers and samplers: for this package and those who extend it.

Each function raises an `AssertionError` that says which check failed and by how much. Nothing here needs a
test runner. The tolerances are those of double precision; in single precision they are loosened to some
hundred roundings, so switch on ``jax_enable_x64`` to test with all the strictness there is.
"""

from invprob.testing.base import no_retrace
from invprob.testing.covariances import check_covariance
from invprob.testing.operators import check_operator
from invprob.testing.priors import check_prior
from invprob.testing.samplers import check_sampler
from invprob.testing.solvers import (
    check_solver,
    dense_map,
    dense_posterior,
    small_problem,
    sparse_map,
    sparse_problem,
)

__all__ = [
    "check_covariance",
    "check_operator",
    "check_prior",
    "check_sampler",
    "check_solver",
    "dense_map",
    "dense_posterior",
    "no_retrace",
    "small_problem",
    "sparse_map",
    "sparse_problem",
]
