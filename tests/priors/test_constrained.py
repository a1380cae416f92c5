"""Positivity: the support, how the constraint joins the terms, and the coordinates of a free search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import operators as op
from invprob import priors
from invprob.errors import CapabilityError
from tests.cases import SHAPE, field, fresh, mixture


def test_nothing_is_probable_outside():
    inside = jnp.abs(fresh(*SHAPE))
    outside = inside.at[2, 3].set(-1e-9)
    prior = priors.Positive(priors.Laplace(2.0, SHAPE))
    assert float(prior.log_prob(inside)) == float(prior.prior.log_prob(inside))
    assert float(prior.log_prob(outside)) == -np.inf
    np.testing.assert_array_equal(prior.score(inside), prior.prior.score(inside))
    assert np.isfinite(prior.score(outside)).all()
    bare = priors.LowerBound(SHAPE)
    assert float(bare.log_prob(inside)) == 0 and float(bare.log_prob(outside)) == -np.inf
    np.testing.assert_array_equal(bare.prox(outside, 1.0), jnp.maximum(outside, 0))
    assert float(priors.Exponential(1.0, SHAPE).log_prob(outside)) == -np.inf


def test_the_constraint_joins_a_separable_term_on_x():
    laplace = priors.Laplace(2.0, SHAPE)
    ((W, g),) = priors.Positive(laplace).terms
    assert isinstance(W, op.Identity) and isinstance(g, priors.LowerBound) and g.inner is laplace
    v = fresh(*SHAPE)
    np.testing.assert_allclose(g.prox(v, 0.3), priors.Exponential(2.0, SHAPE).prox(v, 0.3))
    for prior in (priors.TotalVariation(SHAPE, 1.0), priors.StarletSparsity(SHAPE, 1.0), field()):
        first, (W, g) = priors.Positive(prior).terms
        assert first[0] == prior.find(priors.HasTerms).terms[0][0] and type(first[1]) is type(
            prior.find(priors.HasTerms).terms[0][1]
        )
        assert isinstance(W, op.Identity) and isinstance(g, priors.LowerBound) and g.inner is None
    # once positive, twice positive
    ((W, g),) = priors.Positive(priors.Exponential(2.0, SHAPE)).terms
    np.testing.assert_allclose(g.prox(v, 0.3), priors.Exponential(2.0, SHAPE).prox(v, 0.3))


def test_a_free_search_stays_inside_and_can_begin_at_zero():
    prior = priors.Positive(field())
    x = jnp.asarray([1e-300, 1e-12, 0.3, 20.0, 1e6])
    np.testing.assert_allclose(prior.constrain(prior.unconstrain(x)), x, rtol=1e-12)
    start = prior.unconstrain(jnp.asarray([0.0, -1.0]))
    assert np.isfinite(start).all()
    assert np.isfinite(jax.grad(lambda a: jnp.sum(prior.unconstrain(a)))(jnp.zeros(2))).all()


def test_what_cannot_be_made_positive():
    with pytest.raises(CapabilityError, match="positive images need a prior that is a sum of terms"):
        priors.Positive(priors.FromTFP(mixture(), (3,)))
    with pytest.raises(ValueError, match="make the parts of the product positive"):
        priors.Positive(priors.Product({"image": field(), "sky": priors.wide_gaussian(0.0, 1.0)}))
    with pytest.raises(CapabilityError, match=r"use Positive\(prior\)"):
        priors.LowerBound(SHAPE, 0.0, field())
    with pytest.raises(ValueError, match="not"):
        priors.LowerBound((3,), 0.0, priors.Laplace(1.0, (4,)))


def test_what_positive_priors_can_do_is_listed():
    assert priors.capabilities(priors.Positive(field())) == ("HasScore", "HasLogProb", "HasTerms")
    assert priors.capabilities(priors.LowerBound(SHAPE)) == (
        "HasScore", "HasLogProb", "HasProx", "HasSeparableProx", "HasTerms",
    )  # fmt: skip
