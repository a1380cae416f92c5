"""A learned prior for one observation: its grid, its units, and whether the image is of what it was trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from invprob.config import Config
from invprob.errors import InputError, UsageError
from invprob.observation import Frame
from invprob.pipeline.fit import Found
from invprob.pipeline.problem import Model
from invprob.priors.denoiser import Denoiser
from invprob.priors.generator import Generator, GeneratorPrior
from invprob.priors.learned import DenoiserPrior, Training
from invprob.priors.weights_file import SHIPPED, as_prior, is_learned, load_weights, weights_of
from invprob.progress import SILENT, Listener
from invprob.results import Estimate

MISFIT, LEAST = 0.01, 1e-300  # p of the residuals below which an image does not fit, and p is said to be zero
RARE = 0.05  # part of the training set that is like an image, below which the image is unlike it
SLACK = 1.15  # by which a pixel scale may leave the range of the training set
Cards = dict[str, tuple[Any, str]]


@lru_cache(maxsize=4)
def _loaded(path: str, modified: int) -> tuple[Denoiser | Generator, Training]:
    return load_weights(path)


def load(name: str) -> tuple[Denoiser | Generator, Training]:
    """Model and training of a learned prior by name or file; read once.

    Raises
    ------
    InputError
        When the file cannot be used.
    """
    path = weights_of(name)
    return _loaded(str(path), path.stat().st_mtime_ns if path.exists() else 0)


def model_card(name: str) -> dict[str, Any]:
    """What is known of a learned prior: its training set and range, and for a shipped one its scores and failures.

    The last entry, ``card sha256``, is the hash of all others, as JSON with sorted keys.

    Raises
    ------
    InputError
        When the file cannot be used, or the card beside it is that of other weights.
    """
    card = {**_card_of_training(name), **_scores(name)}
    return {**card, "card sha256": hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()}


def _card_of_training(name: str) -> dict[str, Any]:
    """The part of a card that the weights tell."""
    training = load(name)[1]
    facts = _facts(training)
    curve = facts.get("curve") or []
    card: dict[str, Any] = {
        "name": training.name,
        "sha256": training.hash,
        "range": {
            "arcsec per pixel": training.pixel_scales,
            "FWHM of the PSF of the image in arcsec": training.target_fwhm,
            "unit": training.unit,
            "zero point": training.zeropoint,
            "noise of a pixel": (training.smallest, training.largest),
            "widest PSF in pixels": training.widest,
        },
        "training set": {k: v for k, v in facts.items() if k not in ("curve", "recipe")},
        "recipe": facts.get("recipe", {}),
    }
    if curve:
        known = zip(("step", "loss", "of the Wiener filter"), curve[-1], strict=True)
        card["validation"] = {what: value for what, value in known if np.isfinite(value)}
    return card


def _scores(name: str) -> dict[str, Any]:
    """The part of a card that was measured: the file beside the weights, where that is a card of a learned prior."""
    beside = weights_of(name).with_suffix(".json")
    try:
        more = json.loads(beside.read_text()) if beside.is_file() else {}
    except ValueError:
        return {}
    if not isinstance(more, dict) or "sha256" not in more:
        return {}
    if more.pop("sha256") != load(name)[1].hash:
        raise InputError(f"{beside} is the card of other weights than {weights_of(name).name}: measure them again")
    return more


def _facts(training: Training) -> dict[str, Any]:
    """What a training wrote into the header of its weights."""
    return training.card if isinstance(training.card, dict) else {}


def check_learned(config: Config) -> None:
    """Refuse what a learned prior cannot do, before any file is read.

    Raises
    ------
    UsageError
        With what to do instead.
    """
    if config.prior not in SHIPPED and not weights_of(config.prior).is_file():
        raise UsageError(
            f"no prior is called {config.prior!r} and no such file is there; invprob train makes one, and "
            f"{', '.join(SHIPPED)} is shipped"
        )
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
        raise UsageError(f"the learned prior {config.prior!r} {wrong}")


def check_weights(name: str, recorded: str) -> None:
    """Refuse weights that are not those of a run that is to be repeated.

    Raises
    ------
    InputError
        When they cannot be read or their hash is another one than was recorded.
    """
    found = load(name)[1].hash
    if found != recorded:
        hint = "install the version of invprob in its header" if name in SHIPPED else "put the unchanged file there"
        both = f"the SHA-256 {found[:12]}..., the run to be repeated had {recorded[:12]}..."
        raise InputError(f"prior {name!r} has weights of {both}: {hint}")


def learned_prior(model: Model, config: Config) -> tuple[DenoiserPrior | GeneratorPrior, Cards]:
    """The prior on the latent grid and in the unit of the data, and what the header says of it.

    Raises
    ------
    UsageError
        When pixel scale or unit are not those of the training set, or not known.
    """
    network, training = load(config.prior)
    frame = model.frame
    if isinstance(network, Generator):
        _check_generator(network, frame, config)
    _check_scale(frame, training, config)
    flux, known = _flux(frame, training, config)
    prior = as_prior(network, frame.shape, training, jnp.asarray(flux, model.dtype))
    outside = tuple(_too_bright(model, training, flux))
    if isinstance(network, Denoiser):
        outside = (*_other_noise(model, training, flux), *outside)
    cards: Cards = {
        "PRIORSHA": (training.hash, "SHA-256 of the learned prior's weights"),
        "MODLCARD": (model_card(config.prior)["card sha256"], "SHA-256 of the learned prior's card"),
        "FLUXSCAL": (flux, f"one unit of flux in {training.unit} of the training set ({known})"),
        "INRANGE": (not outside, "whether the image is like the training set"),
    }
    if training.target_fwhm is not None:
        cards["TARGET"] = (training.target_fwhm, "[arcsec] FWHM of the PSF that SCI still has")
    if config.method == "sample":
        cards["PRIORCAL"] = (calibration_of(config.prior), "calibration of draws under this prior")
    for i, line in enumerate(outside):
        cards[f"RANGE{i + 1}"] = (line, "")
    return prior, cards


def _check_generator(generator: Generator, frame: Frame, config: Config) -> None:
    if config.method != "map":
        raise UsageError(
            f"prior {config.prior!r} is a generator, which has no density of the image: take --method map, or in "
            "Python sample in_white_coordinates(post)"
        )
    if min(frame.shape) < generator.size:
        raise UsageError(
            f"prior {config.prior!r} makes images of {generator.size} latent pixels on a side, the grid has "
            f"{frame.shape[0]} x {frame.shape[1]}: give a larger image, or a finer grid with --refine"
        )


def calibration_of(name: str) -> str:
    """Whether error bars under a learned prior passed the tests of calibration: "passed", "failed" or "not tested"."""
    return str(model_card(name).get("calibration", {}).get("status", "not tested"))


def warnings(cards: Cards) -> list[str]:
    """What the user has to be told of a learned prior's cards."""
    said = [value for name, (value, _) in cards.items() if name.startswith("RANGE")]
    status = cards.get("PRIORCAL", ("passed", ""))[0]
    if status != "passed":
        said.append(f"calibration of the error bars under this prior: {status}; invprob priors NAME has its card")
    return said


