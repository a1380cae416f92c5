"""Hyperparameters sampled with the image: against quadrature of the exact evidence, resumed, and refused."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from invprob import likelihoods, priors
from invprob.covariance import Stationary, dense_operator
from invprob.diagnostics.rank_statistics import mean_ess
from invprob.errors import CapabilityError, UsageError
from invprob.operators.base import zeros
from invprob.operators.convolve import dilated_transfer_function, transfer_function
from invprob.posterior import Hierarchy, Posterior
from invprob.posterior.hierarchies import with_noise_scale, with_psf_width
from invprob.sampling.sample import sample
from invprob.sampling.samplers import Messenger
from tests.optimize.sparse import cases
from tests.problems import masked_problem, psf

SIDE, KERNEL = 6, 3


class Spectrum(eqx.Module):
    """The amplitude of the field of `masked_problem`."""

    likelihood: likelihoods.Gaussian
    grid: tuple[int, int] = eqx.field(static=True)

    def __call__(self, theta):
        power = priors.PowerLaw(jnp.exp(theta["log_amplitude"]), 0.1, 3.0)
        return Posterior(self.likelihood, priors.GaussianField(self.grid, power))


class Louder(eqx.Module):
    """A hierarchy whose noise variance is wrong by a factor; one program for all factors."""

    build: Callable
    factor: Array

    def __call__(self, theta):
        post = self.build(theta)
        return eqx.tree_at(lambda p: p.likelihood.noise.variance, post, self.factor * post.likelihood.noise.variance)


class Amplitude(eqx.Module):
    """The amplitude of the field of `masked_problem`, with its sky level."""

    post: Posterior

    def __call__(self, theta):
        louder = jnp.exp(theta["log_amplitude"])
        return eqx.tree_at(lambda p: p.prior.parts["image"].power.amplitude, self.post, louder)


def flat(start, half):
    """Bounds around a dictionary of numbers."""
    start = {name: jnp.asarray(value) for name, value in start.items()}
    return start, *({name: value + sign * half for name, value in start.items()} for sign in (-1, 1))


def with_sky():
    base = masked_problem(side=SIDE, kernel=psf(2.5, KERNEL), sky=True)
    return Hierarchy(Amplitude(base), *flat({"log_amplitude": 1.0}, 4.0))


def with_noise():
    base = masked_problem(seed=3, side=SIDE, kernel=psf(2.5, KERNEL), sky=True, refine=2)
    return with_noise_scale(Hierarchy(Amplitude(base), *flat({"log_amplitude": 1.0}, 3.0)), 2.0)


def with_seeing():
    kernel = psf(2.5, KERNEL)
    post = masked_problem(seed=1, side=SIDE, kernel=kernel, amplitude=50.0)
    spectrum = Spectrum(post.likelihood, post.structure.shape)
    return with_psf_width(Hierarchy(spectrum, *flat({"log_amplitude": 4.0}, 1.0)), kernel, 0.3)


HIERARCHIES = {"sky": with_sky, "noise, refined": with_noise, "seeing": with_seeing}


def dense(post):
    """Log-evidence, posterior mean and posterior variance with matrices."""
    system = post.linear_gaussian()
    seen, valid = dense_operator(system.operator), np.ravel(system.noise.valid)
    seen, data = jnp.where(valid[:, None], seen, 0), jnp.ravel(system.centred) * valid
    prior = dense_operator(system.covariance.operator)
    matrix = seen @ prior @ seen.T + jnp.diag(jnp.where(valid, jnp.ravel(system.noise.variance), 1))
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    evidence = -0.5 * data @ jax.scipy.linalg.cho_solve(factor, data) - jnp.sum(jnp.log(jnp.diag(factor[0])))
    gain = jax.scipy.linalg.cho_solve(factor, seen @ prior).T
    mean = ravel_pytree(zeros(system.operator.in_structure, float) if system.mean is None else system.mean)[0]
    return evidence, mean + gain @ data, jnp.diag(prior) - jnp.sum(gain * (prior @ seen.T), 1)


def by_quadrature(hierarchy, number):
    """Points of a grid of theta, their posterior probabilities, and mean and variance of x, theta integrated out."""
    names = list(hierarchy.start)
    axes = [np.linspace(float(hierarchy.lower[n]), float(hierarchy.upper[n]), 2 * number + 1)[1::2] for n in names]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(names))

    @jax.jit
    def each(points):
        return jax.lax.map(lambda p: dense(hierarchy.build(dict(zip(names, p, strict=True)))), points)

    value, mean, variance = (np.asarray(a) for a in each(jnp.asarray(grid)))
    weight = np.exp(value - value.max())
    weight /= weight.sum()
    return grid, weight, weight @ mean, weight @ (mean**2 + variance) - (weight @ mean) ** 2


def sigmas(draws, expected):
    """Deviation of the mean of draws ``(chain, draw, k)`` in Monte-Carlo errors."""
    error = draws.std((0, 1)) / np.sqrt(mean_ess(draws))
    return np.abs(draws.mean((0, 1)) - expected) / error


def drawn(hierarchy, factor):
    """Draws of theta and of the image, ``(chain, draw, k)``, with a wrong noise variance."""
    hierarchy = eqx.tree_at(lambda h: h.build, hierarchy, Louder(hierarchy.build, jnp.asarray(factor)))
    found = sample(hierarchy, jax.random.key(0), 2400, Messenger(num_moves=20)).latents
    theta = np.stack([found["theta"][n] for n in hierarchy.start], -1)
    x = [np.reshape(a, (*theta.shape[:2], -1)) for a in jax.tree.leaves(found["x"])]
    return theta, np.concatenate(x, -1)


@pytest.mark.parametrize("name", cases(HIERARCHIES, "seeing"))
def test_against_quadrature(name):
    hierarchy = HIERARCHIES[name]()
    grid, weight, mean, variance = by_quadrature(hierarchy, 60 if len(hierarchy.start) == 1 else 20)
    by_chance = np.sqrt(2 * np.log(len(mean)))

    def off(theta, x):
        of_theta = [sigmas(theta**power, weight @ grid**power).max() for power in (1, 2)]
        return [*of_theta, *(sigmas(a, b).max() - by_chance for a, b in ((x, mean), ((x - mean) ** 2, variance)))]

    assert max(off(*drawn(hierarchy, 1.0))) < 5
    # where the noise is sampled too, it makes up for an error of its scale
    factor = 4.0 if "log_noise" in hierarchy.start else 2.0
    assert max(off(*drawn(hierarchy, factor))) > 5, f"the check does not notice a noise variance wrong by {factor}"


def test_a_wider_psf():
    """The same as the PSF where the factor is one, and a Gaussian of the right width elsewhere."""
    kernel, grid = psf(4.0, 27), (32, 31)
    at_one = dilated_transfer_function(kernel, grid, 1.0)
    np.testing.assert_allclose(at_one, transfer_function(kernel, grid), atol=1e-12)
    wider = dilated_transfer_function(kernel, grid, jnp.asarray(1.2))
    np.testing.assert_allclose(wider, transfer_function(psf(4.8, 31), grid), atol=1e-3)
    assert float(jnp.real(wider[0, 0])) == pytest.approx(1.0)


def test_refusals():
    post = masked_problem(side=SIDE, kernel=psf(2.5, KERNEL))
    plain = Hierarchy(Spectrum(post.likelihood, post.structure.shape), *flat({"log_amplitude": 1.0}, 1.0))
    with pytest.raises(UsageError, match=r"at most 0\.5"):
        with_psf_width(plain, psf(), 0.7)
    with pytest.raises(UsageError, match="above one"):
        with_noise_scale(plain, 0.5)
    correlated = likelihoods.Gaussian(
        post.likelihood.operator, post.likelihood.data, Stationary(jnp.ones((SIDE, 4)), (SIDE, SIDE))
    )
    nowhere = Hierarchy(Spectrum(correlated, post.structure.shape), plain.start, plain.lower, plain.upper)
    with pytest.raises(CapabilityError, match="Diagonal"):
        with_noise_scale(nowhere)
    with pytest.raises(CapabilityError, match="no sampler for this hierarchy"):
        sample(nowhere, jax.random.key(0), 100)
    with pytest.raises(CapabilityError, match="takes a Posterior, not a Hierarchy"):
        sample(plain, jax.random.key(0), 100, "gibbs")
