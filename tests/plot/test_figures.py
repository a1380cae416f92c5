"""The figures that the package promises on the ground simulations: errors, chi-square, evidence and flux."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import invprob
from invprob.results import Estimate
from tests.benchmarks.ground_sims import REFINE, DenseEvidence, Simulation, realizations

NAMES = ("000001", "000002", "000014", "000015", "000036", "000042", "000045", "000047")


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    return shared / "ground_sims"


@cache
def deconvolved(folder: Path, name: str) -> tuple[Simulation, Estimate]:
    """A simulation and its estimate, with nothing set by hand."""
    simulation = Simulation.read(folder / f"ground_{name}.fits")
    observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
    result = invprob.deconvolve(observation, invprob.Config.make(refine=REFINE, num_samples=32))
    assert isinstance(result, Estimate) and result.status.ok
    assert result.image is not None and result.image.shape == simulation.truth.shape
    return simulation, result


def chi_square(result: Estimate) -> float:
    """Per effective degree of freedom."""
    assert result.effective_dof is not None
    return result.chi2 / result.effective_dof


def lost_evidence(simulation: Simulation, result: Estimate, scales, slopes) -> float:
    """How far the strength found is below the best of a grid; its evidence is that of the dense matrix."""
    dense = DenseEvidence(simulation)
    found = dense(*(result.report.get(name) for name in ("prior_amplitude", "prior_break", "prior_slope")))
    if "exact" in result.report.strength_choice:
        assert result.report.log_evidence == pytest.approx(found, abs=1e-3)
    return float(dense.grid(scales, slopes).max()) - found


@pytest.mark.parametrize(("name", "limit"), [("000014", 0.50), pytest.param("000045", 0.73, marks=pytest.mark.slow)])
def test_a_galaxy_from_the_ground(folder, name, limit):
    simulation, result = deconvolved(folder, name)
    assert simulation.relative_error(result.image) < limit
    assert 0.88 < chi_square(result) < 1.1
    pull = (result.report.flux - simulation.truth.sum()) / result.report.flux_std
    assert abs(pull) < 3


def test_the_strength_found_is_that_of_a_dense_grid(folder):
    simulation, result = deconvolved(folder, "000014")
    assert lost_evidence(simulation, result, np.geomspace(0.02, 0.4, 6), np.geomspace(3, 20, 5)) < 0.5


@cache
def sparse(folder: Path, name: str) -> tuple[Simulation, Estimate]:
    """A simulation and its estimate under the positive starlet prior, with nothing set by hand."""
    simulation = Simulation.read(folder / f"ground_{name}.fits")
    observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
    config = invprob.Config.make(refine=REFINE, prior="starlet", positive=True, dtype="float32")
    result = invprob.deconvolve(observation, config)
    assert result.status.ok
    return simulation, result


def test_a_galaxy_under_the_starlet_prior(folder):
    simulation, result = sparse(folder, "000014")
    assert simulation.relative_error(result.image) < 0.42  # the Gaussian prior has 0.47
    assert abs(simulation.flux_error(result.image)) < 0.09


@pytest.mark.slow
def test_all_galaxies_under_the_starlet_prior(folder):
    found = [sparse(folder, name) for name in NAMES]
    assert np.median([simulation.relative_error(result.image) for simulation, result in found]) <= 0.45
    assert np.median([abs(simulation.flux_error(result.image)) for simulation, result in found]) <= 0.05


@pytest.mark.slow
def test_the_flux_of_the_positive_starlet_prior_over_realizations_of_the_noise(folder):
    simulation = Simulation.read(folder / "ground_000047.fits")
    changes = {"prior": "starlet", "positive": True, "dtype": "float32"}
    biased = realizations(simulation, 10, draws=0, paired=True, floor=0.0, **changes)
    found = realizations(simulation, 50, draws=0, paired=True, **changes)
    assert abs(found[:, 0].mean() / simulation.truth.sum() - 1) < 0.01
    # a control: strictly positive, the sky keeps half of its noise
    assert biased[:, 0].mean() / simulation.truth.sum() - 1 > 0.01


@pytest.mark.slow
def test_all_galaxies_from_the_ground(folder):
    errors, chi_squares = [], []
    for name in NAMES:
        simulation, result = deconvolved(folder, name)
        errors.append(simulation.relative_error(result.image))
        chi_squares.append(chi_square(result))
    assert np.median(errors) <= 0.72
    # one standard deviation of the noise's own chi-square is 0.043
    assert min(chi_squares) > 0.89 and max(chi_squares) < 1.1
    assert 0.95 < np.median(chi_squares) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "000042"])
def test_every_strength_found_is_that_of_a_dense_grid(folder, name):
    simulation, result = deconvolved(folder, name)
    assert lost_evidence(simulation, result, np.geomspace(0.002, 1, 25), np.geomspace(0.5, 30, 20)) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["000002", "000047"])
def test_the_flux_over_realizations_of_the_noise(folder, name):
    simulation = Simulation.read(folder / f"ground_{name}.fits")
    found = realizations(simulation, 50)
    pulls = (found[:, 0] - simulation.truth.sum()) / found[:, 1]
    scatter = pulls.std(ddof=1)
    assert abs(pulls.mean()) < 2 * scatter / np.sqrt(len(pulls))
    # the errors allow for light beyond the frame, of which these simulations have none
    assert 0.4 < scatter < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["000001", "000047"])
def test_the_flux_at_high_signal_to_noise(folder, name):
    simulation = Simulation.read(folder / f"ground_{name}.fits")
    found = realizations(simulation, 10, snr=1000, draws=0, paired=True)
    assert abs(found[:, 0].mean() / simulation.truth.sum() - 1) < 0.01
