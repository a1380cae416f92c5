"""The configuration of a run: one model that reads and writes TOML, checked at the border."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from invprob.errors import InputError, UsageError

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


NUM_EXACT = 64  # draws behind the errors, where the configuration does not say
SOLVER_STEPS = 10_000  # most of a solver, likewise


class InputConfig(BaseModel):
    """How the files are read; see `invprob.read_fits`, whose arguments these are."""

    model_config = _STRICT

    image: str | None = Field(None, description="image file FILE[EXT,plane]")
    psf: str | None = Field(None, description="PSF file FILE[EXT], 'none' to denoise; default: the image file's own")
    variance: str | None = Field(None, description="noise file FILE[EXT]: variance, standard deviation or weight")
    noise_std: float | None = Field(None, gt=0, description="noise standard deviation in the data's unit")
    mask: str | None = Field(None, description="mask file FILE[EXT], non-zero = bad")
    normalize_psf: bool = Field(False, description="divide the PSF by its sum")
    psf_without_pixel: bool = Field(False, description="the PSF image does not contain the pixel response")
    pixel_scale: float | None = Field(None, gt=0, description="arcsec per data pixel, where the file does not tell")
    psf_pixel_scale: float | None = Field(None, gt=0, description="arcsec per PSF pixel, where the file does not tell")
    zeropoint: float | None = Field(
        None, description="AB magnitude of one unit of flux, where the file does not tell; for learned priors"
    )


class Config(BaseModel):
    """What `deconvolve` does.

    Every field has a default that needs no knowledge of the image. Unknown fields are errors.
    """

    model_config = _STRICT

    prior: str = Field("gaussian", description="prior on the image")
    positive: bool = Field(False, description="no pixel below the floor")
    floor: float = Field(
        1.0, ge=0, description="how far below zero a positive image may go, in standard deviations of the noise"
    )
    strength: float | Literal["auto", "fission", "sample"] = Field(
        "auto",
        description="'auto' (from the data and their noise), 'fission', 'sample' (with the image), or a number: larger "
        "is smoother",
    )
    noise_scale: float | Literal["sample"] = Field(
        1.0, description="factor of the noise's standard deviation; 'sample': found with the image"
    )
    psf_error: float = Field(
        0.0, ge=0, le=0.5, description="fraction by which the PSF's width is uncertain: it is then found with the image"
    )
    amplitude: float | None = Field(None, gt=0, description="power at k = 0, by hand (with scale and slope)")
    scale: float | None = Field(None, gt=0, description="break of the power spectrum, cycles per latent pixel, by hand")
    slope: float | None = Field(None, gt=0, description="slope of the power spectrum, by hand")
    refine: int = Field(1, ge=1, le=16, description="latent pixels on a side of a data pixel")
    method: Literal["map", "sample", "vi", "laplace"] = Field(
        "map", description="best image with errors, draws, or an approximation of the posterior with draws of it"
    )
    family: str = Field("auto", description="'auto', or the name of a family of distributions, for method 'vi'")
    num_samples: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="draws; 0: no errors; default: 64 exact ones, 2000 of chains, 4000 with hyperparameters, 1000 of "
        "an approximation",
    )
    sampler: str = Field("auto", description="'auto', or the name of a sampler, for method 'sample'")
    num_chains: int = Field(4, ge=1, le=1000, description="chains, where the draws are not independent")
    num_warmup: int | None = Field(None, ge=1, description="steps of warm-up of a chain; default: the sampler's own")
    intervals: tuple[float, ...] = Field((), description="central intervals to write, per cent, from the draws")
    fission_test: bool = Field(
        False, description="whether half of the data predicts the other half, as a p-value; costs a second run of draws"
    )
    compare_prior: str | None = Field(
        None, description="another prior, whose image is compared with this one in units of the errors; costs its run"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the draws")
    sky: float | Literal["none", "fit"] = Field("none", description="'none', 'fit', or the level to subtract")
    solver: str = Field("auto", description="'auto', or the name of a solver")
    rtol: float | None = Field(
        None, gt=0, lt=1, description="where the solver stops: relative gap or residual; default: the solver's own"
    )
    max_steps: int | None = Field(
        None, ge=1, description="most steps of the solver (10000), or of the fit of method 'vi' (the family's own)"
    )
    dtype: Literal["float32", "float64"] = Field("float64", description="precision of the computation")
    input: InputConfig = InputConfig()  # type: ignore[call-arg]

    @field_validator("strength")
    @classmethod
    def _positive(cls, value):
        if isinstance(value, float) and not value > 0:
            raise ValueError("should be 'auto', 'fission', 'sample' or a number above zero")
        return value

    @field_validator("noise_scale")
    @classmethod
    def _above_zero(cls, value):
        if isinstance(value, float) and not value > 0:
            raise ValueError("should be 'sample' or a number above zero")
        return value

    @field_validator("intervals", mode="before")
    @classmethod
    def _per_cent(cls, value):
        values = tuple(float(v) for v in value) if isinstance(value, list | tuple) else value
        if isinstance(values, tuple) and not all(0 < v < 100 for v in values):
            raise ValueError("should be percentages between 0 and 100")
        return values

    @property
    def is_exact(self) -> bool:
        """Whether the posterior is Gaussian and its draws are independent ones."""
        plain = self.prior == "gaussian" and not self.positive and not self.samples_hyper
        return plain and self.sampler in ("auto", "exact")

    @property
    def samples_hyper(self) -> bool:
        """Whether hyperparameters are sampled with the image."""
        return "sample" in (self.strength, self.noise_scale) or self.psf_error > 0

    @property
    def solver_steps(self) -> int:
        """Most steps of a solver."""
        return SOLVER_STEPS if self.max_steps is None else self.max_steps

    @property
    def approximates(self) -> bool:
        """Whether the result is an approximation of the posterior."""
        return self.method in ("vi", "laplace")

    @property
    def num_exact(self) -> int:
        """Independent draws behind the errors."""
        return NUM_EXACT if self.num_samples is None else self.num_samples

    @classmethod
    def make(cls, **fields: Any) -> Config:
        """A configuration from fields, with one clear line where they do not fit.

        Raises
        ------
        UsageError
            Names the field, what was given and what is needed.
        """
        return validated(cls, fields)

    @classmethod
    def from_toml(cls, path: str | os.PathLike, **changes: Any) -> Config:
        """A configuration from a TOML file; ``changes`` are fields that replace those of the file.

        Raises
        ------
        InputError
            When the file cannot be read or is not TOML.
        UsageError
            When a field is not known or does not fit.
        """
        fields = read_toml(path)
        merged = {**fields, **{k: v for k, v in changes.items() if k != "input"}}
        inputs = fields.get("input", {})
        if isinstance(inputs, dict):  # else the model says what is wrong with it
            inputs = {**inputs, **changes.get("input", {})}
        return cls.make(**{**merged, "input": inputs})

    def to_toml(self) -> str:
        """TOML text that reads back as this configuration; fields without a value are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """A configuration from `to_json`.

        Raises
        ------
        InputError
            When the text is not a JSON object.
        UsageError
            When a field is not known or does not fit.
        """
        try:
            return cls.make(**json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"not a configuration in JSON ({error})") from None

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def read_toml(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a TOML file.

    Raises
    ------
    InputError
        When the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a TOML file is needed") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML ({error})") from None


