"""`train`: from a recipe to a file of weights, with progress, and a checkpoint from which it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from invprob.errors import UsageError
from invprob.files import check_writable
from invprob.learn import encoder, training
from invprob.learn.data import LOOKED_AT, asymmetries, training_data
from invprob.learn.recipe import Recipe
from invprob.learn.steps import Schedule, State
from invprob.learn.training import Noise, Stamps, measured_spectrum
from invprob.loop import Checkpoint, Chunk, Pace, Watch, run_chunks
from invprob.priors.denoiser import Denoiser, Spectrum, untrained
from invprob.priors.generator import Generator
from invprob.priors.learned import Training
from invprob.priors.network import UNet
from invprob.priors.weights_file import load_weights, save_weights, shipped_weights

LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Trained:
    """What a training run gives: the model, what it was trained on, and the validation curve.

    Parameters
    ----------
    model, training
        The denoiser or generator with the moving average of the weights; the hash is that of the file.
    curve
        For each look at the validation stamps: steps, loss, and what it is compared with (the loss of the Wiener
        filter; NaN for a generator).
    """

    model: Denoiser | Generator
    training: Training
    curve: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Job:
    """What is trained, and how.

    Parameters
    ----------
    state
        The state before the first step, with a field ``step``.
    advance
        From a state to the next one and its loss.
    look
        From a state to the loss of the validation stamps and what it is compared with.
    model
        From a state to what is written.
    architecture
        Settings of the network.
    fingerprint
        Arrays and settings by which a checkpoint is known.
    """

    state: Any
    advance: Callable[[Any], tuple[Any, Any]]
    look: Callable[[Any], tuple[float, float]]
    model: Callable[[Any], Denoiser | Generator]
    architecture: dict[str, Any]
    fingerprint: Any


def train(
    recipe: Recipe,
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> Trained:
    """Train a denoiser or a generator and write its weights.

    Parameters
    ----------
    recipe
        What to train on, and how.
    out
        File of the weights. Beside it, ``OUT.state`` keeps the state every minute and at Ctrl-C, and the same call goes
        on from it with the numbers of a run that was not stopped.
    overwrite
        Whether a file that exists may be replaced.
    note
        Called with lines of progress.

    Raises
    ------
    UsageError, InputError
        When the recipe or its data do not fit.
    OutputError
        When the file exists or cannot be written.
    KeyboardInterrupt
        At Ctrl-C, with the state's file as the attribute ``state``.
    """
    check_writable(out, overwrite)
    network, start = (None, {}) if recipe.start is None else _begun(recipe.start, recipe)
    stamps, kept, about = training_data(recipe, note)
    if recipe.generator is None:
        job = _denoiser_job(recipe, stamps, kept, network)
    else:
        job = _generator_job(recipe, stamps, kept)
    blank = job.model(job.state)
    weights = sum(a.size for a in jax.tree.leaves(eqx.filter(blank, eqx.is_array)))
    note(f"a network of {weights} numbers, {recipe.steps} steps of {recipe.batch} stamps")
    place = Path(f"{os.fspath(out)}.state")
    state, curve = _trained(job, recipe, place, note)
    model = job.model(state)
    card = {**_shapes(model, stamps), **about.card, **start, "recipe": recipe.model_dump(), "curve": curve}
    about = replace(about, card=card)
    digest = save_weights(model, out, about, job.architecture, overwrite)
    place.unlink(missing_ok=True)
    return Trained(model, replace(about, hash=digest), tuple(curve))


def _schedule(recipe: Recipe) -> Schedule:
    return Schedule(recipe.steps, recipe.batch, recipe.learning_rate, recipe.decay)


def _denoiser_job(recipe: Recipe, stamps: Stamps, kept: Stamps, network: UNet | None) -> Job:
    spectrum, mean = measured_spectrum(stamps)
    architecture = recipe.network.model_dump()
    blank = untrained(jax.random.key(recipe.seed), spectrum, mean, **architecture)
    if network is not None:
        blank = eqx.tree_at(lambda d: d.network, blank, network)
    schedule, key = _schedule(recipe), jax.random.key(recipe.seed + 1)
    noise = Noise(recipe.white, recipe.depth)

    def model(state: Any) -> Denoiser:
        return eqx.tree_at(lambda d: d.network, blank, state.average)

    def look(state: Any) -> tuple[float, float]:
        found = training.validated(model(state), kept, noise, jax.random.key(recipe.seed + 2))
        return float(found[0]), float(found[1])

    return Job(
        State.first(blank.network, schedule),
        lambda state: training.advanced((blank, stamps, noise, key), state, schedule),
        look, model, architecture, (blank, stamps, noise, schedule),
    )  # fmt: skip


def _begun(start: str, recipe: Recipe) -> tuple[UNet, dict[str, str]]:
    """The network of weights, which has to be that of the recipe, and their hash for the card."""
    shipped = shipped_weights(start)
    model, training = load_weights(shipped if shipped.is_file() else start)
    if not isinstance(model, Denoiser):
        raise UsageError(f"start: {start} is a generator; the weights of a denoiser are needed")
    knots = jnp.zeros(1)
    blank = untrained(jax.random.key(0), Spectrum(knots, knots), 0.0, **recipe.network.model_dump())
    given, needed = (
        (jax.tree.structure(n), [jnp.shape(a) for a in jax.tree.leaves(n)]) for n in (model.network, blank.network)
    )
    if given != needed:
        raise UsageError(
            f"start: the network of {start} is not that of the recipe; give the [network] it was made with"
        )
    return model.network, {"start": training.hash}


def _generator_job(recipe: Recipe, stamps: Stamps, kept: Stamps) -> Job:
    assert recipe.generator is not None
    architecture = {"size": recipe.size, **recipe.generator.model_dump()}
    blank = encoder.Autoencoder(jax.random.key(recipe.seed), **architecture)
    schedule, key = replace(_schedule(recipe), memory=0.999), jax.random.key(recipe.seed + 1)

    def look(state: Any) -> tuple[float, float]:
        return float(encoder.validated(state.average, kept.images, jax.random.key(recipe.seed + 2))), float("nan")

    return Job(
        State.first(blank, schedule), lambda state: encoder.advanced(stamps, key, state, schedule), look,
        lambda state: state.average.generator, architecture, (blank, stamps, schedule),
    )  # fmt: skip


def _shapes(model: Denoiser | Generator, stamps: Stamps) -> dict[str, Any]:
    """The asymmetry of stamps that have noise of their own: that of what the denoiser makes of them, as smooth as the
    best images that it will be compared with."""
    if not isinstance(model, Denoiser) or not stamps.variance.any():
        return {}

    def denoised(image: Array, variance: Array) -> Array:
        return model(image, jnp.full_like(model.power(image.shape, image.dtype), variance))

    seen = stamps.images[:LOOKED_AT], stamps.variance[:LOOKED_AT]
    images = jax.jit(lambda seen: jax.lax.map(lambda one: denoised(*one), seen))(seen)
    return {"asymmetry": asymmetries(np.asarray(images))}


@dataclass(frozen=True)
class TrainingProgress:
    """One line of progress: steps taken and to take, the mean loss since the last line, seconds since the start."""

    step: int
    num_steps: int
    loss: float
    seconds: float

    def __str__(self):
        return f"step {self.step:6d} of {self.num_steps}  loss {self.loss:.4f}  {self.seconds:6.0f} s"


def _trained(job: Job, recipe: Recipe, place: Path, note):
    """The steps, and looks at the validation stamps between them.

    There is no stop rule: the learning rate ends at zero with the last step, and weights from before that are not good.
    """
    # it stays until the weights are written
    keep = Checkpoint(place, job.fingerprint, "training", is_lasting=True)
    looks = -(-recipe.steps // recipe.every)
    start = keep.load((job.state, jnp.full((looks, 3), jnp.nan)))
    step, recent = int(start[0].step), []
    if step:
        note(f"going on from step {step}")

    def advance(given: Any, until: int) -> Chunk[Any]:
        # a copy: a step uses the memory of the state before again, and an interruption falls back to the one given
        state, curve = jax.tree.map(lambda a: a.copy() if eqx.is_array(a) else a, given)
        first, losses = int(state.step), []
        for _ in range(first, until):
            state, found = job.advance(state)
            losses.append(found)
        for number, loss in enumerate(np.asarray(losses).reshape(len(losses), -1)[:, 0], first + 1):
            _check_finite(loss, number, recipe)
            recent.append(loss)
        if until % recipe.every == 0 or until == recipe.steps:
            found = job.look(state)
            _check_finite(found[0], until, recipe)
            curve = np.array(curve)
            curve[(until - 1) // recipe.every] = (until, *found)
            beside = f"  Wiener filter {found[1]:.4f}" if np.isfinite(found[1]) else ""
            note(f"step {until:6d}  validation loss {found[0]:.4f}{beside}")
        return Chunk((state, curve), until)

    def line(chunk: Chunk[Any], seconds: float) -> TrainingProgress:
        mean = float(np.mean(recent))
        recent.clear()
        return TrainingProgress(chunk.step, recipe.steps, mean, seconds)

    outcome = run_chunks(
        Chunk(start, step), advance, line, recipe.steps, watch=Watch(lambda line: note(str(line))), keep=keep,
        pace=Pace(line_seconds=LINE_SECONDS), border=lambda step: (step // recipe.every + 1) * recipe.every,
    )  # fmt: skip
    if outcome.interrupted:
        stop = KeyboardInterrupt()
        stop.state = place  # type: ignore[attr-defined]
        raise stop
    state, curve = outcome.last.state
    return state, [(int(a), float(b), float(c)) for a, b, c in np.asarray(curve)]


def _check_finite(loss: float, step: int, recipe: Recipe) -> None:
    """Once it is not a number it stays so, and nothing is written."""
    if not np.isfinite(loss):
        rate = f"{recipe.learning_rate:g}"
        raise UsageError(
            f"learning_rate = {rate}: the loss is not a number at step {step}, the training diverged; give a smaller "
            "learning_rate"
        )


__all__ = ["Trained", "train"]
