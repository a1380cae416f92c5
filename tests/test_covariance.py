"""Every covariance keeps the contract of covariances."""

import jax
import jax.numpy as jnp
import pytest

from invprob import covariance as cov
from invprob import operators as op
from invprob.testing import check_covariance, no_retrace
from tests.cases import COVARIANCES, SHAPE, VALID, diagonal, stationary


@pytest.mark.parametrize("name", COVARIANCES)
def test_contract(name):
    make = COVARIANCES[name][1]
    check_covariance(make())
    no_retrace(make, lambda c: (c.logdet(), c.inv(cov.white(jax.random.key(0), c.structure))))


def test_contract_notices_a_wrong_root():
    class Wrong(cov.Diagonal):
        @property
        def inv_sqrt(self):
            return op.Multiply(1.01 / jnp.sqrt(self.variance))

    with pytest.raises(AssertionError, match="inv_sqrt"):
        check_covariance(Wrong(diagonal(*SHAPE).variance))


def test_masked_elements_may_hold_anything():
    variance = jnp.where(VALID, 2.0, jnp.nan)
    masked = cov.Diagonal(variance, VALID)
    for part in (masked.operator, masked.inv, masked.sqrt, masked.inv_sqrt):
        assert bool(jnp.all(jnp.isfinite(part(jnp.ones(SHAPE)))))
    assert float(masked.logdet()) == pytest.approx(VALID.sum() * jnp.log(2.0))


def test_what_cannot_be_done_says_what_to_do():
    with pytest.raises(TypeError, match="Diagonal"):
        stationary().masked(VALID)
    with pytest.raises(TypeError, match=r"posterior\.precision"):
        stationary().pulled_back(op.Multiply(jnp.ones(SHAPE)))
    with pytest.raises(TypeError, match=r"posterior\.precision"):
        diagonal(*SHAPE).pulled_back(op.CircularConvolve(jnp.ones((6, 4)), SHAPE))
    with pytest.raises(ValueError, match=r"\(6, 4\)"):
        cov.Stationary(jnp.ones((6, 7)), SHAPE)


def test_a_stationary_covariance_may_be_seen_from_another_stationary_one():
    c, t = stationary(), op.CircularConvolve(1.0 + stationary().power, SHAPE)
    pulled = cov.dense(c.pulled_back(t))
    back = cov.dense_operator(t)
    assert jnp.allclose(back @ pulled @ back.T, cov.dense(c), rtol=1e-9)
