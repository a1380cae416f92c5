"""Draws of one deconvolution whose posterior is not Gaussian: chains, judged, as `Samples` on the footprint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invprob.config import Config
from invprob.diagnostics.convergence import ChainDiagnostics
from invprob.errors import CapabilityError, UsageError
from invprob.evidence.predictive import predicted
from invprob.operators.base import total
from invprob.posterior import Hierarchy, Posterior, Problem
from invprob.progress import Listener
from invprob.results import Samples
from invprob.results.report import Report
from invprob.sampling.sample import SAMPLERS, as_sampler, sample
from invprob.sampling.samplers import AbstractMarkov

SHOWN = 3  # reasons that are said; the header has all
FEW = 100  # draws in the FITS file, where all are in a store: the error of an error is then 7 %
NUM_CHAIN_DRAWS = 2000  # of all chains, where the configuration does not say
NUM_FISSION = 500  # draws that predict half of the data: p-values down to 4 / 501, below the 0.01 that is asked for
NUM_HYPER_DRAWS = 4000  # the same with hyperparameters, which mix more slowly than the image


def check_sampler(target: Posterior | Hierarchy, config: Config) -> None:
    """Refuse a sampler that cannot sample under this prior, before any work is done.

    Raises
    ------
    UsageError
        With what the sampler needs.
    """
    try:
        sampler, _ = as_sampler(config.sampler, target, config.num_warmup)
        eqx.filter_eval_shape(sampler.prepare, target)
    except CapabilityError as error:
        raise UsageError(f"method 'sample' with sampler {config.sampler!r} does not fit: {error}") from error


def check_sampler_name(name: str) -> None:
    """Refuse a name that is not known."""
    if name not in ("auto", *SAMPLERS):
        raise UsageError(f"no sampler is called {name!r}; there are auto, {', '.join(SAMPLERS)}")


def chains(target: Posterior | Hierarchy, config: Config, key, listener: Listener, checkpoint: Any) -> Samples:
    """The draws of the whole latent, with their quality; hyperparameters apart from it."""
    sampler, reason = as_sampler(config.sampler, target, config.num_warmup)
    number = NUM_HYPER_DRAWS if isinstance(target, Hierarchy) else NUM_CHAIN_DRAWS
    number = number if config.num_samples is None else config.num_samples
    warmup = f", after {sampler.num_warmup} steps of warm-up each" if isinstance(sampler, AbstractMarkov) else ""
    listener.note(f"sampling: {number} draws of {config.num_chains} chains{warmup} ({reason})")
    found = sample(
        target, key, number, sampler, num_chains=config.num_chains, progress=listener.step, checkpoint=checkpoint
    )
    for line in found.failures[:SHOWN]:
        listener.note(f"not mixed: {line}")
    if len(found.failures) > SHOWN:
        listener.note(f"not mixed: and {len(found.failures) - SHOWN} more, in the header (CONVCHK)")
    found = replace(found, reason=reason)
    if not isinstance(target, Hierarchy):
        return found
    return replace(
        found, x=found.x["x"], latents=found.latents["x"], latent_std=found.latent_std["x"],
        hyper=found.latents["theta"],
    )  # fmt: skip


def heldout_report(post: Posterior, config: Config, key, listener: Listener) -> Report:
    """p-values of one half of the data under the posterior of the other."""
    sampler, _ = as_sampler(config.sampler, post, config.num_warmup)
    listener.note("drawing from half of the data, to predict the other half")

    def draw(half: Posterior, key):
        found = sample(half, key, NUM_FISSION, sampler, num_chains=config.num_chains, progress=listener.step)
        return jax.tree.map(lambda a: jnp.asarray(a.reshape(-1, *a.shape[2:])), found.latents)

    found = predicted(post, key, draw)
    return Report.of(
        heldout_p_value=found.p_value, heldout_p_chi2=found.chi2, heldout_p_matched=found.structure
    )  # fmt: skip


def on_the_footprint(problem: Problem, found: Samples) -> np.ndarray:
    """The image of each draw on the footprint, ``(draw, y, x)``."""
    latents = found.latents["image"] if problem.nuisances else found.latents
    images = total(latents) if isinstance(latents, dict) else latents
    images = np.asarray(images).reshape(-1, *images.shape[2:])
    rows, columns = problem.frame.footprint
    return images[:, rows, columns]


@eqx.filter_jit
def fit_trace(post: Posterior, mean: PyTree, draws: PyTree) -> Float[Array, ""]:
    """Trace of the fit, ``A S A.T N^-1`` with S the covariance of the draws, which lie along a leading axis."""
    like = post.likelihood
    centre = like.residual(mean)

    def add(sums, x):
        away = like.residual(x) - centre
        return (sums[0] + away, sums[1] + jnp.sum(away**2)), None

    (moved, squares), _ = jax.lax.scan(add, (jnp.zeros_like(centre), jnp.zeros((), centre.dtype)), draws)
    number = len(jax.tree.leaves(draws)[0])
    return (squares - jnp.sum(moved**2) / number) / (number - 1)


def fewer(samples: Samples, every: int) -> Samples:
    """The result with one image of each chain in so many; all else is still that of all draws."""
    assert samples.draws is not None
    shape = samples.draws.shape[1:]
    kept = samples.draws.reshape(samples.num_chains, -1, *shape)[:, every - 1 :: every]
    return replace(samples, draws=kept.reshape(-1, *shape))


def every_for_few(samples: Samples) -> int:
    """The thinning that leaves at most `FEW` images, but at least one of each chain."""
    assert samples.draws is not None
    return min(-(-len(samples.draws) // FEW), len(samples.draws) // samples.num_chains)


def convergence_report(found: Samples, config: Config) -> Report:
    """What is said of the chains."""
    said = Report.of(sampler=found.solver, num_chains=config.num_chains, num_samples=found.steps)
    if found.bias:
        said |= Report.of(bias=found.bias)
    quality = found.quality
    if isinstance(quality, ChainDiagnostics):
        said |= Report.of(
            max_rhat=quality.worst_rhat, min_ess_bulk=quality.min_bulk_ess, min_ess_tail=quality.min_tail_ess
        )
        if quality.e_bfmi is not None:
            said |= Report.of(min_ebfmi=float(np.min(quality.e_bfmi)))
        if quality.transitions:
            said |= Report.of(num_divergent=quality.divergent)
    return said | Report.of(convergence_check="; ".join(found.failures) if found.failures else "passed")
