"""Priors of one strength: what each is made of, and that its strength means the same in every image."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import priors
from invprob.config import Config
from invprob.observation import Observation
from invprob.operators import Identity, StarletDetails
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.problem import build_problem
from invprob.posterior.problem import NUM_DRAWS
from invprob.recipes.registry import find_recipe
from tests.small import SHAPE, observation

KINDS = {
    "starlet": priors.StarletSparsity,
    "tv": priors.TotalVariation,
    "wavelet": priors.WaveletSparsity,
    "laplace": priors.Laplace,
    "points+starlet": priors.Product,
}


def uneven() -> Observation:
    """Varying noise and a mask."""
    rng = np.random.default_rng(3)
    one = observation(mask=rng.random(SHAPE) < 0.1)
    return replace(one, variance=np.exp(rng.normal(0, 0.5, SHAPE)))


@pytest.fixture(scope="module")
def problem():
    return build_problem(uneven(), Config.make())


@pytest.mark.parametrize("name", KINDS)
def test_kind_and_shape(name, problem):
    """Each is a prior of an image of the latent grid, or of two, and pays in proportion to its strength."""
    make = eqx.filter_jit(lambda strength: find_recipe(name).prior(problem, strength))
    weak, strong = (make(jnp.asarray(s)) for s in (1.0, 3.0))
    assert isinstance(weak, KINDS[name])
    shapes = [shape for shape, _ in weak.structure.leaves]
    assert shapes == [problem.shape] * (2 if name == "points+starlet" else 1)
    image = jax.random.normal(jax.random.key(1), problem.shape)
    x = {"diffuse": image, "points": image} if name == "points+starlet" else image
    zero = jax.tree.map(jnp.zeros_like, x)
    costs = [float(prior.log_prob(zero) - prior.log_prob(x)) for prior in (weak, strong)]
    assert costs[0] > 0 and costs[1] == pytest.approx(3 * costs[0], rel=1e-9)


def test_a_point_costs_less_as_a_point(problem):
    """A single bright pixel is cheaper among the points, a broad source in the diffuse light."""
    recipe = find_recipe("points+starlet")
    prior = eqx.filter_jit(lambda strength: recipe.prior(problem, strength))(jnp.asarray(1.0))
    y, x = (jnp.arange(n) - n // 2 for n in problem.shape)
    sources = {"point": 0.1, "broad": 3.0}
    cheaper = {}
    for name, width in sources.items():
        source = jnp.exp(-(y[:, None] ** 2 + x**2) / (2 * width**2))
        zero = jnp.zeros_like(source)
        costs = {
            "diffuse": -prior.log_prob({"diffuse": source, "points": zero}),
            "points": -prior.log_prob({"diffuse": zero, "points": source}),
        }
        cheaper[name] = min(costs, key=lambda part: float(costs[part]))
    assert cheaper == {"point": "points", "broad": "diffuse"}


@pytest.mark.parametrize("name", ["pixels", "starlet"])
def test_the_noise_of_the_score(name, problem):
    """Against the diagonal of W A.T N^-1 A W.T over the footprint, within the error of the draws."""
    shape = problem.shape
    W = Identity(shape) if name == "pixels" else StarletDetails(jnp.ones(4), shape, "wrap")
    like = problem.likelihood
    inside = tuple(slice(a, b) for a, b in zip(problem.footprint.starts, problem.footprint.stops, strict=True))

    def column(one):  # W A.T N^-1/2 of one datum
        return W.apply(like.operator.T(like.noise.inv_sqrt(one)))[(..., *inside)].reshape(-1, SHAPE[0] * SHAPE[1])

    size = SHAPE[0] * SHAPE[1]
    columns = np.asarray(jax.lax.map(column, jnp.eye(size).reshape(size, *SHAPE)))
    found = np.atleast_1d(problem.score_noise(W))
    assert found.shape == columns.shape[1:2]
    for plane, value in enumerate(found):
        quadratic = columns[:, plane] @ columns[:, plane].T / size  # the mean square is n.T quadratic n
        wanted = np.trace(quadratic)
        error = np.sqrt(2 * (quadratic**2).sum() / NUM_DRAWS)
        assert abs(value**2 - wanted) < 4 * error, plane
        if plane == 0:
            assert abs(2 * value**2 - wanted) > 4 * error  # what this test would notice


@pytest.mark.parametrize(("name", "rtol", "accuracy"), [("starlet", 3e-5, 2e-3), ("tv", 3e-4, 1e-7)])
def test_the_unit_of_the_data_does_not_matter(name, rtol, accuracy):
    """The strength is the same, and so the image; on the way to it ADMM takes other steps for the starlet."""
    one, unit = observation(), 1e-6
    config = Config.make(prior=name, rtol=rtol)
    found = deconvolve(one, config)
    scaled = deconvolve(replace(one, data=unit * one.data, variance=unit**2 * one.variance), config)
    assert found.status.ok and scaled.status.ok
    np.testing.assert_allclose(scaled.image / unit, found.image, rtol=0, atol=accuracy * found.image.max())
    assert scaled.report.prior_strength == found.report.prior_strength


def test_pure_noise_is_no_structure():
    """At the universal strength next to nothing of the noise is left in the starlet image; at a tenth much of it."""
    noise = np.random.default_rng(5).normal(0, 1, SHAPE)
    empty = replace(observation(), data=noise)
    spread = {
        factor: deconvolve(empty, Config.make(prior="starlet", strength=factor * find_recipe("starlet").strength)).image
        for factor in (1.0, 0.1)
    }
    assert np.std(spread[1.0]) < 0.1 and np.std(spread[0.1]) > 1.0, {k: np.std(v) for k, v in spread.items()}
