"""The evidence against dense matrices, its gradients, and its maximum against a grid."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal, dense, dense_operator
from invprob.evidence import marginal as evidence
from invprob.evidence.marginal import is_stationary, log_evidence, maximize_evidence
from invprob.posterior import Posterior
from invprob.posterior.hierarchies import field_hierarchy
from tests.cases import mixture
from tests.problems import masked_problem, psf


def dense_log_evidence(post):
    """``log N(y; A m, A S A.T + N)`` of the valid data."""
    gaussian, like = post.prior.find(priors.HasPrecision), post.likelihood
    forward, signal = np.asarray(dense_operator(like.operator)), np.asarray(dense(gaussian.covariance))
    good = np.asarray(like.valid).ravel()
    variance = np.where(good, np.asarray(like.noise.variance).ravel(), 0)
    matrix = forward @ signal @ forward.T + np.diag(variance)
    u = np.ravel(like.data - like.operator(gaussian.mean))[good]
    matrix = matrix[np.ix_(good, good)]
    return scipy.stats.multivariate_normal.logpdf(u, np.zeros(u.size), (matrix + matrix.T) / 2)


def uneven(post):
    """The same posterior with an exposure that falls along the frame."""
    shape = post.likelihood.data.shape
    exposure = operators.Multiply(jnp.linspace(0.5, 1.5, shape[1])[None], shape)
    like = post.likelihood
    return Posterior(
        likelihoods.Gaussian(exposure @ like.operator, like.data, Diagonal(like.noise.variance), like.valid), post.prior
    )


@pytest.mark.parametrize("refine", [1, 2])
@pytest.mark.parametrize("sky", [False, True])
def test_log_evidence_is_the_dense_one(refine, sky):
    post = masked_problem(side=8, refine=refine, sky=sky)
    assert log_evidence(post) == pytest.approx(dense_log_evidence(post), rel=1e-9)
    other = uneven(post)
    assert log_evidence(other) == pytest.approx(dense_log_evidence(other), rel=1e-9)


@pytest.mark.parametrize("refine", [1, 2])
@pytest.mark.parametrize("sky", [False, True])
def test_what_treats_all_positions_alike(refine, sky):
    post = masked_problem(side=9, refine=refine, sky=sky)
    assert is_stationary(post.linear_gaussian())
    assert not is_stationary(uneven(post).linear_gaussian())


def test_what_has_no_evidence_says_so():
    post = masked_problem(side=6)
    mixed = Posterior(post.likelihood, priors.FromTFP(mixture(), post.structure.shape))
    with pytest.raises(TypeError, match="Gaussian prior only"):
        log_evidence(mixed)

    def build(theta):
        return uneven(post)

    start = {"a": jnp.asarray(0.0)}
    hierarchy = field_hierarchy(post.likelihood, post.structure.shape)
    changed = type(hierarchy)(build, start, start, start)
    with pytest.raises(TypeError, match="give the strength by hand"):
        maximize_evidence(changed)


def hierarchy_of(side, seed=0, sky=False, refine=1):
    post = masked_problem(seed, side=side, sky=sky, refine=refine, kernel=psf(2.5))
    others = {"sky": post.prior.parts["sky"]} if sky else None
    shape = post.prior.parts["image"].shape if sky else post.prior.shape
    return field_hierarchy(post.likelihood, shape, others)


@pytest.mark.parametrize("name", ["_Exact", "_Whittle"])
@pytest.mark.parametrize(("sky", "refine"), [(False, 1), (True, 2)])
def test_gradients_of_the_evidence(name, sky, refine):
    """Masked pixels hold NaN in data and variance."""
    hierarchy = hierarchy_of(8, sky=sky, refine=refine)
    system = hierarchy.build(hierarchy.start).linear_gaussian()
    objective = getattr(evidence, name)(hierarchy, system)
    t = np.asarray(jax.flatten_util.ravel_pytree(hierarchy.start)[0]) + np.array([0.3, -0.2, 0.1])
    value, gradient = objective(t)
    assert np.isfinite(value)
    for i, e in enumerate(np.eye(3)):
        difference = (objective(t + 1e-4 * e)[0] - objective(t - 1e-4 * e)[0]) / 2e-4
        assert gradient[i] == pytest.approx(difference, rel=1e-5, abs=1e-5)


def test_the_exact_objective_is_the_log_evidence():
    hierarchy = hierarchy_of(8, sky=True)
    objective = evidence._Exact(hierarchy, hierarchy.build(hierarchy.start).linear_gaussian())
    t, unravel = jax.flatten_util.ravel_pytree(hierarchy.start)
    assert objective(np.asarray(t))[0] == pytest.approx(dense_log_evidence(hierarchy.build(unravel(t))), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_maximum_is_that_of_a_grid(seed):
    hierarchy = hierarchy_of(16, seed)
    found = maximize_evidence(hierarchy)
    assert found.method == "exact"
    post = hierarchy.build(found.theta)
    assert found.log_evidence == pytest.approx(log_evidence(post), rel=1e-9)
    assert float(hierarchy.log_hyperprior(found.theta)) == 0
    objective = evidence._Exact(hierarchy, hierarchy.build(hierarchy.start).linear_gaussian())
    start = hierarchy.start["log_amplitude"]
    axes = (
        np.linspace(start - 4, start + 6, 11),
        np.linspace(hierarchy.lower["log_scale"], hierarchy.upper["log_scale"], 8),
        np.linspace(hierarchy.lower["log_slope"], hierarchy.upper["log_slope"], 6),
    )
    best = max(objective(np.array(t))[0] for t in itertools.product(*axes))
    assert best - 0.5 < found.log_evidence
    assert found.log_evidence < best + 20  # the grid is coarse, but it reaches there


def test_whittle_is_near_the_exact_maximum():
    """On few data it is a rough guide only: it is meant for frames beyond the exact limit."""
    hierarchy = hierarchy_of(24, 2)
    exact, whittle = maximize_evidence(hierarchy), maximize_evidence(hierarchy, exact_limit=10)
    assert (exact.method, whittle.method) == ("exact", "whittle")
    assert log_evidence(hierarchy.build(whittle.theta)) > exact.log_evidence - 15


def test_the_hyperprior_is_flat_between_its_bounds():
    hierarchy = hierarchy_of(8)
    assert float(hierarchy.log_hyperprior(hierarchy.start)) == 0
    outside = {**hierarchy.start, "log_slope": jnp.asarray(10.0)}
    assert float(hierarchy.log_hyperprior(outside)) == -np.inf


@pytest.mark.parametrize("without_mean", [False, True])
def test_the_expected_periodogram_is_that_of_simulated_data(without_mean):
    """With a mask, a taper and a red spectrum; a control with the mean left out of the expectation fails."""
    rng = np.random.default_rng(1)
    ny, nx, number = 12, 14, 4000
    power = priors.GaussianField((24, 28), priors.PowerLaw(50.0, 0.03, 4.0))
    crop = operators.Crop((24, 28), (slice(4, 4 + ny), slice(5, 5 + nx)))
    post = Posterior(likelihoods.Gaussian(crop, jnp.zeros((ny, nx)), jnp.full((ny, nx), 0.3)), power)
    table = evidence.lag_covariance(post.linear_gaussian())
    window = evidence._taper((ny, nx)) * (rng.random((ny, nx)) > 0.2)
    variance = jnp.asarray(np.where(window > 0, rng.uniform(0.2, 1.0, (ny, nx)), 0))
    fields = jax.vmap(lambda key: crop(power.sample(key)))(jax.random.split(jax.random.key(0), number))
    y = np.asarray(fields) + np.sqrt(variance) * rng.standard_normal((number, ny, nx))
    if without_mean:
        y = y - (window * y).sum((1, 2), keepdims=True) / window.sum()
    found = (np.abs(np.fft.rfft2(window * y)) ** 2).mean(0)

    def worst(flag):
        pairs = evidence._autocorrelation(window)
        expected = evidence.expected_periodogram(table, variance, jnp.asarray(window), pairs, without_mean=flag)
        keep = np.ones_like(found, bool)
        keep[0, 0] = not without_mean
        # a mode's power is exponential, at most a chi-square of one degree of freedom
        return np.abs((found / np.asarray(expected) - 1)[keep]).max() * np.sqrt(number / 2)

    assert worst(without_mean) < 5
    assert worst(not without_mean) > 5


def test_a_level_does_not_hide_an_operator_that_is_not_stationary():
    shape = (12, 12)
    slope = operators.Multiply(jnp.linspace(0.2, 2.0, 12)[None] * jnp.ones(shape))
    image = slope @ operators.CircularConvolve.from_kernel(psf(), shape)
    each = operators.BlockDiagonal({"image": image, "sky": operators.Broadcast(shape)})
    prior = priors.Product(
        {"image": priors.GaussianField(shape, priors.PowerLaw(4.0, 0.1, 3.0)), "sky": priors.wide_gaussian(0.0, 1e3)}
    )
    forward = operators.Sum(each.out_structure) @ each
    post = Posterior(likelihoods.Gaussian(forward, jnp.zeros(shape), jnp.ones(shape)), prior)
    assert not evidence.is_stationary(post.linear_gaussian())
