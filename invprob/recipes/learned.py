"""Learned priors: files of weights, in the data's units and on its grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invprob.config import Config
from invprob.errors import InputError, UsageError
from invprob.observation import Frame, Observation
from invprob.posterior import Hierarchy, Problem
from invprob.priors.denoiser import Denoiser
from invprob.priors.generator import Generator
from invprob.priors.weights_file import as_prior, shipped_weights
from invprob.progress import SILENT, Listener
from invprob.recipes.base import FittedPrior, PriorRecipe, fixed
from invprob.recipes.model_card import calibration_of, facts_of, load, model_card
from invprob.recipes.training_range import asymmetry_of, check_scale, flux_scale, misfit, too_bright, unlike_noise
from invprob.results import Estimate
from invprob.results.report import Record, Report

ENCLOSED = 0.95  # light of the PSF within the border


class LearnedRecipe(PriorRecipe):
    """A prior of a file of `invprob train`.

    Parameters
    ----------
    path
        The file of weights.
    """

    summary = "a learned prior"
    can_be_positive = False
    border_multiple = 8
    other_weights = "put the unchanged file there"  # what to do where the weights are not those of a run to be repeated

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = str(path)

    def check(self, config: Config) -> None:
        if not self.path.is_file():
            raise UsageError(
                f"no prior is called {self.name!r} and no such file is there; invprob train makes one, and invprob "
                "priors lists those that are installed"
            )
        super().check(config)
        wrong = None
        if config.strength != "auto":
            wrong = "has no strength: leave --strength out"
        elif config.positive:
            wrong = "is of galaxies, which are positive already, and cannot be cut off: leave --positive out"
        elif config.sky == "fit":
            wrong = "is that of the image alone: subtract the sky with --sky LEVEL instead of fitting it"
        elif config.amplitude is not None:
            wrong = "has no amplitude, scale and slope: leave them out"
        elif config.approximates:
            wrong = f"has no density, which method {config.method!r} needs: take --method map or sample"
        if wrong:
            raise UsageError(f"the learned prior {self.name!r} {wrong}")

    def latent(self, observation: Observation, config: Config) -> Frame:
        """With a border from which most of the light comes.

        Each pixel of the border costs as much as one of the footprint, and nothing is known of it.
        """
        if observation.psf is None:
            return super().latent(observation, config)
        frame = observation.frame.refine(config.refine)
        reach = half_width_enclosing(np.asarray(observation.psf.on(frame)), ENCLOSED)
        return frame.pad_by(reach, multiple=self.border_multiple)

    def build(self, problem: Problem, config: Config) -> Hierarchy:
        """The posterior; refused where pixel scale or unit are not those of the training set, or not known."""
        network, training = load(self.path)
        if isinstance(network, Generator):
            self._check_generator(network, problem.frame, config)
        check_scale(problem.frame, training, self.name)
        flux, _ = flux_scale(problem.frame, training, self.name)
        prior = as_prior(network, problem.shape, training, jnp.asarray(flux, problem.dtype))
        post = self.finish(problem, config, prior)
        return fixed(lambda theta: post, {})

    def fit(self, problem: Problem, hierarchy: Hierarchy, config: Config, listener: Listener = SILENT) -> FittedPrior:
        network, training = load(self.path)
        flux, how = flux_scale(problem.frame, training, self.name)
        outside = tuple(too_bright(problem, training, flux))
        if isinstance(network, Denoiser):
            outside = (*unlike_noise(problem, training, flux), *outside)
        meaning = f"one unit of flux in {training.unit} of the training set ({how})"
        said = Report.of(weights_sha256=training.hash, model_card_sha256=model_card(self.path)["card sha256"])
        said |= Report([Record("flux_scale", flux, "", meaning)]) | Report.of(in_range=not outside)
        if training.target_fwhm is not None:
            said |= Report.of(target_fwhm=training.target_fwhm)
        for line in outside:
            listener.note(f"warning: {line}")
        if config.method == "sample":
            status = calibration_of(self.path)
            said |= Report.of(prior_calibration=status)
            if status != "passed":
                listener.note(
                    f"warning: calibration of the error bars under this prior: {status}; invprob priors NAME has its "
                    "card"
                )
        if outside:
            said |= Report.of(range_warnings=outside)
        return FittedPrior(hierarchy, hierarchy.start, self.records(problem, config, said))

    def report(self, estimate: Estimate, listener: Listener = SILENT) -> Report:
        """What the image itself says against the prior: residuals that are too large, and its asymmetry."""
        table = facts_of(load(self.path)[1]).get("asymmetry")
        said, lines = asymmetry_of(np.asarray(estimate.image, float), table)
        wrong = misfit(estimate)
        lines += [] if wrong is None else [wrong]
        for line in lines:
            listener.note(f"warning: {line}")
        if lines:
            before = estimate.report.get("range_warnings", ())
            said |= Report.of(in_range=False, range_warnings=(*before, *lines))
        return said

    def model_card(self) -> dict[str, Any]:
        return model_card(self.path)

    def verify(self, weights_sha256: str) -> None:
        """Refuse weights that are not those of a run that is to be repeated.

        Raises
        ------
        InputError
            When they cannot be read or have another hash.
        """
        now = load(self.path)[1].hash
        if now != weights_sha256:
            both = f"the SHA-256 {now[:12]}..., the run to be repeated had {weights_sha256[:12]}..."
            raise InputError(f"prior {self.name!r} has weights of {both}: {self.other_weights}")

    def _check_generator(self, generator: Generator, frame: Frame, config: Config) -> None:
        if config.method != "map":
            raise UsageError(
                f"prior {self.name!r} is a generator, which has no density of the image: take --method map, or in "
                "Python sample in_white_coordinates(post)"
            )
        if min(frame.shape) < generator.size:
            raise UsageError(
                f"prior {self.name!r} makes images of {generator.size} latent pixels on a side, the grid has "
                f"{frame.shape[0]} x {frame.shape[1]}: give a larger image, or a finer grid with --refine"
            )


class ShippedRecipe(LearnedRecipe):
    """A learned prior whose weights come with the package."""

    other_weights = "install the version of invprob in its header"

    def __init__(self):
        self.path = shipped_weights(self.name)


def half_width_enclosing(kernel: Float[np.ndarray, "ky kx"], share: float) -> int:
    """Half the side in pixels of the middle square of a kernel that holds a share of its light."""
    middle = [n // 2 for n in kernel.shape]
    for half in range(max(middle) + 1):
        inner = kernel[tuple(slice(max(0, m - half), m + half + 1) for m in middle)]
        if inner.sum() >= share * kernel.sum():
            return half
    return max(middle)


__all__ = ["LearnedRecipe", "ShippedRecipe", "half_width_enclosing"]
