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


PANELS = ("Input", "PSF and noise", "Prior", "Method", "Output", "Advanced")  # of the options, in the order of the help


def _option(panel: str, default: Any, text: str, **checks: Any) -> Any:
    """A field that is an option of the command line as well: its panel, and the text that says what it is."""
    assert panel in PANELS, panel
    return Field(default, description=text, json_schema_extra={"panel": panel}, **checks)


class InputConfig(BaseModel):
    """How the files are read; see `invprob.read_fits`, whose arguments these are."""

    model_config = _STRICT

    image: str | None = _option("Input", None, "FITS image: FILE, FILE[EXT] or FILE[EXT,plane].")
    mask: str | None = _option("Input", None, "Mask FILE[EXT], non-zero = bad.")
    pixel_scale: float | None = _option("Input", None, "Arcsec per data pixel, if the file does not tell.", gt=0)
    zeropoint: float | None = _option(
        "Input", None, "AB magnitude of one unit of flux, if the file does not tell; learned priors need it."
    )
    psf: str | None = _option(
        "PSF and noise",
        None,
        "PSF: FILE[EXT], [EXT] of the image's file, or 'none' to denoise. Default: the file's own.",
    )
    variance: str | None = _option(
        "PSF and noise", None, "Noise map FILE[EXT]; end with :var, :std or :ivar where its name does not tell."
    )
    noise_std: float | None = _option("PSF and noise", None, "Noise standard deviation, in the data's unit.", gt=0)
    normalize_psf: bool = _option("PSF and noise", False, "Divide the PSF by its sum.")
    psf_without_pixel: bool = _option("PSF and noise", False, "The PSF image lacks the response of its pixel.")
    psf_pixel_scale: float | None = _option(
        "PSF and noise", None, "Arcsec per PSF pixel, if the file does not tell.", gt=0
    )


class Config(BaseModel):
    """What `deconvolve` does.

    Every field has a default that needs no knowledge of the image. Unknown fields are errors. The options of
    `invprob deconvolve` are made of these fields and of those of `InputConfig`.
    """

    model_config = _STRICT

    prior: str = _option(
        "Prior",
        "gaussian",
        "Prior on the image: gaussian (the default), starlet, tv, wavelet, laplace, lognormal, points+starlet, the "
        "learned one galaxies, FILE.eqx of `invprob train`, or one that another package installs; `invprob priors` "
        "lists them.",
    )
    positive: bool = _option("Prior", False, "No pixel below the floor: the image is positive within the noise.")
    floor: float = _option(
        "Advanced",
        1.0,
        "How far below zero --positive lets a pixel go, in standard deviations of the noise; 0: strictly positive, "
        "which adds flux to a noisy sky. Default: 1.",
        ge=0,
    )
    strength: float | Literal["auto", "fission", "sample"] = _option(
        "Prior",
        "auto",
        "'auto' (from the data and their noise), 'fission' (what predicts held-out noise best), 'sample' (gaussian: "
        "drawn together with the image, with --method sample), or a number, larger for smoother: for gaussian a factor "
        "on the inverse amplitude found, for the others in units of the noise. Default: auto.",
    )
    noise_scale: float | Literal["sample"] = _option(
        "Advanced",
        1.0,
        "Factor of the noise's standard deviation; 'sample': drawn together with the image, with --strength sample. "
        "Default: 1.",
    )
    psf_error: float = _option(
        "Advanced",
        0.0,
        "Fraction by which the PSF's width is uncertain: drawn together with the image, with --strength sample. "
        "Default: 0.",
        ge=0,
        le=0.5,
    )
    amplitude: float | None = _option(
        "Advanced",
        None,
        "Power of the gaussian and lognormal fields at k = 0, instead of the one found from the data; with --scale and "
        "--slope.",
        gt=0,
    )
    scale: float | None = _option(
        "Advanced", None, "Break of their power spectrum, cycles per latent pixel; with --amplitude and --slope.", gt=0
    )
    slope: float | None = _option(
        "Advanced", None, "Slope of their power spectrum; with --amplitude and --scale.", gt=0
    )
    refine: int = _option("Input", 1, "Latent pixels on a side of a data pixel. Default: 1.", ge=1, le=16)
    method: Literal["map", "sample", "vi", "laplace"] = _option(
        "Method",
        "map",
        "map: best image, with errors for the gaussian prior (default); sample: draws, their mean and errors for every "
        "prior, by chains where they cannot be independent; vi, laplace: an approximation of the posterior with draws "
        "of it, and k-hat, which says when not to trust it.",
    )
    family: str = _option(
        "Advanced",
        "auto",
        "Distributions of --method vi: auto (default), metric (gaussian, lognormal), circulant, meanfield, lowrank "
        "(every prior), flow (up to 400 latent pixels).",
    )
    num_samples: int | None = _option(
        "Method",
        None,
        "Draws; 0: no errors. Default: 64 exact ones, 2000 of chains, 4000 with --strength sample, 1000 of vi and "
        "laplace.",
        ge=0,
        le=100_000,
    )
    sampler: str = _option(
        "Advanced",
        "auto",
        "auto (default); gaussian prior: exact; starlet, tv, wavelet, laplace: gibbs; --positive, lognormal: hmc, "
        "nuts; learned: split.",
    )
    num_chains: int = _option("Advanced", 4, "Chains, from scattered starts. Default: 4.", ge=1, le=1000)
    num_warmup: int | None = _option(
        "Advanced", None, "Steps of warm-up of each chain. Default: the sampler's own.", ge=1
    )
    intervals: tuple[float, ...] = _option(
        "Method", (), "Central intervals to write for each pixel, per cent: 68,95. From the draws."
    )
    fission_test: bool = _option(
        "Method", False, "Whether half of the data predicts the other half: p-values; twice the time."
    )
    compare_prior: str | None = _option(
        "Method",
        None,
        "Another prior, such as gaussian, to compare with: extension COMPARED, the difference in errors.",
    )
    seed: int = _option("Advanced", 0, "Seed of the draws. Default: 0.", ge=0, lt=2**63)
    sky: float | Literal["none", "fit"] = _option(
        "PSF and noise", "none", "'none' (default), 'fit' one level with its error, or the level to subtract."
    )
    solver: str = _option(
        "Advanced",
        "auto",
        "auto (default); gaussian prior: wiener, cg, twogrid (without --refine); sparse and positive: admm, pdhg, "
        "proximal; lognormal: newton; smooth: lbfgs; learned: plugplay.",
    )
    rtol: float | None = _option(
        "Advanced",
        None,
        "Where the solver stops: relative gap of the objective (default 1e-7), or relative residual of admm (default "
        "3e-4), pdhg and proximal (1e-4), or scatter of the image of plugplay (5e-2).",
        gt=0,
        lt=1,
    )
    max_steps: int | None = _option(
        "Advanced",
        None,
        "Most steps of the solver, or of the fit of vi. Default: 10000, or the family's own.",
        ge=1,
    )
    dtype: Literal["float32", "float64"] = _option("Advanced", "float64", "float64 (default) or float32.")
    input: InputConfig = InputConfig()

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
