"""The parts of one deconvolution before the prior is known: latent grid, forward operator, noise, sky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import likelihoods, priors
from invprob.config import Config
from invprob.covariance import Diagonal
from invprob.errors import UsageError
from invprob.observation import Frame, Observation
from invprob.operators import (
    AbstractLinearOperator,
    BlockDiagonal,
    Broadcast,
    Convolve,
    Crop,
    Multiply,
    Pad,
    PixelBin,
    Sum,
    compose,
)
from invprob.posterior import Posterior
from invprob.priors.weights_file import is_learned
from invprob.recipes.named import FIELDS, Setting
from invprob.units import is_surface_brightness

SKY_WIDTH = 1e3  # prior width of a fitted sky level, in units of the scatter of the data
REACH = 20  # least border of a periodic sparse prior, latent pixels: opposite sides are to see nothing of each other
ENCLOSED, MULTIPLE = 0.95, 8  # light of the PSF within the border of a learned prior, whose sides are multiples
PADDING = 16  # data pixels of modelled border where there is no PSF to ask for one


@dataclass(frozen=True)
class Model:
    """The parts of one deconvolution, before the prior is known.

    Parameters
    ----------
    frame
        The latent grid with its border.
    kernel
        The PSF on the latent grid's pixel, None without one.
    image
        From one latent image to noiseless data.
    observed
        Likelihood of that image alone: data, noise, mask.
    others
        Priors of what is fitted beside the image (the sky), None without.
    unit
        Standard deviation of the noise of a data pixel, divided among its latent pixels.
    """

    frame: Frame
    kernel: np.ndarray | None
    image: AbstractLinearOperator
    observed: likelihoods.Gaussian
    others: dict[str, priors.AbstractPrior] | None
    unit: Float[Array, ""]

    @property
    def dtype(self):
        """Floating point type of the run."""
        return self.observed.data.dtype

    @property
    def cut(self) -> Crop:
        """From the latent grid to the data's footprint."""
        return Crop(self.frame.shape, self.frame.footprint)

    @property
    def likelihood(self) -> likelihoods.Gaussian:
        """Likelihood of the image, or of a dictionary of the image and what is fitted beside it."""
        return self._likelihood(self.image)

    def _likelihood(self, operator: AbstractLinearOperator) -> likelihoods.Gaussian:
        if self.others is not None:
            each = BlockDiagonal(
                {"image": operator, **{name: Broadcast(self.observed.data.shape) for name in self.others}}
            )
            operator = compose(Sum(each.out_structure), each)
        return likelihoods.Gaussian(operator, self.observed.data, self.observed.noise)

    def posterior(self, prior: priors.AbstractPrior) -> Posterior:
        """The posterior with a prior of the image, or of several images that add up to it."""
        operator = self.image
        if len(prior.structure.leaves) > 1:
            operator = compose(operator, Sum(prior.structure))
        likelihood = self._likelihood(operator)
        if self.others is not None:
            prior = priors.Product({"image": prior, **self.others})
        return Posterior(likelihood, prior)

    def setting(self) -> Setting:
        """What a prior by name may know."""
        return Setting(self.observed, self.cut, self.unit, self.frame.factor)

    def mean_image(self) -> float:
        """Mean of the image on the footprint, from the mean of the valid data."""
        one = jnp.ones(self.frame.shape, self.dtype)
        valid = self.observed.valid
        weight = jnp.ones_like(self.observed.data) if valid is None else valid
        sky = 0.0
        if self.others is not None:
            sky = priors.require(self.others["sky"], priors.HasPrecision, "levels of the sky").mean
        return float(jnp.sum(weight * (self.observed.data - sky)) / jnp.sum(weight * self.image.apply(one)))