def compared(found: Found, config: Config, listener: Listener = SILENT) -> Found:
    """With what the image itself says against a learned prior: residuals that are too large, and its asymmetry.

    Without a learned prior what was found, whose cards tell how it fits (`with_fit`), is given back as it is.
    """
    if not is_learned(config.prior):
        return found
    asymmetries, lines = _asymmetry(np.asarray(found.image, float), _facts(load(config.prior)[1]).get("asymmetry"))
    cards: Cards = {**found.cards, **asymmetries}
    if "FITPVAL" in cards and cards["FITPVAL"][0] < MISFIT:
        lines.append(_misfit(found))
    number = sum(name.startswith("RANGE") for name in cards)
    for i, line in enumerate(lines, number + 1):
        cards |= {"INRANGE": (False, cards["INRANGE"][1]), f"RANGE{i}": (line, "")}
        listener.note(f"warning: {line}")
    return replace(found, cards=cards)


def _misfit(found: Estimate) -> str:
    """How an image does not fit: what of its residuals is the least likely, and where."""
    known = {name: value for name, (value, _) in found.cards.items()}
    p = f"= {known['FITPVAL']:.0e}" if known["FITPVAL"] > LEAST else f"< {LEAST:.0e}"
    said = f"the image does not fit the data: its residuals have p {p}"
    if known["FITCHI2"] > min(known["FITMATCH"], known["FITPEAK"]):
        where = f"{known['RESPEAK']:.1f} sigma at pixel ({known['RESPEAKX']}, {known['RESPEAKY']})"
        return f"{said}, the largest that is as wide as the PSF is {where}"
    residual = np.nan_to_num(np.asarray(found.residual))
    y, x = (int(n) for n in np.unravel_index(np.abs(residual).argmax(), residual.shape))
    where = f"{residual[y, x]:.1f} sigma at pixel ({x + 1}, {y + 1})"
    return f"{said}, chi-square is {found.reduced_chi2:.2f} per datum, the largest of a pixel is {where}"


