"""Many observations of one shape in one compiled batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invprob.config import Config
from invprob.errors import InputError, UsageError
from invprob.observation import Observation
from invprob.optimize.find_map import solve
from invprob.optimize.loop import STATUS
from invprob.optimize.solvers import AbstractSolver
from invprob.pipeline.check import check, check_solver
from invprob.pipeline.deconvolve import assemble, flux_variance, pick_solver, random_key, views
from invprob.pipeline.exact import DrawSummary
from invprob.pipeline.fit import with_fit
from invprob.pipeline.problem import build_problem
from invprob.posterior import Problem
from invprob.progress import SILENT, Listener
from invprob.recipes.base import PriorRecipe
from invprob.recipes.registry import recipe_of
from invprob.results import Estimate, Samples, Status
from invprob.results.report import Record, Report
from invprob.sampling.samplers.gaussian import PerturbationOptimization, no_sums, summed
from invprob.units import is_surface_brightness


def deconvolve_many(
    observations: Sequence[Observation], config: Config | None = None, *, listener: Listener = SILENT
) -> list[Estimate | Samples]:
    """`deconvolve` for a list of observations of one shape, each with its own data, noise, mask and PSF.

    The strength is found for each; solves and draws run in one compiled loop over the stamps, each with its own stop.
    A stamp's result does not depend on which others ran beside it, but for the border: that of the whole batch is as
    wide as its widest PSF asks for.

    Parameters
    ----------
    observations
        Observations of one shape, all with a PSF or all without.
    config
        As for `deconvolve`.
    listener
        Told of each stamp whose strength is found.

    Returns
    -------
    list
        One result for each observation, in their order.

    Raises
    ------
    InputError
        When shapes differ, or only some have a PSF.
    """
    config = Config.make() if config is None else config
    recipe = recipe_of(config)
    _check(config, recipe)
    if not observations:
        return []
    with jax.enable_x64(config.dtype == "float64"):
        problems = _problems(observations, recipe, config)
        fits = []
        for i, problem in enumerate(problems):
            hierarchy = recipe.build(problem, config)
            if i == 0:
                check_solver(hierarchy, config)
            fits.append(recipe.fit(problem, hierarchy, config))
            listener.note(f"stamp {i + 1} of {len(problems)}: strength found")
        posts = [fitted.posterior for fitted in fits]
        keys = jnp.stack([random_key(o, config) for o in observations])
        num_samples = config.num_exact if recipe.is_exact(config) else 0
        cut, has_parts = problems[0].footprint, bool(problems[0].nuisances)
        kept = [DrawSummary(post, cut, has_parts, config.method == "sample") for post in posts]
        solver, reason = pick_solver(posts[0], config)
        solved = _batch(_stacked(kept), keys, solver, num_samples, config.solver_steps)
        results = []
        for i, (observation, problem, fitted) in enumerate(zip(observations, problems, fits, strict=True)):
            seen, drawn, x, steps, gap, code, good = jax.tree.map(lambda a, i=i: np.asarray(a[i]), solved)
            status = STATUS[int(code)]
            if status.ok and not good:
                status = Status.MAX_STEPS
            best = Estimate(
                x=x,
                status=status,
                solver=solver.name,
                reason=reason,
                steps=int(steps),
                chi2=float(seen["chi2"]),
                num_data=int(observation.valid.sum()),
                report=Report([Record("gap", float(gap), "", solver.measure)]) | fitted.report,
            )
            found = assemble(best, seen, drawn if num_samples else None, observation, problem, config)
            found = with_fit(found, observation)
            results.append(replace(found, report=found.report | recipe.report(found)))
        return results


def _check(config: Config, recipe: PriorRecipe) -> None:
    """Refuse what is done for one image at a time."""
    check(config)
    if config.approximates:
        raise UsageError(
            f"approximations are made for one image at a time: call deconvolve for each, or take method 'map' (not "
            f"{config.method!r})"
        )
    if recipe.by_chains(config):
        raise UsageError(
            f"chains are run for one image at a time: call deconvolve for each, or take method 'map', or the gaussian "
            f"prior without --positive (not prior {recipe.name!r}, sampler {config.sampler!r})"
        )
    if config.compare_prior is not None or config.fission_test:
        raise UsageError("compare_prior and fission_test are for one image at a time: call deconvolve for each")


def _problems(observations: Sequence[Observation], recipe: PriorRecipe, config: Config) -> list[Problem]:
    """The problems on one latent grid, whose border is the reach of the widest PSF."""
    shapes = {o.shape for o in observations}
    if len(shapes) > 1:
        raise InputError(f"stamps of one batch need one shape, not {sorted(shapes)}: make a batch for each shape")
    if len({is_surface_brightness(o.frame.unit) for o in observations}) > 1:
        units = sorted({o.frame.unit for o in observations})
        raise InputError(f"stamps of one batch need one kind of unit, flux or surface brightness, not both: {units}")
    without = sum(o.psf is None for o in observations)
    if without not in (0, len(observations)):
        raise InputError(f"{without} of {len(observations)} stamps have no PSF: give one to all, or to none")
    frames = [recipe.latent(o, config) for o in observations]
    reach = [max(f.border[axis][0] for f in frames) for axis in (0, 1)]
    common = [f.cropped().pad_by(*reach, multiple=recipe.border_multiple) for f in frames]
    return [build_problem(o, config, frame) for o, frame in zip(observations, common, strict=True)]


def _stacked(kept: list[DrawSummary]) -> DrawSummary:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)


@eqx.filter_jit
def _batch(stamps: DrawSummary, keys, solver: AbstractSolver, num_samples: int, max_steps: int):
    sampler = PerturbationOptimization(max_steps=max_steps)

    def one(stamp):
        kept, key = stamp
        post = kept.post
        solution = solve(post, solver, max_steps=max_steps)
        seen = views(post, kept.cut, solution.x, kept.has_parts)
        drawn, good = {}, jnp.asarray(True)
        if num_samples:
            problem = sampler.prepare(post)

            def draw(i):
                return sampler.draw(problem, jax.random.fold_in(key, i))

            none = no_sums(kept.squares, solution.x)
            squares, (drawn, codes) = summed(draw, jnp.arange(num_samples), none, kept, kept.squares)
            drawn["squares"] = jax.tree.map(lambda a: a / num_samples, squares)
            drawn["flux_variance"], found = flux_variance(post, kept.cut, kept.has_parts, max_steps)
            good = jnp.all(codes == 1) & (found == 1)
        return seen, drawn, solution.x, solution.steps, solution.gap, solution.code, good

    return jax.lax.map(one, (stamps, keys))


__all__ = ["deconvolve_many"]
