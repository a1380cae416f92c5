"""Draws as groups of named arrays with named axes: the layout that ArviZ and xarray read (InferenceData)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from invprob import __version__
from invprob.errors import UsageError

if TYPE_CHECKING:
    from invprob.results.estimate import Samples

AXES = ("chain", "draw", "y", "x")


@dataclass(frozen=True, eq=False)
class Variable:
    """An array with the names of its axes."""

    dims: tuple[str, ...]
    values: np.ndarray


Groups = dict[str, dict[str, Variable]]


def groups(samples: Samples, every: int = 1) -> Groups:
    """The draws of a result, and what is known of each of them.

    Parameters
    ----------
    samples
        A result that holds draws.
    every
        Keep one draw of each chain in so many.

    Returns
    -------
    dict
        ``posterior``, and ``sample_stats`` where the draws come from chains; each a mapping from names to variables
        with the axes ``(chain, draw, ...)``, followed by the coordinates of these axes. ``draw`` is the number of the
        draw in its chain, thinned or not; ``y`` and ``x`` count latent pixels from zero.

    Raises
    ------
    UsageError
        When there are no draws, or fewer in each chain than ``every``.

    Notes
    -----
    One image is ``image``, and one latent of another shape ``latent``. The parts of a pytree have the last part of
    their path as name, with the path before it where two parts would have the same; so have hyperparameters. An array
    of two axes has ``(y, x)``, any further one that differs from the first in its shape ``(NAME_dim_0, NAME_dim_1)``.
    """
    found = _variables(samples)
    if not found or not all(values.shape[1] for values in found.values()):
        raise UsageError("the result holds no draws: take ip.sample, or ip.deconvolve with method 'sample'")
    number = next(iter(found.values())).shape[1]
    if not 1 <= every <= number:
        raise UsageError(f"every = {every} keeps no draw of {number} in each chain: give 1 to {number}")
    image = found.get("image", next((v for v in found.values() if v.ndim == 4), None))
    image_shape = None if image is None else image.shape[2:]

    def variable(name: str, values: np.ndarray) -> Variable:
        shape = values.shape[2:]
        own = ("y", "x") if shape == image_shape else tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        return Variable(("chain", "draw", *own), values[:, every - 1 :: every])

    draw = samples.every * (np.arange(every - 1, number, every) + 1) - 1
    out = {"posterior": {name: variable(name, values) for name, values in found.items()}}
    if samples.stats:
        out["sample_stats"] = {name: variable(name, np.asarray(v)) for name, v in samples.stats.items()}
    return {name: {**group, **_coordinates(group, draw)} for name, group in out.items()}


def facts(samples: Samples, every: int = 1) -> dict[str, Any]:
    """What a reader has to know of the draws to judge them: texts and numbers alone, which every format holds."""
    check = "; ".join(samples.failures) or ("passed" if samples.quality is not None else "none: independent draws")
    found = {
        "inference_library": "invprob",
        "inference_library_version": __version__,
        "status": samples.status.name,
        "advice": samples.status.value,
        "solver": samples.solver,
        "reason": samples.reason,
        "convergence_check": check,
        "bias": samples.bias,
        "thinning": samples.every * every,
        "steps": samples.steps,
        "chi2": float(samples.chi2),
        "num_data": samples.num_data,
    }
    # of a view there may be no chi-square, and JSON has no number for that
    return found if np.isfinite(samples.chi2) else {k: v for k, v in found.items() if k != "chi2"}


def _coordinates(group: dict[str, Variable], draw: np.ndarray) -> dict[str, Variable]:
    sizes = {dim: size for v in group.values() for dim, size in zip(v.dims, v.values.shape, strict=True)}
    numbers = {dim: np.arange(size) for dim, size in sizes.items()} | {"draw": draw}
    return {dim: Variable((dim,), values) for dim, values in numbers.items()}


def _variables(samples: Samples) -> dict[str, np.ndarray]:
    """All that was drawn, by name, with the axes ``(chain, draw, ...)``."""
    paths = _leaves(samples.latents)
    if samples.draws is not None and [path for path, _ in paths] != [()]:
        draws, chains = np.asarray(samples.draws), samples.num_chains
        if len(draws) % chains:
            raise UsageError(f"{len(draws)} draws are not those of {chains} chains: num_chains has to divide them")
        paths.insert(0, (("image",), draws.reshape(chains, -1, *draws.shape[1:])))
    paths += [((name,), np.asarray(values)) for name, values in samples.hyper.items()]
    return dict(zip(_names(paths), (leaf for _, leaf in paths), strict=True))


def _leaves(tree: Any) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """The arrays of a pytree, with their paths in words."""
    if tree is None or isinstance(tree, np.ndarray):
        return [] if tree is None else [((), tree)]
    import jax  # where there is a pytree that is no array, there is JAX

    def words(path) -> tuple[str, ...]:
        return tuple(re.sub(r"\W", "_", jax.tree_util.keystr((key,), simple=True)) for key in path)

    return [(words(path), np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]


def _names(paths: list[tuple[tuple[str, ...], np.ndarray]]) -> list[str]:
    short = [path[-1] if path else "x" for path, _ in paths]
    names: list[str] = []
    for (path, leaf), name in zip(paths, short, strict=True):
        if name == "x":  # the latent itself
            name = "image" if leaf.ndim == 4 else "latent"
        elif short.count(name) > 1:
            name = "_".join(path)
        if name in AXES or name[:1].isdigit():
            name = f"latent_{name}"
        while name in names:
            name += "_"
        names.append(name)
    return names


__all__ = ["Groups", "Variable", "facts", "groups"]
