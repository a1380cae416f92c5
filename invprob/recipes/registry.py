"""All priors by name: built in, shipped or trained weights, and those that other packages install."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from invprob.errors import UsageError

if TYPE_CHECKING:  # a recipe needs JAX, the names of the recipes do not
    from invprob.config import Config
    from invprob.recipes.base import PriorRecipe

GROUP = "invprob.priors"
ENDING = ".eqx"  # of files of weights
RECIPES = {
    "gaussian": "gaussian:GaussianRecipe",
    "lognormal": "lognormal:LogNormalRecipe",
    "galaxies": "galaxies:GalaxiesRecipe",
    "starlet": "starlet:StarletRecipe",
    "tv": "tv:TotalVariationRecipe",
    "wavelet": "wavelet:WaveletRecipe",
    "laplace": "laplace:LaplaceRecipe",
    "points+starlet": "points_starlet:PointsAndStarletRecipe",
}
"""Name of each prior of this package, and the module and class of its recipe."""


def recipe_of(config: Config) -> PriorRecipe:
    """The recipe of the prior of a configuration.

    Raises
    ------
    UsageError
        When there is no such prior, or it cannot be loaded.
    """
    return find_recipe(config.prior)


def find_recipe(name: str) -> PriorRecipe:
    """The recipe of a name, or of a file of weights; an entry point of the group ``invprob.priors`` is loaded.

    Raises
    ------
    UsageError
        When there is no such prior, or it cannot be loaded.
    """
    if name in RECIPES:
        module, _, recipe = RECIPES[name].partition(":")
        return getattr(import_module(f"invprob.recipes.{module}"), recipe)()
    if name.endswith(ENDING):
        from invprob.recipes.learned import LearnedRecipe

        return LearnedRecipe(name)
    entry = _installed().get(name)
    if entry is None:
        raise UsageError(f"no prior is called {name!r}; there are {', '.join(recipe_names())}")
    return _loaded(entry)


def recipe_names() -> list[str]:
    """Names of all priors, those of other packages last."""
    return [*RECIPES, *_installed()]


def list_recipes() -> list[dict[str, Any]]:
    """Name, description, provider and universal strength of each prior; of one that cannot be loaded, why."""
    rows: list[dict[str, Any]] = []
    for name in recipe_names():
        try:
            recipe = find_recipe(name)
        except UsageError as error:
            provider = _provider(_installed()[name])
            rows.append({"name": name, "about": str(error), "provider": provider, "strength": None})
            continue
        rows.append({"name": name, "about": recipe.summary, "provider": recipe.provider, "strength": recipe.strength})
    return rows


def _installed() -> dict[str, EntryPoint]:
    """Entry points of other packages; a name of this package is not taken by them."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in RECIPES}


def _provider(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _loaded(entry: EntryPoint) -> PriorRecipe:
    from invprob.recipes.base import PriorRecipe

    of = f"prior {entry.name!r} of {_provider(entry)}"
    try:
        loaded: Any = entry.load()
        recipe = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # whatever the other package does when it is imported
        raise UsageError(
            f"{of} cannot be loaded ({type(error).__name__}: {error}): repair or remove that package"
        ) from error
    if not isinstance(recipe, PriorRecipe):
        raise UsageError(f"{of} is a {type(recipe).__name__}; an invprob.recipes.PriorRecipe is needed")
    recipe.name, recipe.provider = entry.name, _provider(entry)
    return recipe


__all__ = ["GROUP", "RECIPES", "find_recipe", "list_recipes", "recipe_names", "recipe_of"]
