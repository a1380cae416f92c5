"""Variational inference: the member of a family of distributions that is nearest to a posterior, and how near it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from invprob.diagnostics.importance import MIN_WEIGHTS
from invprob.errors import UsageError
from invprob.loop import StopRule, Watch
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasParts, HasTransform
from invprob.results import Status
from invprob.sampling.coordinates import Coordinates
from invprob.variational.base import Variational, judged, nothing
from invprob.variational.circulant import CirculantGaussian
from invprob.variational.family import AbstractFamily, FitSettings, VariationalProgress
from invprob.variational.flow import Flow
from invprob.variational.low_rank import LowRank
from invprob.variational.mean_field import MeanField
from invprob.variational.metric_gaussian import MetricGaussian

FAMILIES: dict[str, Callable[[], AbstractFamily]] = {
    "metric": MetricGaussian,
    "meanfield": MeanField,
    "lowrank": LowRank,
    "circulant": CirculantGaussian,
    "flow": Flow,
}


def as_family(family: str | AbstractFamily, post: Posterior) -> tuple[AbstractFamily, str]:
    """The family for a name or a family, and the reason for it.

    Raises
    ------
    UsageError
        For a name that is not known.
    """
    if isinstance(family, AbstractFamily):
        return family, "chosen by the caller"
    if family != "auto":
        if family not in FAMILIES:
            raise UsageError(f"no family is called {family!r}; there are auto, {', '.join(FAMILIES)}")
        return FAMILIES[family](), "chosen by the caller"
    name = type(post.prior).__name__
    pushed = post.prior.find(HasTransform)
    if pushed is not None and (pushed.is_smooth or post.prior.find(HasParts) is not None):
        return MetricGaussian(), f"{name} prior that is transformed white noise: its Fisher metric is known"
    if any(len(shape) == 2 for shape, _ in post.structure.leaves):
        return CirculantGaussian(), f"{name} prior of an image: one scale for each spatial frequency"
    return MeanField(), f"{name} prior: independent coordinates in which the posterior is near to white noise"


def fit_variational(
    post: Posterior, key,
    family: str | AbstractFamily = "auto",
    *,
    num_steps: int | None = None, num_draws: int | None = None, learning_rate: float | None = None,
    num_samples: int = 1000,
    coordinates: Coordinates | None = None,
    progress: Callable[[VariationalProgress], None] | None = None,
    stop: StopRule | None = None, checkpoint: str | os.PathLike | None = None,
    summary: Callable[[PyTree], Any] = nothing,
) -> Variational:  # fmt: skip
    """The distribution q of a family that maximizes the evidence lower bound (ELBO), and how well it fits.

    ``ELBO = E_q[log p(data, c) - log q(c)] = log p(data) - KL(q | p)``.

    Parameters
    ----------
    post
        Posterior.
    key
        Random key.
    family
        ``"auto"`` chooses by the prior: `MetricGaussian` where it is transformed white noise, else `CirculantGaussian`
        for images and `MeanField` for what is none. ``"metric"``, ``"meanfield"``, ``"lowrank"``, ``"circulant"``,
        ``"flow"``, or a family.
    num_steps, num_draws, learning_rate
        Steps, draws of q in each step (in pairs about its centre), and the rate of Adam at the beginning; default: what
        the family suggests.
    num_samples
        Independent draws of the final q behind its ELBO, k-hat, mean and standard deviation.
    coordinates
        Coordinates c to fit in; default: those of the family, near to white noise under the posterior.
    progress
        Called with a `VariationalProgress` now and then.
    stop
        Rule that ends the fit with `Status.STOPPED`, such as ``invprob.loop.after(600)``, looked at with each line.
    checkpoint
        File that keeps the state of the fit at Ctrl-C and every minute; the same call then goes on, with the numbers of
        a fit that was not interrupted.
    summary
        From the x of a draw to what is to be kept of it, in `Variational.kept`; default: nothing.

    Returns
    -------
    Variational
        With mean and standard deviation of x, ELBO, k-hat and `sample`. A k-hat above its threshold makes the status
        `Status.NOT_RELIABLE`: the fit may have ended too early, or the family has nothing that is near enough.

    Raises
    ------
    UsageError, CapabilityError
        For a family that is not known, too few draws, or a prior or likelihood that cannot do what the family needs.

    Notes
    -----
    The ELBO includes the Jacobians of all changes of coordinates, so that it may be compared between families, and
    between priors where `Variational.normalized` holds. With ``z = origin + T c`` the density of c is that of z times
    ``|det T|``; z are white coordinates, in which the prior is N(0, I) and nothing else is missing, or x itself, with
    the prior's own constant and the Jacobian of its bounds. ``log |det T|`` is computed from the matrix of T up to some
    thousand numbers, and by stochastic Lanczos quadrature beyond; its error is part of ``elbo_error``.

    References
    ----------
    Blei, Kucukelbir & McAuliffe 2017, JASA 112, 859; Yao, Vehtari, Simpson & Gelman 2018, ICML, PMLR 80, 5581 (k-hat).
    """
    chosen, reason = as_family(family, post)
    for name, value in {"num_steps": num_steps, "num_draws": num_draws, "learning_rate": learning_rate}.items():
        if value is not None and not value > 0:
            raise UsageError(f"{name} is above zero, not {value}")
    if num_samples < MIN_WEIGHTS:
        raise UsageError(f"k-hat needs at least {MIN_WEIGHTS} draws: raise num_samples from {num_samples}")
    fit_key, judge_key = jax.random.split(key)
    effort, watch = FitSettings(num_steps, num_draws, learning_rate), Watch(progress, stop, checkpoint)
    fit = chosen.fit(post, fit_key, effort, coordinates, watch)
    # who stops a fit does not want to wait for its draws
    number = MIN_WEIGHTS if fit.status is Status.INTERRUPTED else num_samples
    return judged(
        Variational, post, fit.approximation, judge_key, number, fit.status, summary, solver=chosen.name, reason=reason,
        steps=fit.steps, history=fit.history,
    )  # fmt: skip


__all__ = [
    "FAMILIES",
    "CirculantGaussian",
    "Flow",
    "LowRank",
    "MeanField",
    "MetricGaussian",
    "Variational",
    "VariationalProgress",
    "fit_variational",
]
