"""The log-normal field against scipy, its support and its coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from invprob import covariance as cov
from invprob import priors
from invprob.errors import CapabilityError
from tests.cases import SHAPE, field, fresh


def test_independent_pixels_are_those_of_scipy():
    mean, variance = fresh(5), jnp.exp(fresh(5))
    prior, x = priors.LogNormal(priors.Gaussian(mean, cov.Diagonal(variance))), jnp.exp(fresh(5))
    wanted = scipy.stats.lognorm.logpdf(x, np.sqrt(variance), scale=np.exp(mean)).sum()
    assert float(prior.log_prob(x)) == pytest.approx(wanted)


def test_support_and_coordinates():
    prior, x = priors.LogNormal(field()), jnp.exp(fresh(*SHAPE))
    assert float(prior.log_prob(x.at[0, 0].set(0.0))) == float(prior.log_prob(-x)) == -np.inf
    assert np.isfinite(prior.score(x.at[0, 0].set(0.0))).all()
    np.testing.assert_allclose(prior.constrain(prior.unconstrain(x)), x, rtol=1e-12)
    np.testing.assert_array_equal(prior.unconstrain(jnp.zeros(SHAPE)), prior.field.mean)
    xi = fresh(*prior.transform.in_structure.shape)
    np.testing.assert_allclose(prior.transform(xi), jnp.exp(prior.field.transform(xi)))
    assert bool(jnp.all(prior.sample(jax.random.key(0)) > 0))
    assert prior.normalized and prior.find(priors.HasPrecision) is None


def test_only_gaussians_of_one_image():
    with pytest.raises(CapabilityError, match="not Laplace"):
        priors.LogNormal(priors.Laplace(1.0, SHAPE))
    pair = priors.Gaussian(None, cov.Blocks((cov.Diagonal(jnp.ones(2)), cov.Diagonal(jnp.ones(3)))))
    with pytest.raises(ValueError, match="one array"):
        priors.LogNormal(pair)
