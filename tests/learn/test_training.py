"""Training: what the loss is, stamps with noise of their own, and a run that goes on with the same numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from invprob.cli import app
from invprob.errors import InputError, UsageError
from invprob.learn import encoder
from invprob.learn import run as run_module
from invprob.learn.data import RARITIES
from invprob.learn.galaxies import Population
from invprob.learn.recipe import Recipe
from invprob.learn.run import train
from invprob.learn.steps import Schedule, State
from invprob.learn.training import Noise, Stamps, advanced, loss, measured_spectrum
from invprob.priors.denoiser import untrained
from invprob.priors.generator import Generator
from invprob.priors.weights_file import learned_prior, load_weights
from tests.priors.test_learned import SMALL

SIZE = 16
RECIPE = """
name = "small"
size = 16
steps = 24
batch = 4
validation = 8
every = 8
[simulated]
number = 64
[network]
channels = [4, 6]
blocks = 1
"""


def blobs(number, key=0, width=1.5):
    """Round sources anywhere on a periodic grid, of many fluxes."""
    rng = np.random.default_rng(key)
    k = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    source = np.fft.irfft2(np.exp(-2 * (np.pi * width * k) ** 2), s=(SIZE, SIZE))
    flux = np.exp(rng.standard_normal(number))
    places = rng.integers(0, SIZE, (number, 2))
    images = [f * np.roll(source, p, (0, 1)) for f, p in zip(flux, places, strict=True)]
    return np.asarray(images, np.float32)


def clean(images):
    return Stamps(jnp.asarray(images), jnp.zeros(len(images), jnp.float32))


def trained(stamps, steps=300):
    """A small network after some steps, and what it was before."""
    spectrum, mean = measured_spectrum(stamps)
    blank = untrained(jax.random.key(0), spectrum, mean, channels=(8, 16), blocks=1, embedding=16)
    schedule = Schedule(steps, batch=8, learning_rate=3e-3, decay=0.99)
    state = State.first(blank.network, schedule)
    for _ in range(steps):
        state, _ = advanced((blank, stamps, Noise(), jax.random.key(1)), state, schedule)
    return eqx.tree_at(lambda d: d.network, blank, state.average), blank


def denoising(denoiser, images, sigma):
    """Root mean square error of denoised images."""
    noise = sigma * np.random.default_rng(7).standard_normal(images.shape).astype(np.float32)
    power = jnp.full((SIZE, SIZE // 2 + 1), np.float32(sigma**2))
    out = jax.vmap(lambda x: denoiser(x, power))(jnp.asarray(images + noise))
    return float(np.sqrt(np.mean((np.asarray(out) - images) ** 2)))


def test_the_spectrum_is_that_of_the_images():
    rng = np.random.default_rng(0)
    k = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    power = 2 / (1 + (k / 0.1) ** 2)
    white = rng.standard_normal((4000, SIZE, SIZE))
    images = 0.7 + np.fft.irfft2(np.sqrt(power) * np.fft.rfft2(white), s=(SIZE, SIZE))
    noisy = (images + 0.5 * rng.standard_normal(images.shape)).astype(np.float32)
    spectrum, mean = measured_spectrum(Stamps(jnp.asarray(noisy), jnp.full(4000, 0.25, jnp.float32)))
    assert abs(mean - 0.7) < 0.05
    inner = (k > 0.09) & (k < 0.5)
    np.testing.assert_allclose(np.asarray(spectrum(jnp.asarray(k)))[inner], power[inner], rtol=0.1)


def test_the_wiener_filter_has_the_loss_of_an_untrained_network():
    stamps = clean(blobs(32))
    blank = untrained(jax.random.key(0), *measured_spectrum(stamps), **SMALL)
    ours, wiener = eqx.filter_jit(loss)(blank, stamps, Noise(), jax.random.key(3))
    np.testing.assert_allclose(ours, wiener, rtol=1e-6)


@pytest.mark.slow
def test_it_learns():
    """On images that it has not seen, at three levels of noise, and a control."""
    stamps, fresh = clean(blobs(512)), blobs(64, key=9)
    network, blank = trained(stamps)
    for sigma in (0.01, 0.03, 0.1):
        assert denoising(network, fresh, sigma) < 0.9 * denoising(blank, fresh, sigma)


def test_noise_of_the_stamps_is_not_learned():
    """Trained on noisy stamps it denoises clean ones nearly as well as one trained on those, and does not pass their
    noise on."""
    images, fresh, own = blobs(512), blobs(64, key=9), 0.02
    noisy = (images + own * np.random.default_rng(3).standard_normal(images.shape)).astype(np.float32)
    told = Stamps(jnp.asarray(noisy), jnp.full(len(images), own**2, jnp.float32))
    good, _ = trained(told)
    fooled, _ = trained(clean(noisy))
    for sigma in (0.03, 0.05):
        assert denoising(good, fresh, sigma) < 0.95 * denoising(fooled, fresh, sigma)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return Recipe.from_toml(path)


def test_a_run_from_recipe_to_weights(recipe, tmp_path):
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    lines = []
    found = train(recipe, tmp_path / "a.eqx", note=lines.append)
    denoiser, about = load_weights(tmp_path / "a.eqx")
    assert about.hash == found.training.hash and about.pixel_scales == Population().pixel_scales
    assert 0.08 < about.target_fwhm < 0.13
    assert [int(step) for step, *_ in found.curve] == [8, 16, 24] and about.card["recipe"]["steps"] == 24
    assert about.card["asymmetry"]["side"] == SIZE and len(about.card["asymmetry"]["value"]) == len(RARITIES)
    assert any("validation loss" in line for line in lines)
    assert not (tmp_path / "a.eqx.state").exists()
    assert jax.tree.structure(denoiser) == jax.tree.structure(found.model)


def test_an_interrupted_run_goes_on_with_the_same_numbers(recipe, tmp_path, monkeypatch):
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    whole = train(recipe, tmp_path / "whole.eqx")
    step, calls = run_module.training.advanced, []

    def stopped(*args):
        calls.append(0)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(run_module.training, "advanced", stopped)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(recipe, tmp_path / "cut.eqx")
    assert stop.value.state.is_file() and not (tmp_path / "cut.eqx").exists()
    monkeypatch.setattr(run_module.training, "advanced", step)
    again = train(recipe, tmp_path / "cut.eqx")
    assert again.training.hash == whole.training.hash


def test_a_look_that_is_interrupted_is_taken_again(recipe, tmp_path, monkeypatch):
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    whole = train(recipe, tmp_path / "whole.eqx")
    look = run_module.training.validated

    def stopped(*args):
        monkeypatch.setattr(run_module.training, "validated", look)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module.training, "validated", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut.eqx")
    again = train(recipe, tmp_path / "cut.eqx")
    assert again.training.hash == whole.training.hash and again.curve == whole.curve


def changed(recipe, **fields):
    return Recipe.model_validate({**recipe.model_dump(), **fields})


def test_a_run_that_begins_with_other_weights(recipe, tmp_path):
    """The first step of a run has a learning rate of zero: it shows where the run began."""
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    first, second, anew = (str(tmp_path / name) for name in ("a.eqx", "b.eqx", "c.eqx"))
    begun = train(recipe, first)
    again = train(changed(recipe, start=first, steps=1), second)
    fresh = train(changed(recipe, steps=1), anew).model.network
    networks = (again.model.network, fresh)
    same, other = (eqx.tree_equal(network, begun.model.network, rtol=1e-5, atol=1e-7) for network in networks)
    assert bool(same) and not bool(other)
    assert again.training.card["start"] == begun.training.hash
    for start, message in (
        ("galaxies", r"not that of the recipe; give the \[network\]"),
        ("gone.eqx", "cannot be read"),
    ):
        with pytest.raises(InputError if "gone" in start else UsageError, match=message):
            train(changed(recipe, start=start), tmp_path / "d.eqx")


def test_the_noise_stops_to_rise_where_it_is_told():
    """Far above one it is white but for a little; far below it rises with the inverse of the transfer."""
    keys = jax.random.split(jax.random.key(0), 50)
    rise = {}
    for depth in ((2.0, 3.0), (-5.0, -4.0)):
        power = jax.vmap(lambda k, d=depth: Noise(0.0, d).draw(k, (SIZE, SIZE)))(keys)
        rise[depth] = np.asarray(power.max((1, 2)) / power.min((1, 2)))
    assert rise[2.0, 3.0].max() < 1.02
    assert 1e3 < np.median(rise[-5.0, -4.0]) <= rise[-5.0, -4.0].max() < 1.01e5


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("steps = 0\n[simulated]", "steps = 0"),
        ("depth = [1.0, -1.0]\n[simulated]", r"depth of two rising numbers, not \[1.0, -1.0\]"),
        ('start = "galaxies"\n[simulated]\n[generator]', "no start for a generator"),
        ("stepps = 3\n[simulated]", "'stepps' is not a known field; there are name, size"),
        ("[simulated]\nnumbr = 3", "'simulated.numbr' is not a known field; there are number, population"),
        ("steps = 3", r"either \[simulated\] or \[stamps\]"),
        ("size = 20\n[simulated]", "multiple of 8"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, text, fragment):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=fragment):
        Recipe.from_toml(path)


def test_populations_that_do_not_fit(recipe, tmp_path):
    wrong = recipe.model_copy(update={"simulated": recipe.simulated.model_copy(update={"population": {"flux": 1}})})
    with pytest.raises(UsageError, match=r"'simulated.population.flux' is not a known field; there are pixel_scales"):
        train(wrong, tmp_path / "a.eqx")
    with pytest.raises(UsageError, match="brightest is below faintest"):
        Population(brightest=30)
    with pytest.raises(
        UsageError, match=r"disk_ends are two rising numbers of half-light radii from 1.5 on, not \(5, 3\)"
    ):
        Population(disk_ends=(5, 3))


def test_the_command(tmp_path, monkeypatch):
    """Errors in one line before any work, and a run."""
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "bad.toml").write_text("steps = 3")
    for code, words, options in (
        (2, "either [simulated] or [stamps]", ["bad.toml"]),
        (65, "cannot be read", ["none.toml"]),
        (73, "exists", ["r.toml", "-o", "r.toml"]),
    ):
        done = CliRunner().invoke(app, ["train", *options])
        lines = done.stderr.strip().splitlines()
        assert done.exit_code == code and len(lines) == 1 and words in lines[0], done.stderr
    done = CliRunner().invoke(app, ["train", "r.toml"])
    assert done.exit_code == 0, done.stderr
    assert load_weights("small.eqx")[1].hash in done.stderr and not (tmp_path / "small.eqx.state").exists()


GENERATOR = """
name = "made"
size = 16
steps = 60
batch = 8
validation = 16
every = 20
learning_rate = 3e-3
[simulated]
number = 64
population = { crowding = [0.0, 1.0], centred = true, faintest = 23.0 }
[generator]
code = 4
channels = 8
couplings = 2
hidden = 8
"""


def test_a_generator_by_the_command(tmp_path, monkeypatch):
    """Trained by the same command, with a loss that falls; a prior of images afterwards."""
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.toml").write_text(GENERATOR)
    done = CliRunner().invoke(app, ["train", "made.toml"])
    assert done.exit_code == 0, done.output
    model, about = load_weights("made.eqx")
    assert isinstance(model, Generator) and model.code == 4
    curve = [row[1] for row in about.card["curve"]]
    assert curve[-1] < curve[0] - 0.2
    prior = learned_prior("made.eqx", (20, 20))
    assert prior.sample(jax.random.key(0)).shape == (20, 20)


def test_a_generator_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    recipe = Recipe.from_toml(_written(tmp_path / "g.toml", GENERATOR))
    whole = train(recipe, tmp_path / "whole.eqx")
    step, calls = encoder.advanced, iter(range(10**6))

    def stopped(*args):
        if next(calls) == 30:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(encoder, "advanced", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts.eqx")
    monkeypatch.setattr(encoder, "advanced", step)
    assert train(recipe, tmp_path / "parts.eqx").training.hash == whole.training.hash


def _written(path, text):
    path.write_text(text)
    return path


def test_a_training_that_diverges_says_so(recipe, tmp_path, monkeypatch):
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    step = run_module.training.advanced

    def diverged(*args):
        state, losses = step(*args)
        return state, losses * jnp.nan

    monkeypatch.setattr(run_module.training, "advanced", diverged)
    monkeypatch.setattr(run_module, "LINE_SECONDS", 0)
    with pytest.raises(UsageError, match="not a number at step 1, the training diverged; give a smaller learning_rate"):
        train(recipe, tmp_path / "a.eqx")
    assert not list(tmp_path.glob("a.eqx*"))
