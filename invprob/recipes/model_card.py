"""What is known of a learned prior: its weights, its training set, and what was measured of it."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from invprob.errors import InputError
from invprob.priors.denoiser import Denoiser
from invprob.priors.generator import Generator
from invprob.priors.learned import Training
from invprob.priors.weights_file import load_weights


@lru_cache(maxsize=4)
def _loaded(path: str, modified: int) -> tuple[Denoiser | Generator, Training]:
    return load_weights(path)


def load(path: Path) -> tuple[Denoiser | Generator, Training]:
    """Network and training of a file of weights; read once.

    Raises
    ------
    InputError
        When the file cannot be used.
    """
    return _loaded(str(path), path.stat().st_mtime_ns if path.exists() else 0)


def model_card(path: Path) -> dict[str, Any]:
    """What is known of a learned prior: its training set and range, and for a shipped one its scores and failures.

    The last entry, ``card sha256``, is the hash of all others, as JSON with sorted keys.

    Raises
    ------
    InputError
        When the file cannot be used, or the card beside it is that of other weights.
    """
    card = {**_training(path), **_scores(path)}
    return {**card, "card sha256": hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()}


def calibration_of(path: Path) -> str:
    """Whether error bars under a learned prior passed the tests of calibration: "passed", "failed" or "not tested"."""
    return str(model_card(path).get("calibration", {}).get("status", "not tested"))


def facts_of(training: Training) -> dict[str, Any]:
    """What a training wrote into the header of its weights."""
    return training.card if isinstance(training.card, dict) else {}


def _training(path: Path) -> dict[str, Any]:
    """The part of a card that the weights tell."""
    training = load(path)[1]
    facts = facts_of(training)
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
        last = zip(("step", "loss", "of the Wiener filter"), curve[-1], strict=True)
        card["validation"] = {what: value for what, value in last if np.isfinite(value)}
    return card


def _scores(path: Path) -> dict[str, Any]:
    """The part of a card that was measured: the file beside the weights, where that is a card of a learned prior."""
    beside = path.with_suffix(".json")
    try:
        scores = json.loads(beside.read_text()) if beside.is_file() else {}
    except ValueError:
        return {}
    if not isinstance(scores, dict) or "sha256" not in scores:
        return {}
    if scores.pop("sha256") != load(path)[1].hash:
        raise InputError(f"{beside} is the card of other weights than {path.name}: measure them again")
    return scores


__all__ = ["calibration_of", "facts_of", "load", "model_card"]
