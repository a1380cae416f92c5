"""Every sampler of Gaussian posteriors beside the dense answer, at sizes at which border and mask show."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.covariance import dense
from invprob.diagnostics.rank_statistics import mean_ess
from invprob.optimize.solvers import TwoGrid
from invprob.posterior import Hierarchy
from invprob.priors import HasPrecision
from invprob.sampling.sample import sample
from invprob.sampling.samplers import (
    HMC,
    NUTS,
    ConstrainedRealization,
    Langevin,
    Messenger,
    PerturbationOptimization,
    ScaleMixture,
    Split,
)
from invprob.testing import dense_posterior
from tests.problems import learned_problem, masked_problem, psf

SAMPLERS = {
    "perturbed": (PerturbationOptimization(), 10_000),
    "conditioned": (ConstrainedRealization(TwoGrid((24, 24), rtol=1e-7)), 10_000),
    "gibbs": (ScaleMixture(), 10_000),
    "hmc": (HMC(), 12_000),
    "nuts": (NUTS(), 6_000),
    "langevin": (Langevin(), 20_000),
    "messenger": (Messenger(num_moves=1), 6_000),
}


def posterior(side):
    """A fifth masked, noise that varies, a PSF of five pixels."""
    return masked_problem(side=side, amplitude=20.0, kernel=psf(5.0, 11))


def ratios(post, exact, draws):
    """Standard deviation of draws over the dense one, of the pixels and of the directions that the data decide.

    A direction is one in which the dense posterior and the prior are diagonal at once; the data decide it where the
    posterior has less than half of the prior's variance. Most pixels owe most of their width to the prior, and would
    not show a noise level that is wrong.
    """
    mean, covariance = exact
    values, vectors = np.linalg.eigh(np.asarray(dense(post.prior.find(HasPrecision).covariance)))
    to_white = vectors / np.sqrt(values)
    parts, directions = np.linalg.eigh(to_white.T @ covariance @ to_white)
    informed = parts < 0.5
    assert informed.sum() > 20
    away = draws - np.ravel(mean)
    along = away @ (to_white @ directions[:, informed])
    return away.std((0, 1)) / np.sqrt(np.diag(covariance)), along.std((0, 1)) / np.sqrt(parts[informed])


def compared(post, sampler, number, gaussian=None):
    """The ratios, and the mean's error in Monte-Carlo standard errors of each pixel.

    ``gaussian`` is the same posterior with a prior that is known to be Gaussian, where that of ``post`` is not.
    """
    gaussian = post if gaussian is None else gaussian
    zero = jnp.zeros(())
    target = Hierarchy(lambda theta: post, zero, zero - 1, zero + 1) if sampler.takes is Hierarchy else post
    found = sample(target, jax.random.key(0), number, sampler)
    latents = found.latents["x"] if isinstance(target, Hierarchy) else found.latents
    draws = np.asarray(latents, float).reshape(*latents.shape[:2], -1)
    mean, covariance = exact = dense_posterior(gaussian)
    sd = np.sqrt(np.diag(covariance))
    pull = (draws.mean((0, 1)) - np.ravel(mean)) / sd * np.sqrt(mean_ess(draws))
    return *ratios(gaussian, exact, draws), pull


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("name", SAMPLERS)
def test_mean_and_standard_deviation(name, side):
    close(*compared(posterior(side), *SAMPLERS[name]))


@pytest.mark.slow
def test_an_untrained_denoiser_gives_the_gaussian_posterior():
    """Through the denoiser alone: draws of the split sampler with border, mask and varying noise.

    In the border, which no datum sees whole, a chain forgets in hundreds of sweeps, too slowly for the spread of each
    pixel.
    """
    post, gaussian = learned_problem(side=16)
    pixels, directions, pull = compared(post, Split(num_warmup=200, steps=4), 20_000, gaussian)
    assert abs(pixels.mean() - 1) < 0.02
    close(pixels.reshape(post.structure.shape)[3:-3, 3:-3], directions, pull)


def close(pixels, directions, pull):
    """Standard deviations within 2 % on average and the mean within what the number of draws leaves."""
    for ratio in (pixels, directions):
        assert abs(ratio.mean() - 1) < 0.02, ratio.mean()
        assert np.abs(ratio - 1).max() < 0.1, ratio
    assert np.abs(pull).max() < 5


@pytest.mark.slow
def test_the_comparison_notices_a_wrong_noise_level():
    post = posterior(16)
    louder = eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: 1.3 * v)
    draws = np.asarray(sample(louder, jax.random.key(0), 10_000, PerturbationOptimization()).latents, float)
    _, ratio = ratios(post, dense_posterior(post), draws.reshape(*draws.shape[:2], -1))
    assert ratio.mean() > 1.05
