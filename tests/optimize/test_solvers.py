"""Every solver keeps the contract of solvers."""

import jax
import jax.numpy as jnp
import pytest

from invprob.optimize.find_map import find_map
from invprob.optimize.solvers import ConjugateGradient, PlugAndPlay, Wiener
from invprob.posterior import Posterior
from invprob.priors import DenoiserPrior
from invprob.testing import check_solver, small_problem
from tests.cases import SOLVERS
from tests.problems import learned_problem, masked_problem, periodic_problem, psf

PROBLEMS = {
    "wiener": periodic_problem,
    "twogrid": lambda: masked_problem(side=24, kernel=psf(6.0, 13)),
}


LEARNED = "plugplay"


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != LEARNED])
def test_contract(name):
    make = SOLVERS[name][1]
    check_solver(make(), PROBLEMS[name]() if name in PROBLEMS else None)


def test_contract_of_a_learned_prior():
    post, gaussian = learned_problem(side=6)
    check_solver(SOLVERS[LEARNED][1](), post, reference=gaussian)


STRIPES = jnp.asarray([1.0, -1.0] * 6)


class Lopsided(DenoiserPrior):
    """A denoiser with an error that has either sign, by the view."""

    def denoise_coloured(self, x, noise, key=None):
        assert key is not None
        return super().denoise_coloured(x, noise) + jax.random.rademacher(key, (), x.dtype) * STRIPES


class OneSided(DenoiserPrior):
    """The same in one view only."""

    def denoise_coloured(self, x, noise, key=None):
        return super().denoise_coloured(x, noise) + STRIPES


def test_the_best_image_is_a_mean_over_views():
    post, gaussian = learned_problem(side=6)
    exact = find_map(gaussian).x

    def away(kind):
        prior = kind(post.prior.denoiser, post.prior.shape)
        found = find_map(Posterior(post.likelihood, prior), PlugAndPlay(rtol=2e-3))
        return float(jnp.sqrt(jnp.mean((found.x - exact) ** 2)))

    assert away(DenoiserPrior) < 0.1
    assert away(Lopsided) < 0.1
    assert away(OneSided) > 0.5


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
