"""`train`: from a recipe to a file of weights, with progress, and a checkpoint from which it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invprob.files import check_writable
from invprob.infer.loop import Checkpoint
from invprob.learn.data import training_data
from invprob.learn.recipe import Recipe
from invprob.learn.training import Schedule, advanced, first_state, measured_spectrum, validated
from invprob.priors.denoiser import Denoiser, untrained
from invprob.priors.learned import Training
from invprob.priors.stored import save_denoiser

LINE_SECONDS, CHECKPOINT_SECONDS = 10.0, 60.0


@dataclass(frozen=True)
class Trained:
    """What a training run gives: the denoiser, what it was trained on, and the validation curve.

    Parameters
    ----------
    denoiser, training
        With the moving average of the weights; the hash is that of the file.
    curve
        For each look at the validation stamps: steps, loss, and the loss of the Wiener filter.
    """

    denoiser: Denoiser
    training: Training
    curve: tuple[tuple[int, float, float], ...]


def train(
    recipe: Recipe,
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> Trained:
    """Train a denoiser and write its weights.

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
    stamps, kept, about = training_data(recipe, note)
    spectrum, mean = measured_spectrum(stamps)
    architecture = recipe.network.model_dump()
    blank = untrained(jax.random.key(recipe.seed), spectrum, mean, **architecture)
    weights = sum(a.size for a in jax.tree.leaves(eqx.filter(blank.network, eqx.is_array)))
    note(f"a network of {weights} numbers, {recipe.steps} steps of {recipe.batch} stamps")
    schedule = Schedule(recipe.steps, recipe.batch, recipe.learning_rate, recipe.decay, recipe.white)
    place = Path(f"{os.fspath(out)}.state")
    denoiser, curve = _trained(blank, stamps, kept, schedule, recipe, place, note)
    card = {**about.card, "recipe": recipe.model_dump(), "curve": curve}
    about = replace(about, card=card)
    digest = save_denoiser(denoiser, out, about, architecture, overwrite)
    place.unlink(missing_ok=True)
    return Trained(denoiser, replace(about, hash=digest), tuple(curve))


def _trained(blank, stamps, kept, schedule: Schedule, recipe: Recipe, place: Path, note):
    """The loop: steps, looks at the validation stamps, lines and checkpoints."""
    keep = Checkpoint(place, (blank, stamps, schedule), "training")
    key, looks = jax.random.key(recipe.seed + 1), -(-recipe.steps // recipe.every)
    curve = jnp.full((looks, 3), jnp.nan)
    state, curve = keep.load((first_state(blank, schedule), curve))
    step, curve = int(state.step), np.array(curve)
    if step:
        note(f"going on from step {step}")
    begun = said = saved = time.monotonic()
    recent = []
    try:
        while step < recipe.steps:
            state, losses = advanced((blank, stamps, key), state, schedule)
            step += 1
            recent.append(losses)
            now = time.monotonic()
            if step % recipe.every == 0 or step == recipe.steps:
                found = validated(_average(blank, state), kept, recipe.white, jax.random.key(recipe.seed + 2))
                curve[(step - 1) // recipe.every] = (step, *found)
                note(f"step {step:6d}  validation loss {found[0]:.4f}  Wiener filter {found[1]:.4f}")
            if now - said > LINE_SECONDS:
                mean = np.mean(np.asarray(recent), axis=0)
                note(f"step {step:6d} of {recipe.steps}  loss {mean[0]:.4f}  {now - begun:6.0f} s")
                recent, said = [], now
            if now - saved > CHECKPOINT_SECONDS:
                keep.save((state, jnp.asarray(curve)))
                saved = now
    except KeyboardInterrupt as stop:
        keep.save((state, jnp.asarray(curve)))
        stop.state = place  # type: ignore[attr-defined]
        raise
    return _average(blank, state), [(int(a), float(b), float(c)) for a, b, c in curve]


def _average(blank: Denoiser, state) -> Denoiser:
    return eqx.tree_at(lambda d: d.network, blank, state.average)


__all__ = ["Trained", "train"]
