"""Every sampler of Gaussian posteriors beside the dense answer, at sizes at which border and mask show."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.infer.mixing import mean_ess
from invprob.infer.sample import sample
from invprob.infer.samplers import HMC, NUTS, Conditioned, Langevin, Messenger, Perturbed, ScaleMixture
from invprob.infer.solvers import TwoGrid
from invprob.posterior import Hierarchy
from invprob.testing import dense_posterior

from .problems import masked_problem, psf

SAMPLERS = {
    "perturbed": (Perturbed(), 10_000),
    "conditioned": (Conditioned(TwoGrid((24, 24), rtol=1e-7)), 10_000),
    "gibbs": (ScaleMixture(), 10_000),
    "hmc": (HMC(), 12_000),
    "nuts": (NUTS(), 6_000),
    "langevin": (Langevin(), 20_000),
    "messenger": (Messenger(num_moves=1), 6_000),
}


def posterior(side):
    """A fifth masked, noise that varies, a PSF of five pixels."""
    return masked_problem(side=side, amplitude=20.0, kernel=psf(5.0, 11))


def compared(post, sampler, number):
    """Standard deviation over the dense one, and the mean's error in Monte-Carlo standard errors, of each pixel."""
    zero = jnp.zeros(())
    target = Hierarchy(lambda theta: post, zero, zero - 1, zero + 1) if sampler.takes is Hierarchy else post
    found = sample(target, jax.random.key(0), number, sampler)
    latents = found.latents["x"] if isinstance(target, Hierarchy) else found.latents
    draws = np.asarray(latents, float).reshape(*latents.shape[:2], -1)
    mean, covariance = dense_posterior(post)
    sd = np.sqrt(np.diag(covariance))
    pull = (draws.mean((0, 1)) - np.ravel(mean)) / sd * np.sqrt(mean_ess(draws))
    return draws.std((0, 1)) / sd, pull


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("name", SAMPLERS)
def test_mean_and_standard_deviation(name, side):
    post = posterior(side)
    ratio, pull = compared(post, *SAMPLERS[name])
    assert abs(ratio.mean() - 1) < 0.02
    assert np.abs(ratio - 1).max() < 0.1
    assert np.abs(pull).max() < 5


@pytest.mark.slow
def test_the_comparison_notices_a_wrong_noise_level():
    post = posterior(16)
    louder = eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: 1.3 * v)
    number = 10_000
    draws = np.asarray(sample(louder, jax.random.key(0), number, Perturbed()).latents, float).reshape(number, -1)
    sd = np.sqrt(np.diag(dense_posterior(post)[1]))
    assert abs((draws.std(0) / sd).mean() - 1) > 0.02
