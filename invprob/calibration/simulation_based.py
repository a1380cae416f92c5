"""Simulation-based calibration of a sampler: truths from the prior, data, draws, and what must then hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invprob.calibration import statistics
from invprob.calibration.draws import AbstractDraw, HostDraw, Sampler, World
from invprob.calibration.hypothesis_tests import judge, outcome
from invprob.calibration.residuals import gaussian
from invprob.calibration.results import Calibration
from invprob.calibration.summaries import image_summaries
from invprob.errors import CapabilityError, UsageError
from invprob.operators.base import precision_of
from invprob.posterior import Posterior
from invprob.priors import HasSample

DEFAULT = image_summaries
PACKAGES = ("invprob", "jax", "numpy", "scipy")
Truths = Callable[[Any], PyTree] | PyTree


def only_image(x: PyTree) -> Array:
    """The latent pytree where it is one image.

    Raises
    ------
    UsageError
        Where it is not.
    """
    leaves = jax.tree.leaves(x)
    if len(leaves) != 1 or leaves[0].ndim != 2:
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise UsageError(f"the summaries need one image, the latent pytree has arrays of {shapes}: give image_of")
    return leaves[0]


def calibrate(
    post: Posterior,
    draw: AbstractDraw | Sampler,
    key,
    *,
    truths: Truths | None = None,
    analysed: Posterior | None = None,
    summaries: Callable[[Array], dict[str, Array]] = DEFAULT,
    image_of: Callable[[PyTree], Array] = only_image,
    num_cases: int = 100,
    num_draws: int = 99,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Whether the error bars of a sampler are right, tested on simulated data whose truth is known.

    In each case a truth is drawn from the prior and data from the likelihood, and the sampler draws from the posterior
    given these data. The truth must then be one more draw: its rank among the draws is uniform for each summary,
    intervals cover it as often as they say, and the residuals of a draw are white noise. The tests and what they are
    good for are in `invprob.calibration.statistics` and `invprob.calibration.residuals`.

    Parameters
    ----------
    post
        The simulated world: its prior and its likelihood. Its data are ignored.
    draw
        The sampler under test, ``(post, key, num_draws) -> draws``, the latent pytree with a leading axis: as a
        `PureDraw` where JAX can trace it, else as it is. Draws have to be independent of one another, or thinned until
        they nearly are: ranks among correlated draws are not uniform.
    key
        Random key. Case i depends on it and on i alone, whatever the number of cases; only TARP, whose random points
        are of the next case, looks beyond.
    truths
        For a prior that cannot be drawn from: a function ``key -> latent pytree``, or ``num_cases`` truths stacked
        along a leading axis.
    analysed
        The posterior that is sampled, after its data are replaced; default: ``post``. A control gives a wrong noise
        variance or PSF here.
    summaries
        From an image to named numbers, each tested by its ranks, and named vectors, groups of numbers whose coverage
        is tested.
    image_of
        From the latent pytree to the image that is summarized.
    num_cases, num_draws
        Number N of cases, and L of draws in each.
    progress
        Called with the cases done and to do.

    Returns
    -------
    Calibration
        The results of all tests.

    Raises
    ------
    CapabilityError
        When the likelihood is not Gaussian, or the prior cannot be drawn from and no truths are given.
    UsageError
        When structures, shapes or numbers do not fit.
    InputError
        When a summary of a truth or of a draw is not finite.
    """
    analysed = post if analysed is None else analysed
    _check(post, analysed)
    test = statistics.uniformity(num_cases, num_draws)
    runner = draw if isinstance(draw, AbstractDraw) else HostDraw(draw)
    cases_key, ties_key = jax.random.split(key)
    pairs = [jax.random.split(jax.random.fold_in(cases_key, i)) for i in range(num_cases)]
    truth_keys, case_keys = (jnp.stack(keys) for keys in zip(*pairs, strict=True))
    world = World(gaussian(post), analysed, summaries, image_of, num_draws)
    outcomes = []
    for i, case in enumerate(runner.cases(world, _truths(post, truths, truth_keys), case_keys)):
        outcomes.append(outcome(case, i, _generator(jax.random.fold_in(ties_key, i))))
        if progress is not None:
            progress(i + 1, num_cases)
    verdict = judge(outcomes, test, _generator(ties_key))
    settings = _settings(post, analysed, runner, key)
    versions = {name: version(name) for name in PACKAGES}
    return Calibration(
        num_cases, num_draws, verdict.checks, verdict.coverages, verdict.curves, verdict.ranks, settings, versions
    )


def _settings(post: Posterior, analysed: Posterior, runner: AbstractDraw, key) -> dict[str, Any]:
    """What a calibration was made with."""
    likelihood = gaussian(analysed)
    return {
        "sampler": _name(runner.sampler),
        "run": type(runner).__name__,
        "prior": type(post.prior).__name__,
        "analysed": "as simulated" if analysed is post else "another posterior",
        "latent": str(post.structure),
        "data": str(likelihood.data.shape),
        "num_data": int(likelihood.num_data),
        "dtype": str(precision_of(likelihood.data)),
        "key": np.asarray(jax.random.key_data(key)).ravel().tolist(),
    }


def _check(post: Posterior, analysed: Posterior) -> None:
    simulated, used = gaussian(post).data.shape, gaussian(analysed).data.shape
    if simulated != used:
        raise UsageError(f"data of shape {simulated} are simulated, what is analysed takes {used}: they must agree")
    if not post.structure.matches(analysed.structure):
        raise UsageError(
            f"the truths are {post.structure}, what is analysed describes {analysed.structure}: they must agree"
        )
    there, wanted = (
        np.broadcast_to(True if v is None else np.asarray(v), simulated)
        for v in (gaussian(post).valid, gaussian(analysed).valid)
    )
    if np.any(wanted & ~there):
        raise UsageError(
            f"{np.sum(wanted & ~there)} of the data that are analysed are not valid in the simulated world, and are "
            "not simulated: mask them in what is analysed"
        )


def _truths(post: Posterior, truths: Truths | None, keys) -> PyTree:
    """All truths, stacked."""
    if truths is None:
        prior = post.prior.find(HasSample)
        if prior is None:
            raise CapabilityError(
                f"{type(post.prior).__name__} cannot be drawn from (HasSample): give truths, a function of a key or "
                "stacked latent pytrees"
            )
        return _samples(prior, keys)
    if callable(truths):
        drawn = [truths(key) for key in keys]
        truths = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    needed = jax.tree.map(lambda s: (len(keys), *s.shape), post.structure.tree)
    given = jax.tree.map(np.shape, truths)
    if given != needed:
        raise UsageError(f"truths of shape {given} were given; {needed} is needed: num_cases along a leading axis")
    return jax.tree.map(jnp.asarray, truths)


@eqx.filter_jit
def _samples(prior: HasSample, keys) -> PyTree:
    return jax.lax.map(prior.sample, keys)


def _generator(key) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _name(sampler: Sampler) -> str:
    return sampler.__qualname__ if inspect.isroutine(sampler) else type(sampler).__name__
