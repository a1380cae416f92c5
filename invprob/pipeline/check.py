"""What a configuration asks for that does not fit together, or not the problem: refused before any work is done."""

from __future__ import annotations

import equinox as eqx

from invprob.config import Config
from invprob.diagnostics.importance import MIN_WEIGHTS
from invprob.errors import UsageError
from invprob.optimize.find_map import NAMES, as_solver
from invprob.pipeline.approximate import check_approximation, check_family_name
from invprob.pipeline.draws import check_sampler, check_sampler_name
from invprob.posterior import Hierarchy
from invprob.recipes.base import PriorRecipe
from invprob.recipes.registry import find_recipe, recipe_of

CHAINS = ("sampler", "num_chains", "num_warmup")  # fields of chains alone
SOLVE = ("solver", "rtol")  # fields of the search for the best image


def check(config: Config) -> None:
    """Refuse what does not fit together.

    Raises
    ------
    UsageError
        With what was asked, and what there is.
    """
    recipe = recipe_of(config)
    recipe.check(config)
    check_sampler_name(config.sampler)
    if config.method == "sample" and config.num_samples == 0:
        raise UsageError("method 'sample' needs num_samples of at least 1")
    if config.method == "map" and config.intervals:
        raise UsageError("intervals come from draws: give --method sample, vi or laplace")
    if config.fission_test and (config.method != "sample" or config.samples_hyper):
        given = "sampled hyperparameters" if config.samples_hyper else f"method {config.method!r}"
        raise UsageError(f"fission_test goes with method 'sample' and a prior that is held fixed, not with {given}")
    if config.compare_prior is not None:
        _check_comparison(config, recipe)
    _check_approximation(config)
    if config.solver not in ("auto", *NAMES):
        raise UsageError(f"no solver is called {config.solver!r}; there are auto, {', '.join(NAMES)}")
    if len({value is None for value in (config.amplitude, config.scale, config.slope)}) > 1:
        raise UsageError("amplitude, scale and slope go together: give all three, or none to find them from the data")


def _check_comparison(config: Config, recipe: PriorRecipe) -> None:
    if config.compare_prior == recipe.name:
        raise UsageError(f"compare_prior {config.compare_prior!r} is the prior of the run itself: name another one")
    if config.method == "map" and not find_recipe(str(config.compare_prior)).is_gaussian:
        raise UsageError(
            f"compare_prior needs errors to compare with, which method 'map' has with a Gaussian prior alone: give "
            f"--method sample, or --compare-prior gaussian instead of {config.compare_prior!r}"
        )
    if config.sky == "fit":
        raise UsageError("compare_prior compares two images of one sky: subtract it with --sky LEVEL")
    check(with_other_prior(config))


def with_other_prior(config: Config) -> Config:
    """The configuration with the other prior, whose parameters are found from the data."""
    other = find_recipe(str(config.compare_prior))
    changes: dict[str, object] = {
        "prior": config.compare_prior, "compare_prior": None, "fission_test": False, "strength": "auto",
        "amplitude": None, "scale": None, "slope": None, "sampler": "auto", "solver": "auto", "intervals": (),
        "noise_scale": 1.0, "psf_error": 0.0,
    }  # fmt: skip
    if other.is_gaussian:
        changes |= {"method": "map", "num_samples": None, "positive": False}
    elif not other.can_be_positive:
        changes |= {"positive": False}
    return config.model_copy(update=changes)


def _check_approximation(config: Config) -> None:
    check_family_name(config.family)
    if config.family != "auto" and config.method != "vi":
        raise UsageError(f"family {config.family!r} is one of method 'vi': give --method vi, not {config.method}")
    if not config.approximates:
        return
    for name in (*CHAINS, *SOLVE):
        value = getattr(config, name)
        if value != Config.model_fields[name].default:
            other = "sample" if name in CHAINS else "map"
            raise UsageError(f"{name} = {value!r} is for method {other!r}: leave it out with method {config.method!r}")
    if config.num_samples is not None and config.num_samples < MIN_WEIGHTS:
        raise UsageError(
            f"method {config.method!r} needs num_samples of at least {MIN_WEIGHTS}, not {config.num_samples}: they "
            "judge the approximation"
        )


def check_solver(hierarchy: Hierarchy, config: Config) -> None:
    """Refuse a solver that cannot solve under this prior, before any work is done; the automatic one always can.

    Raises
    ------
    UsageError
        With what the solver needs.
    """
    if config.solver == "auto":
        return
    post = hierarchy.build(hierarchy.start)
    try:
        solver, _ = as_solver(config.solver, post, config.rtol)
        eqx.filter_eval_shape(solver.prepare, post)
    except TypeError as error:
        raise UsageError(f"solver {config.solver!r} does not fit: {error}") from error


def check_method(hierarchy: Hierarchy, recipe: PriorRecipe, config: Config) -> None:
    """Refuse what the method cannot do for this problem and prior, before any work is done.

    Raises
    ------
    UsageError
        With what is needed.
    """
    if config.approximates:
        check_approximation(hierarchy.build(hierarchy.start), recipe, config)
    elif recipe.by_chains(config):
        check_sampler(hierarchy if config.samples_hyper else hierarchy.build(hierarchy.start), config)
    else:
        check_solver(hierarchy, config)


__all__ = ["check", "check_method", "check_solver", "with_other_prior"]
