"""Gaussian priors and their products against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from invprob import covariance as cov
from invprob import likelihoods, operators, priors
from invprob.optimize.find_map import find_map
from invprob.posterior import Posterior
from invprob.testing import dense_posterior
from tests.cases import SHAPE, field, fresh, mixture
from tests.problems import largest_error, masked_problem


@pytest.mark.parametrize("shape", [(6, 7), (6, 6), (5, 1)])
def test_field_is_a_multivariate_normal(shape):
    prior, x = field(shape), fresh(*shape)
    matrix = np.asarray(cov.dense(prior.covariance))
    wanted = scipy.stats.multivariate_normal.logpdf(x.ravel(), np.zeros(x.size), (matrix + matrix.T) / 2)
    assert float(prior.log_prob(x)) == pytest.approx(wanted, rel=1e-8)


def test_field_is_isotropic_and_its_amplitude_is_the_power_of_the_mean():
    prior = priors.GaussianField((8, 8), priors.PowerLaw(3.0, 0.2, 4.0))
    matrix = np.asarray(cov.dense(prior.covariance)).reshape(8, 8, 8, 8)
    np.testing.assert_allclose(matrix[0, 0], matrix[0, 0].T, atol=1e-14)
    assert matrix[0, 0].sum() == pytest.approx(3.0)


def test_whitened_coordinates_of_a_field():
    post = masked_problem(side=8)
    c = fresh(*post.structure.shape)
    whitened = post.whiten()
    x = post.prior.transform(c)
    jacobian = 0.5 * float(post.prior.covariance.logdet())
    assert float(whitened.log_prob(c)) == pytest.approx(float(post.log_prob(x)) + jacobian, rel=1e-12)
    assert float(post.prior.covariance.quadratic(x)) == pytest.approx(float(jnp.sum(c**2)), rel=1e-9)


def test_product_of_gaussians_is_solved_as_one():
    post = masked_problem(side=12, sky=True)
    assert isinstance(post.prior.find(priors.HasPrecision), priors.Gaussian)
    estimate = find_map(post, rtol=1e-14)
    mean, _ = dense_posterior(post)
    assert estimate.solver == "cg"
    assert largest_error(estimate.x["image"], mean["image"]) < 1e-6
    assert float(estimate.x["sky"]) == pytest.approx(float(mean["sky"]), rel=1e-6)
    whitened = post.whiten()
    assert np.isfinite(whitened.log_prob(jax.tree.map(jnp.zeros_like, mean)))


def test_product_is_the_sum_of_its_parts():
    parts = {"image": field(), "sky": priors.wide_gaussian(1.0, 2.0)}
    x = {"image": fresh(*SHAPE), "sky": fresh()}
    product = priors.Product(parts)
    wanted = sum(float(parts[name].log_prob(x[name])) for name in parts)
    assert float(product.log_prob(x)) == pytest.approx(wanted)
    assert float(product.find(priors.HasPrecision).log_prob(x)) == pytest.approx(wanted)
    assert product.normalized
    other = priors.Product({"image": field(), "sky": priors.FromTFP(mixture(), ())})
    assert other.find(priors.HasPrecision) is None


def test_shapes_that_do_not_fit_say_both():
    like = likelihoods.Gaussian(operators.Identity((3,)), jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"takes \(3,\), the prior describes \(6, 7\)"):
        Posterior(like, field())
    with pytest.raises(ValueError, match="must agree"):
        priors.Gaussian(jnp.zeros(3), cov.Diagonal(jnp.ones(4)))


def test_what_a_prior_can_do_is_listed():
    assert priors.capabilities(field()) == (
        "HasScore", "HasLogProb", "HasProx", "HasPrecision", "HasTerms", "HasTransform", "HasWhitening", "HasSample",
    )  # fmt: skip
