"""The recipes that come with the package are those of the weights."""

import json

from invprob.learn.recipe import Recipe
from invprob.priors.weights_file import load_weights, shipped_weights

WEIGHTS = shipped_weights("galaxies").parent
"""The folder of the weights that are shipped."""


def test_the_recipe_of_the_weights_is_the_one_beside_them():
    card = load_weights(shipped_weights("galaxies"))[1].card
    assert json.loads(Recipe.from_toml(WEIGHTS / "galaxies.toml").model_dump_json()) == card["recipe"]


def test_each_recipe_goes_on_from_the_one_before():
    card = json.loads((WEIGHTS / "galaxies.json").read_text())
    files = [name.split("/")[-1] for name in card["training"]["recipe"].split(", ")]
    assert files[-1] == "galaxies.toml" and len(files) == len(list(WEIGHTS.glob("*.toml")))
    recipes = [Recipe.from_toml(WEIGHTS / name) for name in files]
    assert [r.start for r in recipes] == [None, *(name.replace("toml", "eqx") for name in files[:-1])]
    assert len({r.seed for r in recipes}) == len(recipes)
