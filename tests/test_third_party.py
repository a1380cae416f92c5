"""Priors that another package brings: installed, they are used by their name; what is wrong with one is one line."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.config import Config
from invprob.errors import UsageError
from invprob.pipeline.deconvolve import deconvolve
from invprob.recipes.registry import find_recipe, list_recipes, recipe_names
from invprob.results import Status
from tests.cli.test_cli import COMMAND, environment
from tests.small import SHAPE, observation, write_image

MODULE = '''
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from invprob import priors
from invprob.operators import Structure
from invprob.recipes import StrengthRecipe


class Ridge(priors.HasLogProb):
    """Quadratic near zero, linear far from it."""

    scale: Array
    shape: tuple[int, int] = eqx.field(static=True)
    normalized = False

    @property
    def structure(self):
        return Structure(self.shape)

    def log_prob(self, x):
        return -jnp.sum(jnp.sqrt(1 + (x / self.scale) ** 2) - 1)


class RidgeRecipe(StrengthRecipe):
    summary = "Faint pixels as Gaussian noise, bright ones as they come"
    strength = 0.5

    def prior(self, problem, strength):
        return Ridge(10 * problem.noise_unit / strength, problem.shape)


class Nothing(StrengthRecipe):
    summary = "No prior"

    def prior(self, problem, strength):
        return None


class Failing(StrengthRecipe):
    summary = "No luck"

    def prior(self, problem, strength):
        raise RuntimeError("no luck")


number = 3
'''
ENTRIES = """[invprob.priors]
ridge = threadbare:RidgeRecipe
absent = threadbare_without:make
missing = threadbare:no_such_name
nothing = threadbare:Nothing
failing = threadbare:Failing
number = threadbare:number
"""


def install(folder: Path, module: str = MODULE) -> Path:
    """The files that an installed package has."""
    folder.mkdir()
    (folder / "threadbare.py").write_text(module)
    info = folder / "threadbare_priors-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: threadbare-priors\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "threadbare", raising=False)
    return folder


def test_the_command_finds_it(tmp_path):
    """In a process of its own, by nothing but its being installed."""
    site = install(tmp_path / "site")
    image = write_image(tmp_path / "image.fits")
    place = {**environment(tmp_path / "cache"), "PYTHONPATH": str(site)}
    done = subprocess.run(
        [*COMMAND, "deconvolve", str(image), "--prior", "ridge", "--strength", "1", "-o", "out.fits", "--json"],
        capture_output=True, text=True, cwd=tmp_path, env=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header = fits.getheader(tmp_path / "out.fits")
    assert (header["PRIOR"], header["PRIORSTR"], header["STRENGTH"]) == ("ridge", 1.0, "set by hand")
    assert header["SOLVER"] == "optax" and "L-BFGS" in header["REASON"] and header["STATUS"] == "CONVERGED"
    assert json.loads(done.stdout)["prior_name"] == "ridge"
    assert 0.5 < header["REDCHI2"] < 1.5


def test_without_the_package_the_name_is_unknown():
    assert "ridge" not in recipe_names()
    with pytest.raises(UsageError, match="no prior is called 'ridge'"):
        deconvolve(observation(), Config.make(prior="ridge"))


def test_its_own_strength(installed):
    """The attribute of the recipe is the universal strength; a larger one is smoother."""
    config = Config.make(prior="ridge")
    found = deconvolve(observation(), config)
    assert found.status is Status.CONVERGED and found.image.shape == SHAPE
    assert found.report.prior_strength == 0.5 and found.report.strength_choice.startswith("universal")
    strong = deconvolve(observation(), config.model_copy(update={"strength": 5.0}))
    assert np.abs(strong.image).sum() < np.abs(found.image).sum() and strong.chi2 > found.chi2


def test_the_listing(installed):
    """Each with its package and summary; of those that cannot be loaded, why."""
    found = {prior["name"]: prior for prior in list_recipes()}
    assert {"gaussian", "starlet"} < set(found) and found["starlet"]["provider"] == "invprob"
    assert found["ridge"] == {
        "name": "ridge", "about": "Faint pixels as Gaussian noise, bright ones as they come",
        "provider": "threadbare-priors", "strength": 0.5,
    }  # fmt: skip
    reasons = {"absent": "ModuleNotFoundError", "missing": "AttributeError", "number": "PriorRecipe is needed"}
    for name, reason in reasons.items():
        assert reason in found[name]["about"] and "threadbare-priors" in found[name]["about"], name
    plain = CliRunner().invoke(app, ["priors"])
    assert plain.exit_code == 0 and plain.stderr == ""
    lines = {line.split()[0]: line for line in plain.stdout.splitlines()}
    assert set(lines) == set(found)
    assert lines["ridge"].endswith("bright ones as they come [threadbare-priors]")
    assert "[" not in lines["starlet"] and "cannot be loaded" in lines["absent"]
    assert json.loads(CliRunner().invoke(app, ["priors", "--json"]).stdout) == list(found.values())


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("absent", "cannot be loaded (ModuleNotFoundError: No module named 'threadbare_without')"),
        ("missing", "cannot be loaded (AttributeError: "),
        ("number", "is a int; an invprob.recipes.PriorRecipe is needed"),
        ("nothing", "gave a NoneType, not a prior"),
        ("failing", "failed: RuntimeError: no luck"),
    ],
)
def test_what_is_wrong_with_one_is_one_line(name, fragment, installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_image(tmp_path / "image.fits")
    result = CliRunner().invoke(app, ["deconvolve", "image.fits", "--prior", name, "--strength", "1", "-o", "o.fits"])
    assert result.exit_code == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"invprob: prior '{name}' of threadbare-priors ") and fragment in line
    assert result.stdout == "" and not (tmp_path / "o.fits").exists()


def test_a_name_of_invprob_is_not_taken(tmp_path, monkeypatch):
    """A package that calls its prior like one of ours does not replace it."""
    folder = install(tmp_path / "site")
    (folder / "threadbare_priors-1.0.dist-info" / "entry_points.txt").write_text(
        "[invprob.priors]\nstarlet = threadbare:RidgeRecipe\ngaussian = threadbare:RidgeRecipe\n"
    )
    monkeypatch.syspath_prepend(folder)
    assert find_recipe("starlet").provider == find_recipe("gaussian").provider == "invprob"
    assert [prior["name"] for prior in list_recipes()].count("gaussian") == 1
