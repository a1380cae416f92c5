"""Posteriors with sparse priors that the tests of their solvers share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.optimize.find_map import find_map
from invprob.posterior import Posterior
from invprob.testing import sparse_problem
from tests.problems import psf

SHAPE = (10, 10)

PRIORS = {
    "total variation, positive": lambda: priors.Positive(priors.TotalVariation(SHAPE, 2.0)),
    "total variation, along the axes": lambda: priors.TotalVariation(SHAPE, 2.0, isotropic=False),
    "starlet": lambda: priors.StarletSparsity(SHAPE, 2.0, 2),
    "starlet, periodic and positive": lambda: priors.Positive(priors.StarletSparsity(SHAPE, 2.0, 2, mode="wrap")),
    "wavelet": lambda: priors.WaveletSparsity(SHAPE, 2.0, "haar", 2),
    "wavelet, positive": lambda: priors.Positive(priors.WaveletSparsity(SHAPE, 2.0, "haar", 2)),
    "Laplace": lambda: priors.Laplace(0.5, SHAPE),
    "Laplace, positive": lambda: priors.Positive(priors.Laplace(0.5, SHAPE)),
    "exponential": lambda: priors.Exponential(0.5, SHAPE),
}


def small(name):
    """A small posterior under a prior of the list."""
    return sparse_problem(PRIORS[name]())


def points_and_diffuse():
    """Sparse positive points on a smooth positive image."""
    one = small("exponential")
    both = operators.Sum({"diffuse": SHAPE, "points": SHAPE})
    diffuse = priors.Positive(priors.TotalVariation(SHAPE, 2.0))
    prior = priors.Product({"diffuse": diffuse, "points": priors.Exponential(0.4, SHAPE)})
    like = one.likelihood
    return Posterior(likelihoods.Gaussian(like.operator @ both, like.data, like.noise), prior)


def with_sky():
    """An image and a sky level."""
    one = small("total variation, positive")
    each = operators.BlockDiagonal({"image": one.likelihood.operator, "sky": operators.Broadcast((8, 8))})
    like, forward = one.likelihood, operators.Sum(each.out_structure) @ each
    prior = priors.Product({"image": one.prior, "sky": priors.wide_gaussian(4.0, 1.0)})
    return Posterior(likelihoods.Gaussian(forward, like.data + 5.0, like.noise), prior)


def binned():
    """Blocks of two by two, of which a fifth is masked."""
    grid = (16, 16)
    forward = operators.PixelBin(2, (12, 12)) @ operators.Convolve(psf(), grid)
    keys = jax.random.split(jax.random.key(5), 3)
    truth = jnp.where(jax.random.uniform(keys[0], grid) > 0.95, 20.0, 1.0)
    data = forward(truth) + 0.5 * jax.random.normal(keys[1], (6, 6))
    valid = jax.random.uniform(keys[2], (6, 6)) > 0.2
    noise = Diagonal(jnp.full((6, 6), 0.25))
    prior = priors.Positive(priors.TotalVariation(grid, 0.5))
    return Posterior(likelihoods.Gaussian(forward, data, noise, valid), prior)


PROBLEMS = {
    **{name: lambda name=name: small(name) for name in PRIORS},
    "points and diffuse": points_and_diffuse,
    "sky": with_sky,
    "binned": binned,
}


def cases(names, *fast):
    """Parameters of a test, those not named marked as slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def in_single_precision(post):
    """The posterior with all arrays in single precision."""

    def single(a):
        kinds = {jnp.dtype("float64"): jnp.float32, jnp.dtype("complex128"): jnp.complex64}
        return a.astype(kinds.get(a.dtype, a.dtype))

    return jax.tree.map(single, post)


def in_units(post, unit):
    """The same posterior with data, noise and image in another unit, for `total variation, positive`."""
    like = post.likelihood
    noise = Diagonal(like.noise.variance * unit**2, like.noise.valid)
    prior = priors.Positive(priors.TotalVariation(SHAPE, 2.0 / unit))
    return Posterior(likelihoods.Gaussian(like.operator, like.data * unit, noise), prior)


def objective_gap(post, x, best):
    """How far the objective of x is above that of another point, relative to half the number of data."""
    return float(post.log_prob(best) - post.log_prob(x)) / (0.5 * float(post.likelihood.num_data))


def same_optimum(post, solver, other, max_steps=20000):
    """Largest difference of the objectives that two solvers find, both of which have to converge."""
    estimates = [find_map(post, s, max_steps=max_steps) for s in (solver, other)]
    assert all(e.status.ok for e in estimates), [(e.status, e.report) for e in estimates]
    return np.abs(objective_gap(post, estimates[0].x, estimates[1].x))
