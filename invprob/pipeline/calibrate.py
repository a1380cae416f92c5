"""Whether the error bars of a configuration are right: simulated data of the PSF, noise and mask of its image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from scipy import ndimage

from invprob import priors
from invprob.calibration import Calibration, Independent, PureDraw, Thinned, calibrate, image_summaries, prior_draws
from invprob.calibration.draws import Sampler
from invprob.config import Config
from invprob.diagnostics.rank_statistics import bulk_ess
from invprob.errors import UsageError
from invprob.observation import PSF, Observation
from invprob.operators import Crop
from invprob.pipeline.check import check
from invprob.pipeline.problem import build_problem
from invprob.pipeline.run import read
from invprob.posterior import Posterior, Problem
from invprob.progress import SILENT, Listener
from invprob.recipes.base import PriorRecipe
from invprob.recipes.registry import recipe_of
from invprob.sampling.sample import as_sampler
from invprob.sampling.samplers import AbstractIndependent, AbstractMarkov

ANCHOR = 100.0  # noise of a latent pixel: standard deviation of the Gaussian that makes a sparse prior proper
NOISE_FACTOR, PSF_FACTOR = 1.3, 1.05
LOOKED_AT = 200  # draws of one chain whose autocorrelation is measured ...
CORRELATED = 2.0  # ... and its time in draws above which it is told; that of independent ones is below 1.7


@dataclass(frozen=True)
class Control:
    """What is analysed wrongly on purpose: a factor on the noise variance, or on the width of the PSF."""

    noise: float = 1.0
    psf: float = 1.0


NO_TRUTHS = (
    "calibration draws truths from the prior: it takes fields, learned priors, and sparse ones of one image, without "
    "--positive, and --sky fit with a Gaussian prior alone"
)
CONTROLS = {"none": Control(), "noise": Control(noise=1 / NOISE_FACTOR), "psf": Control(psf=PSF_FACTOR)}


class Footprint(eqx.Module):
    """The image on the data's footprint, from a latent pytree."""

    cut: Crop
    has_parts: bool = eqx.field(static=True)

    def __call__(self, x: PyTree) -> Array:
        return self.cut.apply(x["image"] if self.has_parts else x)


def calibrate_configuration(
    config: Config,
    *,
    num_cases: int = 100,
    num_draws: int = 99,
    thin: int = 5,
    control: str = "none",
    listener: Listener = SILENT,
) -> Calibration:
    """Simulation-based calibration of the draws that a configuration makes.

    Truths are drawn from the prior at the strength that is found for the image, data from the image's PSF, noise and
    mask, and the sampler of the configuration draws from the posterior of each. A sparse prior is made proper by a
    Gaussian of `ANCHOR` standard deviations of the noise on each pixel (`invprob.priors.GaussianRegularized`).

    Parameters
    ----------
    config
        As for `invprob.deconvolve`, with the image under ``input``.
    num_cases, num_draws
        Simulated data sets, and draws for each.
    thin
        Steps of a chain from one draw to the next.
    control
        "none"; or what is wrong on purpose in the analysis, so that the card must fail: "noise" (variance 1.3 too
        small), "psf" (5 % too wide).
    listener
        Who is told of the progress.

    Raises
    ------
    UsageError
        For a prior that cannot be drawn from, or a control that is not known.
    """
    recipe = recipe_of(config)
    _check(config, recipe, control)
    observation = read(config)
    with jax.enable_x64(config.dtype == "float64"):
        problem = build_problem(observation, config)
        hierarchy = recipe.build(problem, config)
        if len(hierarchy.build(hierarchy.start).structure.leaves) > 1 + len(problem.nuisances):
            raise UsageError(NO_TRUTHS)
        post = recipe.fit(problem, hierarchy, config, listener).posterior
        key = jax.random.key(config.seed)
        truths = None
        if post.prior.find(priors.HasSample) is None:
            prior = priors.GaussianRegularized(post.prior, ANCHOR * problem.noise_unit)
            listener.note(f"drawing {num_cases} truths from the prior")
            truths = prior_draws(prior, jax.random.fold_in(key, 1), num_cases)
            post = Posterior(post.likelihood, prior)
        analysed = _analysed(observation, config, problem, post, CONTROLS[control])
        sampler, footprint = _drawn(config, analysed, thin), Footprint(problem.footprint, bool(problem.nuisances))
        more = {}
        if isinstance(sampler, Thinned):
            time, slow = autocorrelation(sampler, analysed, footprint, jax.random.fold_in(key, 2))
            more = {"autocorrelation time in draws": round(time, 2)}
            if time > CORRELATED:
                listener.note(_alike(time, slow, thin))
        listener.note(f"drawing from {num_cases} posteriors")
        found = calibrate(
            post,
            PureDraw(sampler),
            jax.random.fold_in(key, 0),
            truths=truths,
            analysed=analysed,
            summaries=image_summaries,
            image_of=footprint,
            num_cases=num_cases,
            num_draws=num_draws,
            progress=listener.draw,
        )
    settings = {**found.settings, "configuration": config.hash, "control": control, "prior": recipe.name, **more}
    return replace(found, settings=settings)


