"""The p-value of data that were not seen: uniform where the model is right, small where it is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invprob import likelihoods, priors
from invprob.covariance import Stationary
from invprob.errors import CapabilityError
from invprob.evidence.predictive import predicted
from invprob.posterior import Posterior
from invprob.sampling.sample import sample
from invprob.sampling.samplers import PerturbationOptimization
from invprob.testing import small_problem

NUM_CASES, NUM_DRAWS = 60, 49


def drawn(post, key):
    return jax.tree.map(lambda a: jnp.asarray(a[0]), sample(post, key, NUM_DRAWS, PerturbationOptimization()).latents)


def world(key, noise=1.0):
    """A posterior whose data were simulated from it, with noise louder by a factor."""
    post = small_problem(side=8)
    like = post.likelihood
    first, second = jax.random.split(key)
    scatter = noise * jnp.sqrt(like.noise.variance) * jax.random.normal(second, like.data.shape)
    data = like.operator(post.prior.sample(first)) + scatter
    return Posterior(likelihoods.Gaussian(like.operator, data, like.noise, like.valid), post.prior)


def p_values(make):
    keys = jax.random.split(jax.random.key(0), NUM_CASES)
    return np.array([[p.chi2, p.structure] for p in (predicted(make(k), k, drawn) for k in keys)])


def test_it_is_uniform_where_the_model_is_right():
    for p in p_values(world).T:
        # of steps of 2 / 50, the upper end of each
        assert stats.kstest(p - 0.02, "uniform").pvalue > 1e-3


def test_it_is_small_where_the_noise_is_louder():
    assert (p_values(lambda key: world(key, noise=1.6))[:, 0] < 0.1).mean() > 0.5


def test_it_is_small_where_the_prior_makes_up_the_image():
    """A prior a hundred times too weak on an image of sources far brighter."""

    def wrong(key):
        post = world(key)
        narrow = priors.GaussianField(post.structure.shape, priors.PowerLaw(0.004, 0.1, 3.0))
        return eqx.tree_at(lambda p: p.prior, post, narrow)

    assert (p_values(wrong) < 0.1).mean(0).max() > 0.5


def test_what_it_needs():
    post = small_problem()
    like = post.likelihood
    noise = Stationary(jnp.ones((8, 5)), (8, 8))
    other = Posterior(likelihoods.Gaussian(like.operator, like.data, noise), post.prior)
    with pytest.raises(CapabilityError, match="Gaussian noise of independent data"):
        predicted(other, jax.random.key(0), drawn)
