"""What every recipe owes to a run, whoever wrote it: one list, and the same tests for each."""

import re
from dataclasses import replace

import jax
import pytest

from invprob import priors
from invprob.config import Config
from invprob.errors import UsageError
from invprob.pipeline.check import check_method
from invprob.pipeline.problem import build_problem
from invprob.posterior import Hierarchy, Posterior
from invprob.recipes.base import PriorRecipe
from invprob.recipes.field import FieldRecipe
from invprob.recipes.registry import RECIPES, find_recipe, list_recipes
from tests.small import HAND, observation

KINDS = {
    "gaussian": priors.GaussianField,
    "lognormal": priors.LogNormal,
    "galaxies": priors.DenoiserPrior,
    "starlet": priors.StarletSparsity,
    "tv": priors.TotalVariation,
    "wavelet": priors.WaveletSparsity,
    "laplace": priors.Laplace,
    "points+starlet": priors.Product,
}
"""The contract list: name of a recipe, and the class of its prior."""


def seen():
    """An observation whose unit and pixels every prior takes, the learned one included."""
    one = observation(unit="electron/s")
    return replace(one, frame=replace(one.frame, pixel_scale=0.1, zeropoint=25.0))


def configured(name: str, **fields) -> Config:
    """With the strength by hand, where there is one, so that nothing is searched for."""
    recipe = find_recipe(name)
    by_hand = HAND if isinstance(recipe, FieldRecipe) else {"strength": 2.0} if recipe.hyperparameters else {}
    return Config.make(**{"prior": name, "refine": 2, "num_samples": 0, **by_hand, **fields})


def test_the_list_is_complete():
    assert set(KINDS) == set(RECIPES)


@pytest.mark.parametrize("name", KINDS)
def test_name_and_summary(name):
    recipe = find_recipe(name)
    assert isinstance(recipe, PriorRecipe) and recipe.name == name and recipe.provider == "invprob"
    assert recipe.summary and "\n" not in recipe.summary
    assert {"name": name, "about": recipe.summary, "provider": "invprob", "strength": recipe.strength} in list_recipes()


@pytest.mark.parametrize("name", KINDS)
def test_from_a_problem_to_a_posterior(name):
    """Its grid holds the data, a build is a posterior with the prior of the list, and a fit says what was chosen."""
    recipe, config = find_recipe(name), configured(name)
    recipe.check(config)
    with jax.enable_x64(True):
        problem = build_problem(seen(), config)
        rows, columns = problem.footprint.out_structure.shape
        assert (rows, columns) == tuple(2 * n for n in seen().shape)
        assert recipe.border_multiple is None or not any(n % recipe.border_multiple for n in problem.shape)
        hierarchy = recipe.build(problem, config)
        assert isinstance(hierarchy, Hierarchy)
        check_method(hierarchy, recipe, config)
        nominal = hierarchy.build(hierarchy.start)
        fitted = recipe.fit(problem, hierarchy, config)
        for post in (nominal, fitted.posterior):
            assert isinstance(post, Posterior) and isinstance(post.prior, KINDS[name])
            assert post.likelihood.num_data == seen().valid.sum()
        assert fitted.target is not fitted.hierarchy and not fitted.is_sampled
    report = fitted.report
    assert report.prior_name == name and "floor" not in report
    assert all(record.meaning for record in report if record.name != "range_warnings")
    # the posterior is linear and Gaussian exactly where the recipe says so
    assert (fitted.posterior.linear_gaussian() is not None) == recipe.is_gaussian == recipe.is_exact(config)


@pytest.mark.parametrize("name", KINDS)
def test_what_can_be_sampled_with_the_image(name):
    """The hyperparameters that a recipe names are those of its hierarchy, and without any it refuses."""
    recipe = find_recipe(name)
    config = configured(name, method="sample", num_samples=10, strength="sample", **dict.fromkeys(HAND))
    if not recipe.hyperparameters:
        with pytest.raises(UsageError, match=r"none that can be sampled"):
            recipe.check(config)
        return
    recipe.check(config)
    with jax.enable_x64(True):
        hierarchy = recipe.build(build_problem(seen(), config), config)
    assert set(hierarchy.start) == set(recipe.hyperparameters)
    draws = {name: 0.1 * jax.random.normal(jax.random.key(i), (2, 500)) for i, name in enumerate(hierarchy.start)}
    report = recipe.report_hyperparameters(draws)
    for stem in recipe.hyperparameters.values():
        low, middle, high = (report.get(stem + end) for end in ("_p16", "", "_p84"))
        assert low == pytest.approx(0.905, abs=0.02) and middle == pytest.approx(1, abs=0.02) and high > 1.08


@pytest.mark.parametrize("name", KINDS)
def test_what_does_not_go_together_is_one_line(name):
    recipe = find_recipe(name)
    by_hand = configured(name)
    wrong = {"strength": "sample"} if by_hand.amplitude is None else {"noise_scale": "sample"}
    with pytest.raises(UsageError) as caught:
        recipe.check(by_hand.model_copy(update=wrong))
    assert "\n" not in str(caught.value) and re.search("give|leave", str(caught.value))


def test_an_unknown_name_lists_the_others():
    with pytest.raises(UsageError) as caught:
        find_recipe("nope")
    message = str(caught.value)
    assert message.startswith("no prior is called 'nope'; there are ") and "\n" not in message
    assert all(name in message for name in RECIPES)
