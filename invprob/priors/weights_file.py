"""Learned priors in files: a JSON header of one line, and the arrays. Never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from invprob.errors import InputError
from invprob.files import atomic_write
from invprob.priors.denoiser import Denoiser, Spectrum, untrained, widened
from invprob.priors.generator import Generator, GeneratorPrior
from invprob.priors.learned import DenoiserPrior, Training

FORMATS = {"invprob denoiser 2": Denoiser, "invprob generator 1": Generator}
EARLIER = {"invprob denoiser 1": (1e-1, 1e-2, 1e-3, 1e-4)}
"""Formats of denoisers that are read still, and the filters of their networks (`invprob.priors.denoiser.SHARES`)."""


def shipped_weights(name: str) -> Path:
    """Where the weights of a name lie, if they come with the package."""
    return Path(__file__).parent / "weights" / f"{name}.eqx"


def save_weights(
    model: Denoiser | Generator, path: str | os.PathLike[str], training: Training, architecture: dict[str, Any],
    overwrite: bool = False,
) -> str:  # fmt: skip
    """Write a denoiser or a generator with what it was trained on.

    Parameters
    ----------
    model
        The denoiser (Wiener filter and network), or the generator.
    path
        File to write.
    training
        What it was trained on; its hash is left out, and is that of what is written.
    architecture
        Settings of the network, as `invprob.priors.denoiser.untrained` or `Generator` takes them.
    overwrite
        Whether a file that exists may be replaced.

    Returns
    -------
    str
        SHA-256 of header and arrays.

    Raises
    ------
    OutputError
        When the file exists or cannot be written.
    """
    arrays = io.BytesIO()
    single = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, model)
    eqx.tree_serialise_leaves(arrays, single)
    facts = {k: v for k, v in dataclasses.asdict(training).items() if k != "hash"}
    kind = next(name for name, type_ in FORMATS.items() if isinstance(model, type_))
    header: dict[str, Any] = {"format": kind, "network": architecture, "training": facts}
    if isinstance(model, Denoiser):
        header["knots"] = len(model.spectrum.frequency)
    body = json.dumps(header, sort_keys=True).encode() + b"\n" + arrays.getvalue()
    digest = hashlib.sha256(body).hexdigest()
    with atomic_write(path, overwrite) as stream:
        stream.write(digest.encode() + b"\n" + body)
    return digest


def load_weights(path: str | os.PathLike[str]) -> tuple[Denoiser | Generator, Training]:
    """The model of a file of `save_weights`, and what it was trained on; the hash of the file is checked.

    Raises
    ------
    InputError
        When the file cannot be read, is another format, or its content does not have the hash it says.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a file of invprob train is needed") from None
    digest, _, body = content.partition(b"\n")
    head, _, arrays = body.partition(b"\n")
    try:
        header = json.loads(head)
        known = header["format"] in (*FORMATS, *EARLIER)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path}: not weights of a learned prior; a file of invprob train is needed")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise InputError(f"{path}: damaged, its content does not have the hash it says; copy or train it again")
    try:
        model = eqx.tree_deserialise_leaves(io.BytesIO(arrays), _blank(header))
    except (RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{path}: the arrays do not fit the header ({error}); train it again") from None
    if header["format"] in EARLIER:
        model = eqx.tree_at(lambda d: d.network, model, widened(model.network, EARLIER[header["format"]]))
    facts = header["training"]
    if facts["pixel_scales"] is not None:
        facts["pixel_scales"] = tuple(facts["pixel_scales"])
    return model, Training(**facts, hash=digest.decode())


def _blank(header: dict[str, Any]) -> Any:
    """The shapes of the arrays of a file."""
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in header["network"].items()}
    key = jax.random.key(0)
    if FORMATS.get(header["format"]) is Generator:
        return eqx.filter_eval_shape(Generator, key, **settings)
    knots = jnp.zeros(header["knots"], jnp.float32)
    if header["format"] in EARLIER:
        settings["shares"] = EARLIER[header["format"]]
    return eqx.filter_eval_shape(untrained, key, Spectrum(knots, knots), 0.0, **settings)


def as_prior(
    model: Denoiser | Generator, shape: tuple[int, int], training: Training, flux: Any = 1.0
) -> DenoiserPrior | GeneratorPrior:
    """The prior of a model for images of a shape, one unit of which is ``flux`` of that of the training set."""
    kind = GeneratorPrior if isinstance(model, Generator) else DenoiserPrior
    return kind(model, shape, training, jnp.asarray(flux))  # type: ignore[arg-type]


def learned_prior(path: str | os.PathLike[str], shape: tuple[int, int]) -> DenoiserPrior | GeneratorPrior:
    """The learned prior of a file, for images of a shape.

    Raises
    ------
    InputError
        For a file that cannot be used.
    """
    model, training = load_weights(path)
    return as_prior(model, shape, training)


__all__ = ["as_prior", "learned_prior", "load_weights", "save_weights", "shipped_weights"]