def _asymmetry(image: np.ndarray, table: dict[str, Any] | None) -> tuple[Cards, list[str]]:
    """How asymmetric the brightest object of an image is, how rare this is in the training set, and what to say of it.

    A best image is smoother than what it is of, and so less asymmetric: rarer than is said. Nothing where the
    training set's asymmetry is not known.
    """
    if not table:
        return {}, []
    from invprob.measure.moments import asymmetry, main_object

    seen = main_object(image, table["side"])
    if seen is None:
        return {}, []
    value = asymmetry(seen)
    share = float(np.interp(value, table["value"], table["share"]))
    cards: Cards = {
        "ASYMM": (value, "rotational asymmetry of the brightest object of SCI"),
        "ASYMMP": (share, "part of the training set that is as asymmetric"),
    }
    rest = f"all but {100 * share:.2g} % of the training set"
    line = f"the brightest object is more asymmetric ({value:.2f}) than {rest}"
    return cards, [line] if share < RARE else []


def _check_scale(frame: Frame, training: Training, config: Config) -> None:
    if training.pixel_scales is None:
        return
    low, high = training.pixel_scales
    if frame.pixel_scale is None:
        raise UsageError(
            f"prior {config.prior!r} is for pixels of {low:g} to {high:g} arcsec, and the file does not tell its own: "
            "give it with --pixel-scale"
        )
    scale = frame.pixel_scale / frame.factor
    if low / SLACK <= scale <= high * SLACK:
        return
    best = max(1, round(frame.pixel_scale / np.sqrt(low * high)))
    hint = f"give --refine {best}"
    if not low / SLACK <= frame.pixel_scale / best <= high * SLACK:
        hint = "its pixels are too fine: bin them, or take another prior"
    raise UsageError(
        f"prior {config.prior!r} is for latent pixels of {low:g} to {high:g} arcsec, not {scale:.4g} (pixels of "
        f"{frame.pixel_scale:.4g} in {frame.factor}): {hint}"
    )


def _flux(frame: Frame, training: Training, config: Config) -> tuple[float, str]:
    """What one unit of flux of the data is in that of the training set, and how this is known."""
    from invprob.units import is_surface_brightness

    if is_surface_brightness(frame.unit):
        raise UsageError(
            f"prior {config.prior!r} needs fluxes of pixels, not the surface brightness {frame.unit!r}: multiply by "
            "the area of a pixel"
        )
    if training.zeropoint is not None and frame.zeropoint is not None:
        return 10 ** (-0.4 * (frame.zeropoint - training.zeropoint)), f"zero point {frame.zeropoint:.3f}"
    if frame.unit and frame.unit == training.unit:
        return 1.0, "taken to be the same"
    known = f" of zero point {training.zeropoint:g}" if training.zeropoint is not None else ""
    raise UsageError(
        f"prior {config.prior!r} is for fluxes in {training.unit or 'its own unit'}{known}, and that of one unit of "
        f"the image ({frame.unit or 'no unit'}) is not known: give its AB magnitude with --zeropoint"
    )


def _other_noise(model: Model, training: Training, flux: float):
    """In what the noise and the PSF are unlike those that a denoiser was trained with."""
    noise = float(model.unit) * flux
    if not training.smallest <= noise <= training.largest:
        yield (
            f"the noise of a latent pixel, {noise:.3g} {training.unit}, is outside the {training.smallest:g} to "
            f"{training.largest:g} that the prior was trained with"
        )
    if model.kernel is not None:
        width = _fwhm(model.kernel)
        if width > training.widest:
            yield f"the PSF is {width:.0f} latent pixels wide, the prior was trained with at most {training.widest:.0f}"


def _too_bright(model: Model, training: Training, flux: float):
    """Whether an image is brighter than the training set."""
    brightest = _brightest(training)
    if brightest is not None and training.zeropoint is not None:
        total = model.mean_image() * np.prod([s.stop - s.start for s in model.frame.footprint]) * flux
        limit = 10 ** (-0.4 * (brightest - training.zeropoint))
        if total > 2 * limit:
            magnitude = training.zeropoint - 2.5 * np.log10(total)
            yield f"the image is of magnitude {magnitude:.1f}, the brightest galaxies of the training set {brightest:g}"


def _brightest(training: Training) -> float | None:
    simulated = _facts(training).get("simulated")
    return None if simulated is None else simulated["brightest"]


def _fwhm(kernel: np.ndarray) -> float:
    """Diameter in pixels of the part above half of the peak."""
    return float(2 * np.sqrt((kernel > 0.5 * kernel.max()).sum() / np.pi))


__all__ = ["check_learned", "check_weights", "compared", "learned_prior", "load", "model_card", "warnings"]
