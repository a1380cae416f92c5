"""One deconvolution by an approximation of its posterior, judged by k-hat, with draws of it on the footprint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from invprob.config import Config
from invprob.errors import CapabilityError, UsageError
from invprob.evidence.laplace import Laplace, laplace, why_no_laplace
from invprob.operators import Crop
from invprob.operators.base import total
from invprob.posterior import Posterior, Problem
from invprob.priors import HasTransform
from invprob.progress import Listener
from invprob.recipes.base import PriorRecipe
from invprob.results import Samples, Status
from invprob.results.report import Report
from invprob.variational.base import Approximate
from invprob.variational.fit import FAMILIES, as_family, fit_variational
from invprob.variational.lanczos import size_of
from invprob.variational.metric_gaussian import MetricGaussian

NUM_DRAWS = 1000  # where the configuration does not say
# latent numbers; of a posterior that is not Gaussian one draw is a badly conditioned solve, at 3600 a good fraction of
# a second, and there are a thousand of them
METRIC_LIMIT = 20_000


def check_family_name(name: str) -> None:
    """Refuse a name that is not known."""
    if name not in ("auto", *FAMILIES):
        raise UsageError(f"no family is called {name!r}; there are auto, {', '.join(FAMILIES)}")


def check_approximation(post: Posterior, recipe: PriorRecipe, config: Config) -> None:
    """Refuse an approximation that does not fit this model and prior, before any work is done.

    Raises
    ------
    UsageError
        With what it needs, and what there is instead.
    """
    if config.method == "laplace":
        if why := why_no_laplace(post):
            raise UsageError(f"method 'laplace' does not fit: {why}; take method 'vi' or 'sample'")
        is_metric = post.prior.find(HasTransform) is not None
    else:
        family, _ = as_family(config.family, post)
        try:
            family.check(post)
        except CapabilityError as error:
            raise UsageError(f"method 'vi' with family {config.family!r} does not fit: {error}") from error
        is_metric = isinstance(family, MetricGaussian)
    size = size_of(post.structure)
    if is_metric and post.linear_gaussian() is None and size > METRIC_LIMIT:
        raise UsageError(
            f"method {config.method!r} with prior {recipe.name!r} is for up to {METRIC_LIMIT} latent pixels, which "
            f"take an hour; this image has {size} with its border: take --method sample or --method vi --family "
            "circulant, a smaller --refine, or a cut-out"
        )


class OnFootprint(eqx.Module):
    """What is kept of a draw of the latent: the image on the footprint of the data."""

    cut: Crop
    has_parts: bool = eqx.field(static=True)

    def __call__(self, x: PyTree) -> Array:
        images = x["image"] if self.has_parts else x
        return self.cut.apply(total(images) if isinstance(images, dict) else images)


def approximate(post: Posterior, problem: Problem, config: Config, key: Any, listener: Listener) -> Samples:
    """The approximation of a posterior that a configuration asks for: its mean or maximum, draws, and the verdict.

    Raises
    ------
    KeyboardInterrupt
        When it was interrupted; nothing is kept.
    """
    number = NUM_DRAWS if config.num_samples is None else config.num_samples
    summary = OnFootprint(problem.footprint, bool(problem.nuisances))
    exact = post.linear_gaussian() is not None
    if config.method == "laplace":
        listener.note(f"searching for the maximum, and drawing {number} samples of the Gaussian around it")
        found = laplace(post, key, num_samples=number, max_steps=config.max_steps, summary=summary)
    else:
        family, reason = as_family(config.family, post)
        exact &= isinstance(family, MetricGaussian)
        listener.note(f"fitting the family {family.name}, and drawing {number} samples of it ({reason})")
        found = fit_variational(
            post, key, family, num_steps=config.max_steps, num_samples=number, progress=listener.step, summary=summary
        )
        found = replace(found, reason=reason)
    if found.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    for line in found.failures:
        listener.note(f"not reliable: {line}")
    bias = "" if exact else f"draws of the approximation ({found.solver}), not of the posterior"
    return Samples(
        x=found.x, status=found.status, solver=found.solver, reason=found.reason, steps=found.steps, chi2=found.chi2,
        num_data=found.num_data, history=found.history, report=_report(found, config, bias),
        draws=np.asarray(found.kept), latent_std=jax.tree.map(np.asarray, found.latent_std),
        failures=found.failures, bias=bias,
    )  # fmt: skip


def _report(found: Approximate, config: Config, bias: str) -> Report:
    """What is said of the approximation."""
    name = "laplace_log_evidence" if isinstance(found, Laplace) else "elbo"
    said = Report.of(approximation=f"{config.method}: {found.solver}")
    if isinstance(found, Laplace):
        said |= Report.of(laplace_log_evidence=found.log_evidence, laplace_log_evidence_error=found.log_evidence_error)
    else:
        said |= Report.of(elbo=found.elbo, elbo_error=found.elbo_error)
    if not found.normalized:
        said |= Report([replace(said[name], meaning=f"{said[name].meaning}, but for the prior's constant")])
    said |= Report.of(khat=found.khat, khat_threshold=found.threshold)
    if bias:
        said |= Report.of(bias=bias)
    return said | Report.of(convergence_check="; ".join(found.failures) if found.failures else "passed")
