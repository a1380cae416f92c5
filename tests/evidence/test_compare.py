"""Comparison of models against their exact evidences, and what may not be compared."""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, priors
from invprob.errors import CapabilityError, UsageError
from invprob.evidence.compare import ModelEvidence, compare
from invprob.evidence.marginal import log_evidence
from invprob.posterior import Posterior
from tests.problems import masked_problem

module = importlib.import_module("invprob.evidence.compare")
KEY = jax.random.key(0)


def models(seed=0):
    """Data of a field of amplitude 4, and fields that are weaker and rougher."""
    post = masked_problem(seed, side=8)
    shape = post.structure.shape

    def under(amplitude, scale):
        return Posterior(post.likelihood, priors.GaussianField(shape, priors.PowerLaw(amplitude, scale, 3.0)))

    return {"true": post, "weak": under(0.2, 0.1), "rough": under(4.0, 0.4)}


def test_the_prior_that_made_the_data_is_found():
    found = [compare(models(seed), KEY) for seed in range(6)]
    assert [c.best for c in found].count("true") >= 5
    assert {m.method for c in found for m in c.models.values()} == {"exact"}
    assert all(c.reliable for c in found)


@pytest.mark.parametrize("method", ["auto", "laplace", "elbo"])
def test_probabilities_are_those_of_the_exact_evidences(method):
    posts = models()
    exact = np.array([log_evidence(post) for post in posts.values()])
    expected = np.exp(exact - exact.max()) / np.exp(exact - exact.max()).sum()
    found = compare(posts, KEY, method)
    np.testing.assert_allclose([found.models[name].log_evidence for name in posts], exact, atol=1e-6)
    np.testing.assert_allclose([found.probabilities[name] for name in posts], expected, rtol=1e-5)
    value, error = found.difference("true", "weak")
    assert value == pytest.approx(exact[0] - exact[1], abs=1e-6) and error < 1e-6
    lines = str(found).splitlines()
    assert len(lines) == 4 and lines[1].startswith(found.best) and "probability" in lines[0]


def test_errors_add_in_quadrature():
    found = module.Comparison({"a": ModelEvidence(-1.0, 0.3, "laplace"), "b": ModelEvidence(-2.0, 0.4, "laplace")}, {})
    assert found.difference("a", "b") == pytest.approx((1.0, 0.5))


def test_the_method_is_chosen_by_what_a_model_allows(monkeypatch):
    """A bound beside evidences, and an approximation that does not fit, are told."""
    posts = models()
    shape = posts["true"].structure.shape
    posts |= {
        "positive": Posterior(posts["true"].likelihood, priors.LogNormal(posts["true"].prior)),
        "sharp": Posterior(posts["true"].likelihood, priors.Laplace(1.0, shape)),
    }
    for name, value in (("laplace", -5.0), ("elbo", -6.0)):
        doubts = ("k-hat 2.00",) if name == "elbo" else ()
        made = ModelEvidence(value, 0.1, name, doubts)
        monkeypatch.setitem(module.METHODS, name, lambda post, key, made=made: made)
    found = compare(posts, KEY)
    assert [m.method for m in found.models.values()] == ["exact", "exact", "exact", "laplace", "elbo"]
    assert found.failures[0] == "sharp: k-hat 2.00" and "sharp: a lower bound beside evidences" in found.failures[1]
    assert not found.reliable


def test_what_cannot_be_compared_is_refused():
    posts = models()
    post = posts["true"]
    like, shape = post.likelihood, post.structure.shape
    sharp = Posterior(like, priors.TotalVariation(shape, 1.0))
    with pytest.raises(CapabilityError, match="TotalVariation prior of 'tv' is not normalized"):
        compare({"true": post, "tv": sharp}, KEY)
    with pytest.raises(UsageError, match="at least two models, got 1"):
        compare({"true": post}, KEY)
    with pytest.raises(UsageError, match="no method is called 'waic'; there are auto, exact"):
        compare(posts, KEY, "waic")
    with pytest.raises(CapabilityError, match="Gaussian prior only"):
        compare({"true": post, "positive": Posterior(like, priors.LogNormal(post.prior))}, KEY, "exact")


def test_the_data_must_be_the_same():
    post = models()["true"]
    like = post.likelihood

    def changed(data, valid):
        return Posterior(likelihoods.Gaussian(like.operator, data, like.noise.variance, valid), post.prior)

    good = np.argwhere(np.asarray(like.valid))[0]
    bad = np.argwhere(~np.asarray(like.valid))[0]
    other = changed(like.data.at[tuple(good)].add(1.0), like.valid)
    with pytest.raises(UsageError, match=r"not models of the same data \(1 values differ\)"):
        compare({"a": post, "b": other}, KEY)
    with pytest.raises(UsageError, match="1 pixels are masked in one of them only"):
        compare({"a": post, "b": changed(like.data, like.valid.at[tuple(good)].set(False))}, KEY)
    with pytest.raises(UsageError, match=r"shapes \(8, 8\) and \(6, 6\)"):
        compare({"a": post, "b": masked_problem(side=6)}, KEY)
    # what a masked pixel holds, and the noise, may differ
    same = changed(like.data.at[tuple(bad)].set(7.0), like.valid)
    noisier = eqx.tree_at(lambda p: p.likelihood.noise.variance, post, 2 * like.noise.variance)
    found = compare({"a": post, "b": same, "c": noisier}, KEY)
    assert found.difference("a", "b")[0] == 0 and found.difference("a", "c")[0] != 0
    assert jnp.isclose(sum(found.probabilities.values()), 1)
