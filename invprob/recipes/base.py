"""What a run needs to know of a prior that is asked for by name: `PriorRecipe`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import priors
from invprob.config import Config
from invprob.errors import CapabilityError, UsageError
from invprob.observation import Frame, Observation
from invprob.posterior import Hierarchy, Posterior, Problem
from invprob.posterior.hierarchies import with_noise_scale, with_psf_width
from invprob.priors.capabilities import AbstractPrior
from invprob.progress import SILENT, Listener
from invprob.results import Estimate
from invprob.results.report import Report

PADDING = 16  # data pixels of modelled border where there is no PSF to ask for one
OF_THE_DATA = {"log_noise": "noise_factor", "log_width": "psf_width_factor"}
"""Hyperparameters that are not of the prior, and their records."""


@dataclass(frozen=True)
class FittedPrior:
    """A hierarchy whose hyperparameters are set, and the record of how they were.

    Parameters
    ----------
    hierarchy
        theta -> posterior.
    theta
        The hyperparameters that were chosen.
    report
        What is said of them.
    is_sampled
        Whether they are sampled together with the image, beginning from theta.
    """

    hierarchy: Hierarchy
    theta: Any
    report: Report
    is_sampled: bool = False

    @property
    def posterior(self) -> Posterior:
        """The posterior at the hyperparameters that were chosen."""
        return self.hierarchy.build(self.theta)

    @property
    def target(self) -> Posterior | Hierarchy:
        """What is sampled."""
        return replace(self.hierarchy, start=self.theta) if self.is_sampled else self.posterior


class PriorRecipe(abc.ABC):
    """All that a run needs to know of a prior by its name.

    A package that brings a prior has an entry point of the group ``invprob.priors`` that loads one of these, or its
    class. Where the prior has one strength, `invprob.recipes.strength.StrengthRecipe` leaves only
    ``prior(problem, strength)`` to be written.

    Attributes
    ----------
    name
        Name on the command line and in the header.
    summary
        What it is, in one line.
    provider
        The package that brings it.
    strength
        The strength that serves every image, None where there is none or it is found from the data.
    is_gaussian
        Whether the posterior is Gaussian, so that draws are independent and errors come with the best image.
    can_be_positive
        Whether it can be restricted to images above a floor.
    hyperparameters
        Those of the prior that can be sampled together with the image, and their records; empty where none can.
    least_border
        Least width of the border of the latent grid, latent pixels.
    border_multiple
        What the sides of the latent grid are a multiple of, None for any.
    """

    name: str
    summary: str
    provider: str = "invprob"
    strength: float | None = None
    is_gaussian: ClassVar[bool] = False
    can_be_positive: ClassVar[bool] = True
    hyperparameters: ClassVar[Mapping[str, str]] = {}
    has_uncertain_psf: ClassVar[bool] = False
    least_border: ClassVar[int] = 0
    border_multiple: ClassVar[int | None] = None

    def check(self, config: Config) -> None:
        """Refuse what does not go with this prior, before any work is done.

        Raises
        ------
        UsageError
            With what to do instead.
        """
        if not config.samples_hyper:
            return
        what = "psf_error" if config.psf_error > 0 else "noise_scale 'sample'"
        what = "strength 'sample'" if config.strength == "sample" else what
        if config.method != "sample":
            raise UsageError(f"{what} draws hyperparameters together with the image: give --method sample")
        if not self.hyperparameters:
            raise UsageError(
                f"{what} draws hyperparameters together with the image, and prior {self.name!r} has none that can be "
                "sampled: leave it out, or take another prior"
            )
        if config.positive:
            raise UsageError(f"{what} does not go with --positive: leave one of them out")
        if config.psf_error > 0 and not self.has_uncertain_psf:
            raise UsageError(f"psf_error does not go with prior {self.name!r}: leave it out")
        if config.strength != "sample":
            raise UsageError(f"{what} goes with strength 'sample': what noise and PSF can be depends on the image")
        if config.amplitude is not None:
            raise UsageError("amplitude, scale and slope are sampled with strength 'sample': give none by hand")

    def latent(self, observation: Observation, config: Config) -> Frame:
        """The latent grid: refined, with a border as wide as the PSF reaches."""
        frame = observation.frame.refine(config.refine)
        if observation.psf is None:
            return frame.pad_by(PADDING * config.refine, multiple=self.border_multiple)
        border = frame.pad(observation.psf).border
        return frame.pad_by(*(max(before, self.least_border) for before, _ in border))

    @abc.abstractmethod
    def build(self, problem: Problem, config: Config) -> Hierarchy:
        """From hyperparameters to the posterior, with a start and bounds; theta is empty where nothing is free.

        It is cheap: what needs a search is left to `fit`.

        Raises
        ------
        UsageError, InputError
            When the problem or the configuration is not one for this prior.
        """

    @abc.abstractmethod
    def fit(self, problem: Problem, hierarchy: Hierarchy, config: Config, listener: Listener = SILENT) -> FittedPrior:
        """The hyperparameters: by hand, or from the data."""

    def report(self, estimate: Estimate, listener: Listener = SILENT) -> Report:
        """What is to be said of a result under this prior, beside what every result says of itself."""
        return Report()

    def verify(self, weights_sha256: str) -> None:
        """Refuse to repeat a run that had other weights than this prior has; most priors have none."""
        del weights_sha256

    def model_card(self) -> dict[str, Any] | None:
        """What is known of a learned prior, its training set and scores; None for a prior that was not learned."""
        return None

    def is_exact(self, config: Config) -> bool:
        """Whether the draws of a configuration are independent ones of a Gaussian posterior."""
        plain = self.is_gaussian and not config.positive and not config.samples_hyper
        return plain and config.sampler in ("auto", "exact")

    def by_chains(self, config: Config) -> bool:
        """Whether the result of a configuration is the mean of draws of chains."""
        return config.method == "sample" and not self.is_exact(config)

    def finish(self, problem: Problem, config: Config, prior: AbstractPrior) -> Posterior:
        """The posterior of a prior of the image, restricted to positive images where that is asked for."""
        if config.positive:
            prior = positive(prior, jnp.asarray(floor_of(problem, config), problem.dtype))
        return problem.posterior(prior)

    def records(self, problem: Problem, config: Config, more: Report) -> Report:
        """What is said of every prior, and more of this one."""
        found = Report.of(prior_name=self.name) | more
        return found | Report.of(floor=floor_of(problem, config)) if config.positive else found

    def report_hyperparameters(self, draws: Mapping[str, np.ndarray]) -> Report:
        """Median and 68 % interval of each hyperparameter that was sampled, from draws of their logarithms."""
        found = Report()
        for name, stem in {**self.hyperparameters, **OF_THE_DATA}.items():
            if name in draws:
                low, middle, high = (float(v) for v in np.exp(np.percentile(draws[name], [16, 50, 84])))
                found |= Report.of(**{stem: middle, f"{stem}_p16": low, f"{stem}_p84": high})
        return found


def floor_of(problem: Problem, config: Config) -> float:
    """The lowest value of a pixel under ``config.positive``."""
    return 0.0 - config.floor * float(problem.noise_unit)


def positive(prior: AbstractPrior, floor: Float[Array, ""]) -> AbstractPrior:
    """A prior of an image that is nowhere below the floor; several images share it, so that their sum is not.

    Raises
    ------
    UsageError
        When the prior cannot be restricted.
    """
    try:
        return priors.positive(prior, floor)
    except CapabilityError as error:
        raise UsageError(f"--positive does not go with this prior: {error}") from None


def with_data_hyperparameters(hierarchy: Hierarchy, problem: Problem, config: Config) -> Hierarchy:
    """The hierarchy with the scale of the noise and the width of the PSF, where they are sampled.

    Raises
    ------
    UsageError
        When there is no PSF whose width could be.
    """
    if config.noise_scale == "sample":
        hierarchy = with_noise_scale(hierarchy)
    if config.psf_error > 0:
        kernel = problem.exposure.kernel
        if kernel is None:
            raise UsageError("psf_error needs a PSF: give one, or leave it out")
        hierarchy = with_psf_width(hierarchy, jnp.asarray(kernel, problem.dtype), config.psf_error)
    return hierarchy


def fixed(build: Callable[[Any], Posterior], start: Any) -> Hierarchy:
    """A hierarchy whose hyperparameters are chosen, never sampled: without bounds."""
    return Hierarchy(build, start, start, start)


__all__ = ["FittedPrior", "PriorRecipe", "fixed", "positive", "with_data_hyperparameters"]
