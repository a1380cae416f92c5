"""One observation to one estimate: `deconvolve`, the door that command line, notebooks and pipelines go through.

It reads no file and writes none; its arguments and results can be pickled.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invprob.config import Config
from invprob.observation import Observation
from invprob.operators import Crop
from invprob.operators.base import total
from invprob.optimize.find_map import as_solver, find_map
from invprob.optimize.solvers import AbstractSolver, ConjugateGradient, TwoGrid
from invprob.pipeline.approximate import approximate
from invprob.pipeline.check import check, check_method, with_other_prior
from invprob.pipeline.draws import chains, convergence_report, fit_trace, heldout_report, on_the_footprint
from invprob.pipeline.exact import DrawSummary, prior_variances
from invprob.pipeline.fit import with_fit
from invprob.pipeline.problem import build_problem
from invprob.posterior import Posterior, Problem
from invprob.progress import SILENT, Listener
from invprob.recipes.base import FittedPrior, PriorRecipe
from invprob.recipes.registry import recipe_of
from invprob.results import Estimate, Samples, Status
from invprob.results.report import Report
from invprob.sampling.samplers.gaussian import PerturbationOptimization, exact_sums, variance_along


def views(post: Posterior, cut: Crop, x: PyTree, has_parts: bool) -> dict[str, Any]:
    """A solution on the grids that are written: image and its parts, prediction, residual, chi-square and sky."""
    like = post.likelihood
    residual = like.residual(x)
    images = x["image"] if has_parts else x
    parts = {name: cut.apply(part) for name, part in images.items()} if isinstance(images, dict) else {}
    return {
        "image": total(parts) if parts else cut.apply(images),
        "parts": parts,
        "prediction": like.operator.apply(x),
        "residual": residual,
        "chi2": jnp.sum(residual**2),
        "sky": x["sky"] if has_parts else jnp.zeros((), residual.dtype),
        "prior": prior_variances(post, residual.dtype),
    }


_views = eqx.filter_jit(views)
_prior_variances = eqx.filter_jit(prior_variances)


def flux_variance(post: Posterior, cut: Crop, has_parts: bool, max_steps: int) -> tuple[Array, Array]:
    """Posterior variance of the sum over the footprint, by one solve, and how that ended."""
    ones = cut.adjoint(jnp.ones(cut.out_structure.shape, post.likelihood.data.dtype))  # type: ignore[attr-defined]
    direction = {"image": ones, "sky": jnp.zeros((), ones.dtype)} if has_parts else ones
    return variance_along(post, direction, max_steps=max_steps)


_flux_variance = eqx.filter_jit(flux_variance)


def deconvolve(
    observation: Observation, config: Config | None = None, *, listener: Listener = SILENT, checkpoint=None
) -> Estimate | Samples:
    """The best latent image of an observation, with its errors.

    Parameters
    ----------
    observation
        Data, noise, mask and PSF.
    config
        What to do; default: the Gaussian prior with everything found from the data.
    listener
        Who is told of the progress.
    checkpoint
        File that keeps the state of the solver when it is interrupted.

    Returns
    -------
    Estimate or Samples
        ``image`` and ``std`` in flux per latent pixel on the data's footprint. `Samples` for
        ``method="sample"``, ``"vi"`` and ``"laplace"``.

    Raises
    ------
    UsageError
        When the configuration asks for what does not fit together.

    Notes
    -----
    Computed in ``config.dtype``, whatever the global setting of JAX. The same observation, configuration and machine
    give the same numbers.
    """
    config = Config.make() if config is None else config
    check(config)
    recipe = recipe_of(config)
    with jax.enable_x64(config.dtype == "float64"):
        problem = build_problem(observation, config)
        hierarchy = recipe.build(problem, config)
        check_method(hierarchy, recipe, config)
        fitted = recipe.fit(problem, hierarchy, config, listener)
        found = _infer(observation, config, recipe, problem, fitted, listener, checkpoint)
        if found.status is Status.INTERRUPTED:
            return found
        found = with_fit(found, observation)
        found = replace(found, report=found.report | recipe.report(found, listener))
        if config.fission_test:
            key = jax.random.fold_in(random_key(observation, config), 1)
            heldout = heldout_report(fitted.posterior, config, key, listener)
            found = replace(found, report=found.report | heldout)
    if config.compare_prior is None:
        return found
    listener.note(f"the same with prior {config.compare_prior}")
    return with_comparison(
        found, deconvolve(observation, with_other_prior(config), listener=listener), config.compare_prior
    )


def with_comparison(found: Estimate | Samples, other: Estimate | Samples, name: str) -> Estimate | Samples:
    """With the difference from the image of another prior, in units of both errors."""
    errors = [np.asarray(e.std, float) for e in (found, other) if e.std is not None]
    difference = (np.asarray(found.image, float) - np.asarray(other.image, float)) / np.sqrt(sum(e**2 for e in errors))
    said = Report.of(
        compare_prior=name,
        compare_rms=float(np.sqrt(np.mean(difference**2))),
        compare_max=float(np.abs(difference).max()),
    )
    return replace(found, comparison=difference, report=found.report | said)


def pick_solver(post: Posterior, config: Config) -> tuple[AbstractSolver, str]:
    """The solver of a configuration, and the reason for it.

    Not on two grids unless asked for: the shape of the coarse one depends on the PSF and the strength, so that each
    image would be compiled for anew, and a stamp's result would depend on the others of its batch.
    """
    solver, reason = as_solver(config.solver, post, config.rtol)
    if config.solver == "auto" and isinstance(solver, TwoGrid):
        solver = ConjugateGradient(rtol=solver.rtol)
        reason = "linear operator, Gaussian noise and prior: conjugate gradients, one program for all images of a shape"
    return solver, reason


def random_key(observation: Observation, config: Config):
    """The key of an observation's draws: the seed and its data, so that stamps do not share their draws."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(observation.data.tobytes()))


