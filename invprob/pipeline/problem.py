"""From an observation and a configuration to the problem that is solved: latent grid, forward operator, noise, sky."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from invprob import likelihoods, priors
from invprob.config import Config
from invprob.covariance import Diagonal
from invprob.errors import UsageError
from invprob.observation import Frame, Observation
from invprob.operators.forward import exposure_operator
from invprob.posterior import Exposure, Problem
from invprob.recipes.registry import recipe_of
from invprob.units import is_surface_brightness

SKY_WIDTH = 1e3  # prior width of a fitted sky level, in units of the scatter of the data


def build_problem(observation: Observation, config: Config, frame: Frame | None = None) -> Problem:
    """The problem of one observation, on the latent grid that its prior asks for, or a given one."""
    dtype = jnp.dtype(config.dtype)
    frame = recipe_of(config).latent(observation, config) if frame is None else frame
    kernel = None if observation.psf is None else np.asarray(observation.psf.on(frame), dtype)
    is_brightness = is_surface_brightness(observation.frame.unit)
    operator = exposure_operator(frame, kernel, dtype, is_brightness)
    data = jnp.asarray(observation.data, dtype)
    nuisances: dict[str, priors.AbstractPrior] = {}
    if config.sky == "fit":
        level, width = _sky_prior(observation)
        nuisances["sky"] = priors.wide_gaussian(jnp.asarray(level, dtype), jnp.asarray(width, dtype))
    elif config.sky != "none":
        data = data - jnp.asarray(config.sky, dtype)
    _check_range(observation, dtype)
    # where the scale is sampled, the one given is where it begins
    factor = 1.0 if config.noise_scale == "sample" else config.noise_scale
    noise = Diagonal(jnp.asarray(observation.variance * factor**2, dtype))
    likelihood = likelihoods.Gaussian(operator, data, noise, jnp.asarray(observation.valid))
    share = 1 if is_brightness else frame.factor**2
    unit = factor * np.sqrt(np.median(observation.variance[observation.valid])) / share
    return Problem(frame, (Exposure(likelihood, kernel),), jnp.asarray(unit, dtype), nuisances)


def _check_range(observation: Observation, dtype) -> None:
    """Refuse numbers whose squares leave the range of the type."""
    variance = observation.variance[observation.valid]
    info, margin = np.finfo(dtype), 1e6
    if variance.min() < float(info.tiny) * margin or variance.max() > float(info.max) / margin**2:
        raise UsageError(
            f"the noise variance, {variance.min():.3g} to {variance.max():.3g}, leaves the range of {dtype.name}: "
            "use float64, or another unit"
        )


def _sky_prior(observation: Observation) -> tuple[float, float]:
    """Mean and standard deviation of the prior of the sky level."""
    values = observation.data[observation.valid]
    middle = float(np.median(values))
    scatter = 1.4826 * float(np.median(np.abs(values - middle)))
    noise = float(np.sqrt(np.median(observation.variance[observation.valid])))
    return middle, SKY_WIDTH * max(scatter, noise)


__all__ = ["build_problem"]
