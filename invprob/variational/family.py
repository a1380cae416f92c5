"""What a family of approximations is, and what its fit is given and gives back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import numpy as np

from invprob.loop import Outcome, Watch
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.sampling.coordinates import Coordinates
from invprob.variational.base import Approximation


@dataclass(frozen=True)
class VariationalProgress:
    """One line of progress.

    Parameters
    ----------
    step, num_steps
        Steps taken and to take.
    objective
        Its mean over the last steps.
    seconds
        Since the start.
    change
        By how much the last step moved the mean of q, in its standard deviations; NaN where the family does not tell.
    """

    step: int
    num_steps: int
    objective: float
    seconds: float
    change: float = np.nan

    def __str__(self):
        return f"step {self.step:5d} of {self.num_steps}  objective {self.objective:14.4f}  {self.seconds:6.1f} s"


@dataclass(frozen=True)
class FitSettings:
    """What is spent on a fit; None: what the family suggests.

    Parameters
    ----------
    num_steps
        Steps of the optimizer.
    num_draws
        Draws of q in each step, in pairs about its centre.
    learning_rate
        Of Adam at the beginning; it falls to zero.
    """

    num_steps: int | None = None
    num_draws: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Fit:
    """What a family gives back: the approximation, how its fit ended, steps and history."""

    approximation: Approximation
    status: Status
    steps: int
    history: tuple[Mapping[str, float], ...] = ()


def status_of(outcome: Outcome, by_itself: Status) -> Status:
    """How a fit ended, given how it did where nobody ended it."""
    if outcome.interrupted:
        return Status.INTERRUPTED
    return Status.STOPPED if outcome.stopped and not outcome.last.ended else by_itself


class AbstractFamily(eqx.Module):
    """A family of distributions, one of which stands for the posterior. It holds settings, no arrays."""

    name: eqx.AbstractClassVar[str]
    effort: ClassVar[FitSettings] = FitSettings(1000, 8, 0.02)

    @abstractmethod
    def check(self, post: Posterior) -> None:
        """Refuse a posterior that this family cannot be fitted to, before any work is done.

        Raises
        ------
        CapabilityError
            With what the family needs.
        """

    @abstractmethod
    def fit(
        self,
        post: Posterior,
        key,
        effort: FitSettings,
        where: Coordinates | None,
        watch: Watch,
    ) -> Fit:
        """The member of the family that is nearest to a posterior, in `invprob.loop.run_chunks`.

        Raises
        ------
        CapabilityError
            When the prior or the likelihood cannot do what the family needs.
        """


__all__ = ["AbstractFamily", "Fit", "FitSettings", "VariationalProgress", "status_of"]