def _infer(
    observation: Observation, config: Config, recipe: PriorRecipe, problem: Problem, fitted: FittedPrior,
    listener: Listener, checkpoint: Any,
) -> Estimate | Samples:  # fmt: skip
    if config.approximates:
        return _approximated(observation, config, problem, fitted, listener)
    if recipe.by_chains(config):
        return _sampled(observation, config, recipe, problem, fitted, listener, checkpoint)
    post = fitted.posterior
    listener.note(f"solving for {int(np.prod(problem.shape))} latent pixels")
    solver, reason = pick_solver(post, config)
    best = find_map(
        post,
        solver,
        max_steps=config.solver_steps,
        progress=listener.step,
        checkpoint=checkpoint,
    )
    best = replace(best, reason=reason, report=best.report | fitted.report)
    cut, has_parts = problem.footprint, bool(problem.nuisances)
    seen = jax.tree.map(np.asarray, _views(post, cut, best.x, has_parts))
    if config.num_exact == 0 or not recipe.is_exact(config) or best.status is Status.INTERRUPTED:
        return assemble(best, seen, None, observation, problem, config)
    listener.note(f"drawing {config.num_exact} exact samples for the errors")
    kept = DrawSummary(post, cut, has_parts, config.method == "sample")
    sums, parts, good = exact_sums(
        post, random_key(observation, config), config.num_exact, kept.squares, kept,
        PerturbationOptimization(max_steps=config.solver_steps), progress=listener.draw,
    )  # fmt: skip
    flux_variance, found = _flux_variance(post, cut, has_parts, config.solver_steps)
    good &= bool(found == 1)
    drawn: dict[str, Any] = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    drawn["squares"] = {name: np.asarray(value) / config.num_exact for name, value in sums.items()}
    drawn["flux_variance"] = np.asarray(flux_variance)
    if best.status.ok and not good:
        best = replace(best, status=Status.MAX_STEPS)
    return assemble(best, seen, drawn, observation, problem, config)


def _sampled(observation, config, recipe, problem, fitted, listener, checkpoint) -> Samples:
    """The posterior mean and the draws of chains."""
    found = chains(fitted.target, config, random_key(observation, config), listener, checkpoint)
    if found.status is Status.INTERRUPTED:
        return found
    means = {name: jnp.mean(jnp.asarray(draws)) for name, draws in found.hyper.items()}
    post = fitted.hierarchy.build(means) if fitted.is_sampled else fitted.posterior
    hyper = recipe.report_hyperparameters(found.hyper)
    draws = jax.tree.map(lambda a: jnp.asarray(a.reshape(-1, *a.shape[2:])), found.latents)
    trace = float(fit_trace(post, jax.tree.map(jnp.asarray, found.x), draws))
    said = fitted.report | hyper | convergence_report(found, config) | Report.of(fit_trace=trace)
    # the images are held on the footprint alone
    sky = {"sky": found.latents["sky"]} if problem.nuisances else None
    dof = found.num_data - trace
    found = replace(
        found, report=said, draws=on_the_footprint(problem, found), latents=sky, effective_dof=dof if dof > 0 else None
    )
    return _with_contraction(_with_errors(found, post, observation, problem, config), post, problem)


