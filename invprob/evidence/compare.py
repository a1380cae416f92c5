"""Comparison of models by their evidence: `compare`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from invprob import likelihoods
from invprob.covariance import Diagonal
from invprob.errors import CapabilityError, UsageError
from invprob.evidence.laplace import laplace, sharp_part
from invprob.evidence.marginal import EXACT_LIMIT, log_evidence
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasLogProb
from invprob.variational.base import Approximate
from invprob.variational.fit import fit_variational
from invprob.variational.local_gaussian import likelihood_dtype


@dataclass(frozen=True)
class ModelEvidence:
    """The log evidence of one model, its standard error, how it was found, and what speaks against it."""

    log_evidence: float
    error: float
    method: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Models by the evidence of the same data.

    Parameters
    ----------
    models
        What is known of each, by name.
    probabilities
        Posterior probability of each where all were equally probable before the data.
    failures
        What keeps the numbers from being trusted, one line each.
    """

    models: Mapping[str, ModelEvidence]
    probabilities: Mapping[str, float]
    failures: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """Name of the model with the highest evidence."""
        return max(self.models, key=lambda name: self.models[name].log_evidence)

    @property
    def reliable(self) -> bool:
        """Whether nothing speaks against the numbers; their errors are another matter."""
        return not self.failures

    def difference(self, first: str, second: str) -> tuple[float, float]:
        """``log p(data | first) - log p(data | second)``, the log of the Bayes factor, with its standard error."""
        a, b = self.models[first], self.models[second]
        return a.log_evidence - b.log_evidence, float(np.hypot(a.error, b.error))

    def __str__(self):
        width = max(len(name) for name in self.models)
        lines = [f"{'model':<{width}}  log evidence     error  below best  probability  method"]
        for name in sorted(self.models, key=lambda n: -self.models[n].log_evidence):
            m, below = self.models[name], self.difference(self.best, name)[0]
            lines.append(
                f"{name:<{width}}  {m.log_evidence:12.3f}  {m.error:8.3f}  {below:10.3f}  "
                f"{self.probabilities[name]:11.4f}  {m.method}"
            )
        return "\n".join([*lines, *self.failures])


def _exact(post: Posterior, key) -> ModelEvidence:
    return ModelEvidence(log_evidence(post), 0.0, "exact")


def _laplace(post: Posterior, key) -> ModelEvidence:
    found = laplace(post, key)
    return ModelEvidence(found.log_evidence, found.log_evidence_error, "laplace", _doubts(found))


def _elbo(post: Posterior, key) -> ModelEvidence:
    found = fit_variational(post, key)
    return ModelEvidence(found.elbo, found.elbo_error, "elbo", _doubts(found))


def _doubts(found: Approximate) -> tuple[str, ...]:
    return found.failures or (() if found.status.ok else (found.status.value,))


METHODS: dict[str, Callable[[Posterior, Any], ModelEvidence]] = {"exact": _exact, "laplace": _laplace, "elbo": _elbo}


def choose_method(post: Posterior) -> str:
    """The most exact way to the evidence of a posterior."""
    system = post.linear_gaussian()
    if system is not None and isinstance(system.noise, Diagonal) and int(post.likelihood.num_data) <= EXACT_LIMIT:
        return "exact"
    return "elbo" if sharp_part(post.prior, likelihood_dtype(post)) else "laplace"


def compare(posts: Mapping[str, Posterior], key, method: str = "auto") -> Comparison:
    """Log evidences of models of the same data, and their probabilities where all were equally probable before.

    Parameters
    ----------
    posts
        Posteriors by name. Operators, noise and priors may differ; the valid data may not.
    key
        Random key.
    method
        ``"exact"`` (linear operator, Gaussian noise and prior, some thousand data), ``"laplace"``, or ``"elbo"``, a
        lower bound. ``"auto"`` takes for each model the first of them that it allows.

    Raises
    ------
    UsageError
        For fewer than two models, a method that is not known, or data that differ.
    CapabilityError
        For a prior that is not normalized: its evidence has a constant that is not known.

    Notes
    -----
    An ELBO may be below its evidence by more than it is below that of another model: `Comparison.failures` says where
    bounds and evidences are mixed, and where an approximation does not fit.

    References
    ----------
    MacKay 2003, Information Theory, Inference, and Learning Algorithms, ch. 28; Kass & Raftery 1995, JASA 90, 773.
    """
    if len(posts) < 2:
        raise UsageError(f"compare takes at least two models, got {len(posts)}")
    if method != "auto" and method not in METHODS:
        raise UsageError(f"no method is called {method!r}; there are auto, {', '.join(METHODS)}")
    first, *others = posts
    for name, post in posts.items():
        _require_normalized(name, post)
    for name in others:
        _require_same_data(first, posts[first], name, posts[name])
    models = {}
    for i, (name, post) in enumerate(posts.items()):
        how = choose_method(post) if method == "auto" else method
        models[name] = METHODS[how](post, jax.random.fold_in(key, i))
    failures = [f"{name}: {line}" for name, m in models.items() for line in m.failures]
    bounds = [name for name, m in models.items() if m.method == "elbo"]
    if bounds and len(bounds) < len(models):
        failures.append(f"{', '.join(bounds)}: a lower bound beside evidences, which may be higher than it says")
    values = softmax([m.log_evidence for m in models.values()])
    return Comparison(models, dict(zip(models, map(float, values), strict=True)), tuple(failures))


def _require_normalized(name: str, post: Posterior) -> None:
    density = post.prior.find(HasLogProb)
    if density is not None and not density.normalized:
        raise CapabilityError(
            f"the {type(post.prior).__name__} prior of {name!r} is not normalized, so that its evidence has an unknown "
            "constant: compare priors with normalized = True, such as GaussianField or LogNormal"
        )


def _require_same_data(first: str, a: Posterior, second: str, b: Posterior) -> None:
    for name, post in ((first, a), (second, b)):
        if not isinstance(post.likelihood, likelihoods.Gaussian):
            raise CapabilityError(f"compare needs Gaussian likelihoods; {name!r} has {type(post.likelihood).__name__}")
    data, valid = zip(*(_data(post.likelihood) for post in (a, b)), strict=True)
    what = ""
    if data[0].shape != data[1].shape:
        what = f"shapes {data[0].shape} and {data[1].shape}"
    elif (valid[0] != valid[1]).any():
        what = f"{(valid[0] != valid[1]).sum()} pixels are masked in one of them only"
    elif (data[0] != data[1]).any():
        what = f"{(data[0] != data[1]).sum()} values differ"
    if what:
        raise UsageError(
            f"{first!r} and {second!r} are not models of the same data ({what}): evidences compare for the same valid "
            "data only"
        )


def _data(like: Any) -> tuple[np.ndarray, np.ndarray]:
    data = np.asarray(like.data)
    valid = np.ones(data.shape, bool) if like.valid is None else np.asarray(like.valid)
    return np.where(valid, data, 0), valid


__all__ = ["Comparison", "ModelEvidence", "compare"]
