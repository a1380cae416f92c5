"""Langevin dynamics of a score: against what is known, and honest about being approximate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, priors
from invprob.diagnostics.rank_statistics import mean_ess
from invprob.errors import CapabilityError, UsageError
from invprob.operators import Identity
from invprob.operators.base import Structure
from invprob.posterior import Posterior
from invprob.priors.capabilities import AbstractPrior, HasScore
from invprob.sampling.coordinates import score_precisions
from invprob.sampling.sample import sample
from invprob.sampling.samplers import Langevin
from invprob.testing import small_problem
from invprob.testing.samplers import off_by


class ScoreOnly(HasScore):
    """The score of another prior, and nothing else of it."""

    prior: AbstractPrior

    @property
    def structure(self):
        return self.prior.structure

    def score(self, x):
        return self.prior.score(x)


class Quartic(HasScore):
    """``p(x) ∝ exp(-sum x^4 / 4)``, by its score."""

    shape: tuple[int, int] = eqx.field(static=True)

    @property
    def structure(self):
        return Structure(self.shape)

    def score(self, x):
        return -(x**3)


def test_a_gaussian_known_by_its_score():
    post = small_problem(side=6)
    found = sample(Posterior(post.likelihood, ScoreOnly(post.prior)), jax.random.key(0), 3000)
    assert found.solver == "langevin" and "approximate" in found.bias
    assert max(off_by(post, found).values()) < 5
    louder = eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: 1.3 * v)
    assert off_by(louder, found)["energy"] > 5


def test_the_curvature_of_a_score_is_that_of_the_prior():
    prior = priors.GaussianField((24, 24), priors.PowerLaw(4.0, 0.2, 2.0))
    found = score_precisions(ScoreOnly(prior), jnp.zeros((24, 24)))
    ratio = np.asarray(found * prior.covariance.power)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1) and ratio.min() > 0.3 and ratio.max() < 3


def test_a_density_that_is_not_gaussian():
    """Against quadrature of ``exp(-x^4 / 4 - x^2 / 8)``, from starts where it is a hundred times as steep."""
    shape = (16, 16)
    post = Posterior(likelihoods.Gaussian(Identity(shape), jnp.zeros(shape), jnp.full(shape, 4.0)), Quartic(shape))
    found = sample(post, jax.random.key(0), 1200, Langevin(num_warmup=100))
    squares = np.mean(np.asarray(found.latents, float) ** 2, axis=(2, 3))[..., None]
    error = squares.std() / np.sqrt(mean_ess(squares)[0])
    axis = np.linspace(-6, 6, 4001)

    def expected(steepness):
        weight = np.exp(-steepness * axis**4 / 4 - axis**2 / 8)
        return (weight @ axis**2) / weight.sum()

    assert abs(squares.mean() - expected(1.0)) < 5 * error
    assert abs(squares.mean() - expected(1.3)) > 10 * error


def test_refusals():
    class Nothing(AbstractPrior):
        @property
        def structure(self):
            return Structure((6, 6))

    post = small_problem(side=6)
    like = likelihoods.Gaussian(Identity((6, 6)), jnp.zeros((6, 6)), jnp.ones((6, 6)))
    with pytest.raises(CapabilityError, match="a sampler needs at least HasScore"):
        sample(Posterior(like, Nothing()), jax.random.key(0))
    with pytest.raises(UsageError, match="between 0 and 1"):
        Langevin(step_length=1.5)
    with pytest.raises(CapabilityError, match="takes a Hierarchy"):
        sample(post, jax.random.key(0), 100, "messenger")
