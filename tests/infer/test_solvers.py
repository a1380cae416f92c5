"""Every solver keeps the contract of solvers."""

import jax
import jax.numpy as jnp
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.infer.solvers import ConjugateGradient, Wiener
from invprob.posterior import Posterior
from invprob.testing import check_solver, small_problem

from ..cases import SOLVERS, kernel


def circulant_problem():
    """Periodic, evenly noisy and complete, as the Wiener filter needs it."""
    shape = (8, 9)
    operator = operators.CircularConvolve.from_kernel(kernel(), shape)
    prior = priors.GaussianField(shape, priors.PowerLaw(4.0, 0.1, 3.0))
    data = operator(prior.sample(jax.random.key(0))) + 0.3 * jax.random.normal(jax.random.key(1), shape)
    return Posterior(likelihoods.Gaussian(operator, data, Diagonal(jnp.full(shape, 0.09))), prior)


@pytest.mark.parametrize("name", SOLVERS)
def test_contract(name):
    make = SOLVERS[name][1]
    check_solver(make(), circulant_problem() if name == "wiener" else None)


def test_contract_notices_a_solver_that_stops_too_early():
    class Hasty(ConjugateGradient):
        def _metrics(self, problem, state, *args):
            metrics = super()._metrics(problem, state, *args)
            return jax.tree.map(lambda a: a, metrics.__class__(metrics.step, 0 * metrics.gap, metrics.code * 0 + 1))

    with pytest.raises(AssertionError, match="dense optimum"):
        check_solver(Hasty())


def test_wiener_refuses_what_it_does_not_solve():
    with pytest.raises(TypeError, match="circulant"):
        Wiener().prepare(small_problem())
