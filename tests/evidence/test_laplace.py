"""The Laplace approximation against dense posteriors, its own formula, and what it refuses."""

import importlib
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_probability.substrates.jax.distributions as tfd

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.errors import CapabilityError, UsageError
from invprob.evidence.laplace import laplace
from invprob.evidence.marginal import log_evidence
from invprob.operators.base import Structure
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasLogProb
from invprob.results import Status
from invprob.testing import dense_posterior
from invprob.variational.lanczos import inverse_root
from tests.problems import largest_error, masked_problem
from tests.variational.test_variational import one_pixel, quadrature

module = importlib.import_module("invprob.evidence.laplace")
KEY = jax.random.key(0)


def seen(prior, y=0.8, sigma=0.5):
    """Each pixel of a prior seen as y."""
    shape = prior.structure.shape
    like = likelihoods.Gaussian(operators.Identity(shape), jnp.full(shape, y), jnp.full(shape, sigma**2))
    return Posterior(like, prior)


class Cauchy(HasLogProb):
    """Smooth, with heavy tails, and no transform from white noise."""

    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = True

    @property
    def structure(self):
        return Structure(self.shape)

    def log_prob(self, x):
        return -jnp.sum(jnp.log1p(x**2) + jnp.log(jnp.pi))


def test_of_a_linear_gaussian_posterior_it_is_exact():
    """The evidence as well; and by quadrature with few probes within its errors."""
    post = masked_problem(side=8, sky=True)
    mean, covariance = dense_posterior(post)
    found = laplace(post, KEY)
    assert found.log_evidence == pytest.approx(log_evidence(post), abs=1e-6) and found.log_evidence_error == 0
    assert largest_error(found.x, mean) < 1e-5
    ratio = np.append(found.latent_std["image"], found.latent_std["sky"]) / np.sqrt(np.diag(covariance))
    assert abs(ratio.mean() - 1) < 0.02 and np.abs(ratio - 1).max() < 5 * found.std_error
    assert found.std_error == pytest.approx(1 / np.sqrt(2000))
    assert found.reliable and found.status is Status.CONVERGED and found.normalized
    rough = laplace(post, KEY, num_probes=2, num_samples=50)
    assert 0 < rough.log_evidence_error < 10
    assert abs(rough.log_evidence - found.log_evidence) < 8 * rough.log_evidence_error  # of two probes


def test_the_formula_of_a_log_normal_pixel():
    """``log p(data, xi*) + log 2 pi / 2 - log(M) / 2`` in white coordinates, and how near that is."""
    post = one_pixel(sigma=0.1)
    found = laplace(post, KEY)
    white = post.whiten()
    xi = jnp.log(found.x) / jnp.sqrt(0.5)
    assert np.abs(jax.grad(white.log_prob)(xi)).max() < 1e-4
    metric = 1 + 0.5 * float(found.x[0, 0]) ** 2 / 0.1**2
    expected = float(white.log_prob(xi)) + 0.5 * np.log(2 * np.pi) - 0.5 * np.log(metric)
    assert found.log_evidence == pytest.approx(expected, abs=1e-8)
    exact, mean, std = quadrature(post)
    assert found.log_evidence == pytest.approx(exact, abs=0.01)
    np.testing.assert_allclose(found.std, std, rtol=0.01 + 4 * found.std_error)
    np.testing.assert_allclose(found.x, mean, atol=0.1 * std)


def test_where_the_gaussian_does_not_fit_khat_says_so():
    found = laplace(one_pixel(0.2, 0.5), KEY)
    assert found.khat > found.threshold and found.status is Status.NOT_RELIABLE
    assert "k-hat" in found.failures[0] and "does not fit" in found.status.value


def test_a_smooth_density_of_x_has_its_own_hessian():
    post = seen(Cauchy((1, 2)))
    found = laplace(post, KEY, num_samples=2000)
    assert np.abs(jax.grad(post.log_prob)(jnp.asarray(found.x))).max() < 1e-3
    x, grid = found.x, np.linspace(-20, 20, 20001)
    curvature = 2 * (1 - x**2) / (1 + x**2) ** 2 + 1 / 0.5**2
    expected = float(post.log_prob(x)) + np.log(2 * np.pi) - 0.5 * np.log(curvature).sum()
    assert found.log_evidence == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(found.std, 1 / np.sqrt(curvature), rtol=4 * found.std_error)
    density = np.exp(-0.5 * ((0.8 - grid) / 0.5) ** 2) / np.sqrt(2 * np.pi * 0.5**2) / (np.pi * (1 + grid**2))
    exact = 2 * np.log(np.trapezoid(density, grid))
    assert found.log_evidence == pytest.approx(exact, abs=0.1)


def test_the_inverse_root_is_that_of_the_matrix():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    values = np.geomspace(1, 50, 30)
    matrix, v = jnp.asarray(vectors * values @ vectors.T), jnp.asarray(rng.normal(size=30))
    exact = vectors / np.sqrt(values) @ vectors.T @ v
    root = jax.jit(lambda v, steps: inverse_root(lambda a: matrix @ a, v, steps), static_argnums=1)
    for steps, worst in ((30, 1e-9), (12, 1e-2)):
        found, change = root(v, steps)
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert error < worst and error < change + 1e-12
    assert change > 1e-3 and error > 1e-4  # few steps are not enough, and that is told


SHAPE = (4, 4)


@pytest.mark.parametrize(
    "prior",
    [
        priors.TotalVariation(SHAPE, 1.0),
        priors.StarletSparsity(SHAPE, 1.0),
        priors.Laplace(1.0, SHAPE),
        priors.FromTFP(tfd.Laplace(jnp.asarray(0.0), jnp.asarray(1.0)), SHAPE),
        priors.Positive(priors.Gaussian(None, Diagonal(jnp.ones(SHAPE)))),
    ],
    ids=["total variation", "starlet", "laplace", "laplace of tfp", "positive"],
)
def test_priors_with_kinks_are_refused(prior):
    with pytest.raises(CapabilityError, match=r"has kinks or bounds.*invprob\.sample"):
        laplace(seen(prior), KEY)


def test_smooth_priors_are_not():
    smooth = [Cauchy(SHAPE), priors.Exponential(1.0, SHAPE), priors.Gaussian(None, Diagonal(jnp.ones(SHAPE)))]
    smooth += [priors.LogNormal(smooth[-1]), priors.Product({"a": smooth[-1], "b": smooth[0]})]
    assert [module.sharp_part(prior, float) for prior in smooth] == [""] * 5
    mixed = priors.Product({"a": smooth[3], "b": priors.TotalVariation(SHAPE, 1.0)})
    assert module.sharp_part(mixed, float) == "TotalVariation"


class Quartic(HasLogProb):
    """Its maximum has no curvature."""

    normalized: ClassVar[bool] = False

    @property
    def structure(self):
        return Structure((1, 2))

    def log_prob(self, x):
        return -jnp.sum(x**4)


def test_a_maximum_without_curvature_is_refused():
    nothing = likelihoods.Gaussian(operators.Identity((1, 2)), jnp.ones((1, 2)), 1.0, jnp.zeros((1, 2), bool))
    with pytest.raises(CapabilityError, match="where a maximum has a positive one"):
        laplace(Posterior(nothing, Quartic()), KEY)


def test_bad_settings_are_refused():
    with pytest.raises(UsageError, match="num_probes of at least 2"):
        laplace(one_pixel(), KEY, num_probes=1)
