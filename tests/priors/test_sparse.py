"""Sharp densities and sparse priors: values by hand, what costs nothing, and what the contract notices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from invprob import operators as op
from invprob import priors
from invprob.errors import CapabilityError
from invprob.testing import check_prior
from tests.cases import SHAPE, field, fresh, mixture
from tests.operators.test_analysis import reference_details


def test_laplace_and_exponential_are_those_of_scipy():
    x, scale = np.asarray(fresh(*SHAPE)), np.exp(np.asarray(fresh(*SHAPE)))
    wanted = scipy.stats.laplace.logpdf(x, scale=scale).sum()
    assert float(priors.Laplace(scale, SHAPE).log_prob(x)) == pytest.approx(wanted)
    wanted = scipy.stats.expon.logpdf(abs(x), scale=2.0).sum()
    assert float(priors.Exponential(2.0, SHAPE).log_prob(abs(x))) == pytest.approx(wanted)
    xi = np.linspace(-9, 9, 31)
    pushed = priors.Laplace(2.0, xi.shape).transform(jnp.asarray(xi))
    np.testing.assert_allclose(pushed[xi < 0], scipy.stats.laplace(scale=2.0).ppf(scipy.stats.norm.cdf(xi[xi < 0])))
    np.testing.assert_allclose(pushed, -pushed[::-1], atol=1e-14)
    pushed = priors.Exponential(2.0, xi.shape).transform(jnp.asarray(xi))
    np.testing.assert_allclose(pushed, scipy.stats.expon(scale=2.0).isf(scipy.stats.norm.sf(xi)), atol=1e-15)


def test_soft_thresholds_by_hand():
    v = jnp.asarray([-3.0, -0.2, 0.0, 0.5, 2.0])
    np.testing.assert_allclose(priors.Laplace(2.0, (5,)).prox(v, 1.0), [-2.5, 0, 0, 0, 1.5])
    np.testing.assert_allclose(priors.Exponential(2.0, (5,)).prox(v, 1.0), [0, 0, 0, 0, 1.5])
    pair = jnp.asarray([[3.0, 0.1, 0.0], [4.0, -0.1, 0.0]])
    prior = priors.GroupNorm(1.0, (2, 3))
    np.testing.assert_allclose(prior.prox(pair, 1.0), [[2.4, 0, 0], [3.2, 0, 0]])
    assert np.isfinite(prior.score(jnp.zeros((2, 3)))).all()


def test_group_norm_of_one_component_is_a_laplace():
    x, scale = fresh(1, 7), jnp.exp(fresh(7))
    group, single = priors.GroupNorm(scale, (1, 7)), priors.Laplace(scale, (1, 7))
    assert float(group.log_prob(x)) == pytest.approx(float(single.log_prob(x)))
    np.testing.assert_allclose(group.prox(x, 0.3), single.prox(x, 0.3))


def test_draws_of_a_group_norm_have_gamma_lengths_and_no_direction():
    draws = priors.GroupNorm(2.0, (3, 20000)).sample(jax.random.key(0))
    length = jnp.linalg.norm(draws, axis=0)
    assert scipy.stats.kstest(length, scipy.stats.gamma(3, scale=2.0).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(draws[0] / length, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_total_variation_by_hand():
    x = jnp.asarray([[1.0, 2.0, 2.0], [1.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
    down = np.asarray([[0, -1, 2], [-1, -1, -4], [1, 2, 2]])
    across = np.asarray([[1, 0, -1], [0, 3, -3], [0, 0, 0]])
    lengths = 1 + 1 + 5**0.5 + 1 + 10**0.5 + 5 + 1 + 2 + 2
    assert np.hypot(down, across).sum() == pytest.approx(lengths)
    assert float(priors.TotalVariation((3, 3), 0.5).log_prob(x)) == pytest.approx(-0.5 * lengths)
    along = priors.TotalVariation((3, 3), 0.5, isotropic=False)
    assert float(along.log_prob(x)) == pytest.approx(-0.5 * (abs(down).sum() + abs(across).sum()))
    assert float(along.strength) == 0.5


def test_constants_and_coarse_scales_cost_nothing():
    flat = jnp.full((16, 32), 7.0)
    for prior in (
        priors.TotalVariation(flat.shape, 2.0),
        priors.StarletSparsity(flat.shape, 2.0, mode="wrap"),
        priors.WaveletSparsity(flat.shape, 2.0, "db2"),
    ):
        assert float(prior.log_prob(flat)) == pytest.approx(0, abs=1e-9)
    prior = priors.WaveletSparsity((16, 16), 2.0, "haar", 2)
    coarse = jnp.where(prior.W.is_detail, 0, fresh(16, 16))
    image = prior.W.T(coarse)
    assert float(prior.log_prob(image)) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(prior.prox(image, 1.0), image, atol=1e-13)


def test_the_objectives_of_the_benchmark():
    """The sums over a random image in numpy, with the strengths 0.1 and 0.3."""
    x = np.asarray(fresh(40, 37))
    wanted = 0.1 * np.sum(np.hypot(np.roll(x, -1, 0) - x, np.roll(x, -1, 1) - x))
    assert -float(priors.TotalVariation(x.shape, 0.1).log_prob(x)) == pytest.approx(wanted, rel=1e-12)
    norms = [0.89079631, 0.20066385, 0.08550750, 0.04121744, 0.02042497]
    details = reference_details(x, 5, "constant")[0]
    wanted = 0.3 * np.sum(np.asarray(norms)[:, None, None] * np.abs(details))
    assert -float(priors.StarletSparsity(x.shape, 0.3, 5).log_prob(x)) == pytest.approx(wanted, rel=1e-7)


def test_a_new_strength_compiles_nothing_and_is_differentiated():
    x = fresh(8, 8)
    for kind in (priors.TotalVariation, priors.StarletSparsity, priors.WaveletSparsity):
        value, slope = jax.value_and_grad(lambda s, kind=kind: kind((8, 8), s).log_prob(x))(jnp.asarray(1.5))
        assert float(value) == pytest.approx(1.5 * float(slope))
        many = jax.vmap(lambda s, kind=kind: kind((8, 8), s).log_prob(x))(jnp.asarray([1.5, 3.0]))
        np.testing.assert_allclose(many, [value, 2 * value])


def test_single_precision_stays():
    x, strength = fresh(8, 8).astype(jnp.float32), jnp.float32(1.5)
    for prior in (
        priors.TotalVariation((8, 8), strength),
        priors.StarletSparsity((8, 8), strength),
        priors.WaveletSparsity((8, 8), strength),
        priors.Positive(priors.StarletSparsity((8, 8), strength)),
        priors.Exponential(strength, (8, 8)),
    ):
        assert prior.log_prob(x).dtype == prior.score(x).dtype == jnp.float32
        for W, g in prior.find(priors.HasTerms).terms:
            assert g.prox(W(x), jnp.float32(0.5)).dtype == jnp.float32


def test_analysis_keeps_the_prior_and_says_what_does_not_fit():
    gradient, x = op.Gradient(SHAPE), fresh(*SHAPE)
    inner = priors.Laplace(2.0, (2, *SHAPE))
    prior = priors.Analysis(inner, gradient)
    assert float(prior.log_prob(x)) == float(inner.log_prob(gradient(x))) and not prior.normalized
    with pytest.raises(CapabilityError, match="FromTFP offers HasScore, HasLogProb, HasSample"):
        priors.Analysis(priors.FromTFP(mixture(), (2, *SHAPE)), gradient)
    with pytest.raises(ValueError, match="must agree"):
        priors.Analysis(priors.Laplace(2.0, SHAPE), gradient)
    with pytest.raises(ValueError, match="does not broadcast"):
        priors.Laplace(jnp.ones((2, 3)), (3,))
    with pytest.raises(ValueError, match="3 scales take 3 weights"):
        priors.StarletSparsity((32, 32), 1.0, 3, weights=jnp.ones(2))


def test_terms_of_priors():
    x = fresh(8, 8)
    (W, g), *others = field().find(priors.HasTerms).terms
    assert isinstance(W, op.Identity) and isinstance(g, priors.GaussianField) and not others
    ((W, g),) = priors.WaveletSparsity((8, 8), 1.0).find(priors.HasTerms).terms
    assert isinstance(W, op.Wavelet)
    assert priors.FromTFP(mixture(), (3,)).find(priors.HasTerms) is None
    tv = priors.TotalVariation((8, 8), 2.0)
    product = priors.Product({"image": [priors.Positive(tv)], "sky": priors.wide_gaussian(0.0, 1.0)})
    assert [type(W) for W, _ in product.find(priors.HasTerms).terms] == [
        op.LinearComposition,
        op.LinearComposition,
        op.Part,
    ]
    latent = {"image": [jnp.abs(x)], "sky": jnp.asarray(0.3)}
    (W, g), (P, c), (S, n) = product.find(priors.HasTerms).terms
    np.testing.assert_allclose(W(latent), tv.W(jnp.abs(x)))
    np.testing.assert_array_equal(P(latent), jnp.abs(x))
    assert isinstance(c, priors.LowerBound) and float(S(latent)) == 0.3
    total = -g.cost(W(latent)) + n.log_prob(S(latent))
    assert float(product.log_prob(latent)) == pytest.approx(float(total))
    assert priors.Product({"a": tv, "b": priors.FromTFP(mixture(), ())}).find(priors.HasTerms) is None
    with pytest.raises(CapabilityError, match=r"draws of a product need .* \(HasSample\); TotalVariation offers"):
        priors.Product((tv,)).sample(jax.random.key(0))


class Wrong(priors.HasLogProb, priors.HasProx):
    """A sharp density with one thing wrong."""

    inner: priors.AbstractPrior
    normalized = True

    @property
    def structure(self):
        return self.inner.structure

    def log_prob(self, x):
        return self.inner.log_prob(x)

    def prox(self, v, step):
        return self.inner.prox(v, step)

    def constrain(self, c, unit=1.0):
        return self.inner.constrain(c, unit)

    def unconstrain(self, x, unit=1.0):
        return self.inner.unconstrain(x, unit)

    def log_jacobian(self, c, unit=1.0):
        return self.inner.log_jacobian(c, unit)


class WrongThreshold(Wrong):
    def prox(self, v, step):
        return self.inner.prox(v, 1.1 * step)


class WrongGradient(Wrong):
    def log_prob(self, x):
        return self.inner.log_prob(x) + 0.1 * (jnp.sum(x) - jax.lax.stop_gradient(jnp.sum(x)))


class WrongConstant(Wrong):
    def log_prob(self, x):
        return self.inner.log_prob(x) + jnp.log(1.01)


class WrongTerms(priors.HasLogProb, priors.HasTerms):
    """Terms of another strength than the log-density."""

    prior: priors.TotalVariation
    normalized = False

    @property
    def structure(self):
        return self.prior.structure

    @property
    def terms(self):
        return self.prior.terms

    def log_prob(self, x):
        return 1.01 * self.prior.log_prob(x)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (WrongThreshold(priors.Laplace(1.0, (9,))), "prox against brute force"),
        (WrongThreshold(priors.GroupNorm(1.0, (2, 4))), "prox against brute force"),
        (WrongThreshold(priors.Exponential(1.0, (9,))), "prox against brute force"),
        (WrongGradient(priors.Laplace(1.0, (9,))), "gradient of log_prob"),
        (WrongConstant(priors.GroupNorm(1.0, (2, 1))), "normalization"),
        (WrongTerms(priors.TotalVariation((4, 4), 1.0)), "the terms add up"),
    ],
)
def test_contract_notices(prior, message):
    with pytest.raises(AssertionError, match=message):
        check_prior(prior)


def test_the_right_ones_pass():
    check_prior(Wrong(priors.GroupNorm(1.0, (2, 1))))
