"""The figures that the shipped learned prior promises: denoising, ground simulations, and what it warns of."""

from __future__ import annotations

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invprob
from invprob.learn.galaxies import Population, stamps
from invprob.priors.weights_file import learned_prior, shipped_weights
from tests.benchmarks.ground_sims import Simulation
from tests.plot.test_figures import NAMES

HELD_BACK = 987_654  # seed of stamps that no recipe has


def rms(error) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


@pytest.fixture(scope="module")
def held_back():
    """Errors of the prior's denoiser and of its Wiener filter on galaxies that no training had, by the noise."""
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    images = stamps(Population(), 40, 64, HELD_BACK)
    images = images[images.max((1, 2)) > 0]
    prior = learned_prior(shipped_weights("galaxies"), (64, 64))

    @jax.jit
    def both(noisy, sigma):
        noise = jnp.full((64, 33), sigma**2, jnp.float32)
        return jax.lax.map(lambda x: (prior.denoise(x, sigma), prior.denoiser.wiener(x, noise)), noisy)

    def errors(level: float) -> list[float]:
        sigma = level * float(np.median(images.max((1, 2))))
        noisy = images + sigma * np.random.default_rng(0).standard_normal(images.shape)
        return [rms(np.asarray(found) - images) for found in both(jnp.asarray(noisy, jnp.float32), jnp.float32(sigma))]

    return errors


@pytest.mark.parametrize(
    ("level", "limit"), [(1e-3, 1.02), (0.1, 0.75), (0.3, 0.75), (1.0, 0.75), (10.0, 1.02), (100.0, 1.02)]
)
def test_denoising_beside_the_wiener_filter(held_back, level, limit):
    """Noise in median peaks; the filter is that of the prior's own power, and the errors are pooled."""
    ours, wiener = held_back(level)
    assert ours < limit * wiener


def deconvolved(folder: Path, name: str) -> tuple[float, float]:
    """Relative error inside the mask, and that of the flux of the stamp in per cent."""
    simulation = Simulation.read(folder / f"ground_{name}.fits")
    observation = invprob.read_fits(simulation.path, psf="[KERNEL]", dtype="float32")
    config = invprob.Config.make(prior="galaxies", refine=4, num_samples=0, dtype="float32")
    result = invprob.deconvolve(observation, config)
    assert result.status.ok and result.report.in_range
    image = np.asarray(result.image, float)
    return simulation.relative_error(image), 100 * abs(image.sum() / simulation.truth.sum() - 1)


def test_a_galaxy_from_the_ground(shared):
    error, flux = deconvolved(shared / "ground_sims", "000045")
    assert error < 0.30 and flux < 5


@pytest.mark.slow
def test_galaxies_from_the_ground(shared):
    """Richardson-Lucy with the truth's own best stop has a median error of 0.43."""
    errors, fluxes = np.transpose([deconvolved(shared / "ground_sims", name) for name in NAMES])
    assert np.median(errors) < 0.36 and np.median(fluxes) < 3


@pytest.mark.parametrize(("name", "like_the_training_set"), [("galaxy", True), ("star", False), ("cosmic ray", False)])
def test_what_is_no_galaxy_is_said(name, like_the_training_set, monkeypatch):
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    guards = importlib.import_module("guards")
    config = invprob.Config.make(prior="galaxies", num_samples=0, refine=guards.REFINE, dtype="float32")
    result = invprob.deconvolve(guards.made(name, 100).observation, config)
    assert result.report.in_range == like_the_training_set
    said = result.report.get("range_warnings", ())
    assert like_the_training_set != any("does not fit the data" in line for line in said)