def _check(config: Config, recipe: PriorRecipe, control: str) -> None:
    """Refuse what cannot be calibrated."""
    if control not in CONTROLS:
        raise UsageError(f"no control is called {control!r}; there are {', '.join(CONTROLS)}")
    if config.positive or (config.sky == "fit" and not recipe.is_gaussian):
        raise UsageError(NO_TRUTHS)
    if config.samples_hyper:
        raise UsageError(
            "calibration holds the strength and the noise fixed, since their wide hyperpriors hold few images like "
            "this one: give strength 'auto' or a number, and noise_scale a number"
        )
    if config.approximates:
        raise UsageError(
            f"calibration tests the draws of samplers: give method 'sample' or 'map', not {config.method!r}, which "
            "k-hat judges"
        )
    check(config)


def _drawn(config: Config, post: Posterior, thin: int) -> Any:
    sampler, _ = as_sampler(config.sampler, post, config.num_warmup)
    if isinstance(sampler, AbstractIndependent):
        return Independent(sampler)
    assert isinstance(sampler, AbstractMarkov)
    return Thinned(sampler, thin)


def _alike(time: float, name: str, thin: int) -> str:
    return (
        f"warning: draws of a chain that are {thin} steps apart are alike (of the image's own data the {name} is "
        f"correlated over {time:.1f} draws), so that their intervals are too narrow however good the sampler: give "
        f"--thin {math.ceil(thin * time)}"
    )


def autocorrelation(sampler: Sampler, post: Posterior, image_of: Footprint, key) -> tuple[float, str]:
    """An autocorrelation time of the image's numbers, in draws of one chain, and which of them it is of.

    It is the third longest, as a time of 200 draws has outliers and what is slow is seen in more numbers than two.
    """

    @eqx.filter_jit
    def drawn(post, key):
        draws = sampler(post, key, LOOKED_AT)
        return jax.vmap(lambda x: image_summaries(image_of(x)))(draws)

    numbers = {name: np.asarray(v) for name, v in drawn(post, key).items() if np.ndim(v) == 1}
    times = LOOKED_AT / np.maximum(bulk_ess(np.stack(list(numbers.values()), axis=-1)[None]), 1.0)
    slow = int(np.argsort(times)[-3])
    return float(times[slow]), list(numbers)[slow]


def _analysed(
    observation: Observation, config: Config, problem: Problem, post: Posterior, control: Control
) -> Posterior:
    if control == Control():
        return post
    wrong = observation
    if control.psf != 1:
        if observation.psf is None:
            raise UsageError("the control 'psf' needs a PSF: this configuration has none")
        wrong = replace(observation, psf=stretched(observation.psf, control.psf))
    other = build_problem(wrong, config, problem.frame)
    post = Posterior(other.likelihood, post.prior)
    scale = jnp.asarray(control.noise, problem.dtype)
    return eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: scale * v)


def stretched(psf: PSF, factor: float) -> PSF:
    """A PSF image wider by a factor, of the same sum."""
    image = np.asarray(psf.image, float)
    places = [(n - 1) / 2 + (np.arange(n) - (n - 1) / 2) / factor for n in image.shape]
    wide = ndimage.map_coordinates(image, np.meshgrid(*places, indexing="ij"), order=3)
    return replace(psf, image=wide * (image.sum() / wide.sum()))