Settings = TypeVar("Settings", bound=BaseModel)


def validated(settings: type[Settings], fields: dict[str, Any]) -> Settings:
    """Settings from fields, with one clear line where they do not fit.

    Raises
    ------
    UsageError
        Names the field, what was given and what is needed.
    """
    try:
        return settings(**fields)
    except ValidationError as error:
        raise UsageError(_one_line(error, settings)) from None


def _one_line(error: ValidationError, settings: type[BaseModel]) -> str:
    every = error.errors()
    first = every[0]
    where = _place(first)
    if first["type"] == "extra_forbidden":
        return f"configuration: {where!r} is not a known field; there are {', '.join(_fields(settings, first['loc']))}"
    # a field of several types has one error for each
    needed = [str(e["msg"]).removeprefix("Value error, ").removeprefix("Input ") for e in every if _place(e) == where]
    return f"configuration: {where} = {first.get('input')!r} does not fit: it {' or '.join(dict.fromkeys(needed))}"


def _fields(settings: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields beside one that is not known."""
    for part in place[:-1]:
        inner = settings.model_fields[str(part)].annotation
        kinds = [inner, *get_args(inner)]
        settings = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(settings.model_fields)


def _place(error: Any) -> str:
    """The field of an error, without the types that were tried for it."""
    return ".".join(str(part) for part in error["loc"] if part != "float" and not str(part).startswith("literal["))