def latent_frame(observation: Observation, config: Config) -> Frame:
    """The latent grid: refined, with a border of the PSF's reach, wide enough for the filters of a sparse prior.

    Under a learned prior the border is that from which most of the light comes: each pixel of it costs as much as one
    of the footprint, and nothing is known of it.
    """
    frame = observation.frame.refine(config.refine)
    learned = is_learned(config.prior)
    if observation.psf is None:
        return frame.pad_by(PADDING * config.refine, multiple=MULTIPLE if learned else None)
    if learned:
        reach = enclosing(np.asarray(observation.psf.on(frame)), ENCLOSED)
        return frame.pad_by(reach, multiple=MULTIPLE)
    padded = frame.pad(observation.psf)
    least = 0 if config.prior in FIELDS else REACH
    return frame.pad_by(*(max(border[0], least) for border in padded.border))


def enclosing(kernel: Float[np.ndarray, "ky kx"], share: float) -> int:
    """Half the side in pixels of the middle square of a kernel that holds a share of its light."""
    middle = [n // 2 for n in kernel.shape]
    for half in range(max(middle) + 1):
        inner = kernel[tuple(slice(max(0, m - half), m + half + 1) for m in middle)]
        if inner.sum() >= share * kernel.sum():
            return half
    return max(middle)


def _convolved(frame: Frame, kernel: Any) -> AbstractLinearOperator:
    """From the latent grid to the footprint; where the PSF reaches beyond the grid, there is no light."""
    reach = [n // 2 for n in kernel.shape]
    if all(min(border) >= r for border, r in zip(frame.border, reach, strict=True)):
        return Convolve(kernel, frame.shape, frame.footprint)
    wide = frame.cropped().pad_by(*(max(*b, r) for b, r in zip(frame.border, reach, strict=True)))
    inside = tuple(
        slice(cut.start - border[0], cut.start - border[0] + n)
        for cut, border, n in zip(wide.footprint, frame.border, frame.shape, strict=True)
    )
    return compose(Convolve(kernel, wide.shape, wide.footprint), Pad(wide.shape, inside))


def forward(frame: Frame, kernel: Any, dtype, is_brightness: bool) -> AbstractLinearOperator:
    """Latent image on a padded frame to noiseless data: convolution, footprint, block sum (or mean)."""
    cut = Crop(frame.shape, frame.footprint)
    seen = cut if kernel is None else _convolved(frame, jnp.asarray(kernel, dtype))
    if frame.factor == 1:
        return seen
    binned = compose(PixelBin(frame.factor, seen.out_structure.shape), seen)  # type: ignore[arg-type]
    if not is_brightness:
        return binned
    return compose(Multiply(jnp.asarray(frame.factor**-2, dtype), binned.out_structure), binned)


def build_model(observation: Observation, config: Config, frame: Frame | None = None) -> Model:
    """Operator, likelihood and nuisance priors of an observation, on its own latent grid or a given one."""
    dtype = jnp.dtype(config.dtype)
    frame = latent_frame(observation, config) if frame is None else frame
    kernel = None if observation.psf is None else np.asarray(observation.psf.on(frame), dtype)
    is_brightness = is_surface_brightness(observation.frame.unit)
    operator = forward(frame, kernel, dtype, is_brightness)
    data = jnp.asarray(observation.data, dtype)
    others = None
    if config.sky == "fit":
        level, width = _sky_prior(observation)
        others = dict[str, priors.AbstractPrior](
            sky=priors.wide_gaussian(jnp.asarray(level, dtype), jnp.asarray(width, dtype))
        )
    elif config.sky != "none":
        data = data - jnp.asarray(config.sky, dtype)
    _check_range(observation, dtype)
    # where the scale is sampled, the one given is where it begins
    factor = 1.0 if config.noise_scale == "sample" else config.noise_scale
    noise = Diagonal(jnp.asarray(observation.variance * factor**2, dtype))
    observed = likelihoods.Gaussian(operator, data, noise, jnp.asarray(observation.valid))
    share = 1 if is_brightness else frame.factor**2
    unit = factor * np.sqrt(np.median(observation.variance[observation.valid])) / share
    return Model(frame, kernel, operator, observed, others, jnp.asarray(unit, dtype))


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
    values = observation.data[observation.valid]
    middle = float(np.median(values))
    scatter = 1.4826 * float(np.median(np.abs(values - middle)))
    noise = float(np.sqrt(np.median(observation.variance[observation.valid])))
    return middle, SKY_WIDTH * max(scatter, noise)
