"""What `invprob train` is to do: one model that reads TOML, checked at the border."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from invprob.config import read_toml, validated

AS_TUPLE = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)  # TOML has lists only
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SimulatedData(BaseModel):
    """Galaxies of `invprob.learn.galaxies.Population`, whose fields these are."""

    model_config = _STRICT

    number: int = Field(30_000, ge=64, description="stamps to train on")
    population: dict[str, Any] = Field(default_factory=dict, description="fields of the population that differ")


class FolderData(BaseModel):
    """FITS stamps of the user's, with their noise and PSF."""

    model_config = _STRICT

    folder: str = Field(description="folder of FITS files, each an image with its noise (and PSF)")
    unit: str = Field("", description="flux unit of the images; default: that of the files")
    zeropoint: float | None = Field(None, description="AB magnitude of one unit of flux")


class NetworkSettings(BaseModel):
    """The network; see `invprob.priors.network.UNet`."""

    model_config = _STRICT

    channels: Annotated[tuple[int, ...], AS_TUPLE] = Field(
        (40, 80, 112), min_length=1, description="channels on each grid"
    )
    blocks: int = Field(2, ge=1, description="blocks on each grid")
    patch: int = Field(2, ge=1, description="pixels on a side of what the finest grid takes as one")


class GeneratorSettings(BaseModel):
    """A generator instead of a denoiser; see `invprob.priors.generator.Generator`."""

    model_config = _STRICT

    code: int = Field(32, ge=2, le=1024, description="numbers that an image is made of")
    channels: int = Field(48, ge=8, description="channels of the coarsest image")
    couplings: int = Field(6, ge=0, description="couplings of the flow from white noise to the code")
    hidden: int = Field(64, ge=1, description="hidden numbers of a coupling")
    softness: float = Field(1e-3, gt=0, description="flux per pixel below which images are linear")


class Recipe(BaseModel):
    """The training of a learned prior."""

    model_config = _STRICT

    name: str = Field("denoiser", min_length=1, description="name of the prior")
    size: int = Field(64, ge=16, le=512, description="pixels on a side of a stamp")
    simulated: SimulatedData | None = Field(None, description="train on simulated galaxies")
    stamps: FolderData | None = Field(None, description="train on stamps in a folder")
    network: NetworkSettings = NetworkSettings()  # type: ignore[call-arg]
    generator: GeneratorSettings | None = Field(None, description="train a generator, not a denoiser")
    start: str | None = Field(None, description="weights to begin with: a file, or a prior that is shipped")
    steps: int = Field(8000, ge=1, description="steps of the optimizer")
    batch: int = Field(16, ge=1, description="stamps in a step")
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="of Adam, at its largest")
    decay: float = Field(0.999, gt=0, lt=1, description="of the moving average of the weights")
    white: float = Field(0.35, ge=0, le=1, description="part of the stamps whose noise is white")
    depth: Annotated[tuple[float, float], AS_TUPLE] = Field(
        (-5.5, 1.5), description="log10 of where coloured noise stops to rise"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of stamps, weights and noise")
    validation: int = Field(512, ge=1, description="stamps that are kept back")
    every: int = Field(500, ge=1, description="steps between two looks at them")

    @model_validator(mode="after")
    def _one_source(self):
        if (self.simulated is None) == (self.stamps is None):
            raise ValueError("should have either [simulated] or [stamps]")
        if not self.depth[0] < self.depth[1]:
            raise ValueError(f"should have a depth of two rising numbers, not {list(self.depth)}")
        if self.generator is not None:
            if self.start is not None:
                raise ValueError("should have no start for a generator, which begins anew")
            if self.size % 8 or self.size // 8 & (self.size // 8 - 1):
                raise ValueError("should have a size that is 8 times a power of two for a generator")
            return self
        multiple = self.network.patch * 2 ** (len(self.network.channels) - 1)
        if self.size % multiple:
            raise ValueError(f"should have a size that is a multiple of {multiple} for this network")
        return self

    @classmethod
    def from_toml(cls, path: str | os.PathLike) -> Recipe:
        """A recipe from a TOML file.

        Raises
        ------
        InputError
            When the file cannot be read or is not TOML.
        UsageError
            When a field is not known or does not fit.
        """
        return validated(cls, read_toml(Path(path)))


__all__ = ["FolderData", "GeneratorSettings", "NetworkSettings", "Recipe", "SimulatedData"]