def _approximated(observation, config, problem, fitted, listener) -> Samples:
    """The mean or maximum, and draws, of an approximation."""
    post = fitted.posterior
    found = approximate(post, problem, config, random_key(observation, config), listener)
    found = replace(found, report=fitted.report | found.report)
    return _with_contraction(_with_errors(found, post, observation, problem, config), post, problem)


def _with_contraction(best: Samples, post: Posterior, problem: Problem) -> Samples:
    """With the contraction, where the variance of a pixel under the prior is known."""
    variance = float(_prior_variances(post, problem.dtype)["pixel"])
    if best.std is None or not np.isfinite(variance):
        return best
    return replace(best, contraction=1 - best.std**2 / variance)


def _with_errors(
    found: Samples, post: Posterior, observation: Observation, problem: Problem, config: Config
) -> Samples:
    """The result of a latent with draws of the image on the footprint, which give all errors."""
    has_parts, draws = bool(problem.nuisances), found.draws
    assert draws is not None
    seen = jax.tree.map(np.asarray, _views(post, problem.footprint, jax.tree.map(jnp.asarray, found.x), has_parts))
    best = assemble(replace(found, chi2=float(seen["chi2"])), seen, None, observation, problem, config)
    assert isinstance(best, Samples)
    flux = np.asarray(draws, float).sum((1, 2))
    said = best.report | Report.of(flux_std=float(flux.std(ddof=1)))
    if has_parts:
        said |= Report.of(sky_std=float(found.latent_std["sky"]))
    std = np.asarray(draws, float).std(0, ddof=1)
    return replace(best, std=std, no_std="", report=said, intervals=intervals_of(draws, config))


def intervals_of(draws: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """Ends of the central intervals of each pixel, by the name of their extension."""
    out = {}
    for percent in config.intervals:
        low, high = np.percentile(draws, [50 - percent / 2, 50 + percent / 2], axis=0)
        out |= {f"LOW{percent:g}": low, f"HIGH{percent:g}": high}
    return out


def _why_no_std(config: Config) -> str:
    is_exact = recipe_of(config).is_exact(config)
    return "draw samples: --num-samples 64" if is_exact else "draw samples: --method sample"


def assemble(
    best: Estimate,
    seen: dict[str, Any],
    drawn: dict[str, Any] | None,
    observation: Observation,
    problem: Problem,
    config: Config,
) -> Estimate | Samples:
    """The result of a solution (`views`) and of its draws (`DrawSummary`, stacked, with the means of the squares)."""
    subtracted = 0.0 if config.sky in ("none", "fit") else float(config.sky)
    said = best.report | Report.of(flux=float(seen["image"].sum()))
    if problem.nuisances:
        said |= Report.of(sky=float(seen["sky"]))
    best = replace(
        best,
        image=seen["image"],
        model=seen["prediction"] + seen["prediction"].dtype.type(subtracted),
        residual=np.where(observation.valid, seen["residual"], np.nan),
        inpainted=np.kron(~observation.valid, np.ones((problem.frame.factor,) * 2, bool)),
        kernel=problem.exposure.kernel,
        frame=problem.frame,
        report=said,
        no_std=_why_no_std(config) if drawn is None else "",
        parts=seen["parts"],
    )
    if drawn is None:
        return best
    trace = float(drawn["fit"].mean())
    flux_std = float(np.sqrt(drawn["flux_variance"]))
    said |= Report.of(flux_std=flux_std, num_draws=config.num_exact, fit_trace=trace)
    if problem.nuisances:
        said |= Report.of(sky_std=float(np.sqrt(np.mean(drawn["sky"] ** 2))))
    squares, prior = drawn["squares"], seen["prior"]
    best = replace(best, std=np.sqrt(squares["pixel"]), effective_dof=best.num_data - trace, report=said)
    if np.isfinite(prior["pixel"]):
        by_scale = 1 - squares["starlet"] / prior["starlet"][:, None, None]
        best = replace(best, contraction=1 - squares["pixel"] / prior["pixel"], contraction_starlet=by_scale)
    if config.method == "map":
        return best
    draws = seen["image"] + drawn["image"]
    sky = {"sky": (seen["sky"] + drawn["sky"])[None]} if problem.nuisances else None
    return Samples(**{**vars(best), "draws": draws, "intervals": intervals_of(draws, config), "latents": sky})
