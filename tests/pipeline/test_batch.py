"""`deconvolve_many` against `deconvolve` for each stamp."""

import multiprocessing

import numpy as np
import pytest

from invprob.errors import InputError, UsageError
from invprob.observation import Observation
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.deconvolve import deconvolve
from invprob.results import Samples, Status
from tests.small import SHAPE, names, observation, settings

TIGHT = {"rtol": 1e-12, "num_samples": 6, "refine": 2}


def stamps() -> list[Observation]:
    """Three stamps with data, PSF widths and masks of their own, and PSF images of one size."""
    masks = [None, np.eye(*SHAPE, dtype=bool), np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 7 == 3]
    return [observation(i, fwhm=2.2 + 0.4 * i, mask=mask) for i, mask in enumerate(masks)]


@pytest.fixture(scope="module")
def batch():
    return deconvolve_many(stamps(), settings(**TIGHT))


def close(a, b, rtol: float) -> bool:
    return bool(np.abs(a - b).max() <= rtol * np.abs(b).max())


def test_the_same_as_each_alone(batch):
    for obs, found in zip(stamps(), batch, strict=True):
        alone = deconvolve(obs, settings(**TIGHT))
        assert found.status is alone.status is Status.CONVERGED
        assert found.frame.shape == alone.frame.shape
        assert close(found.image, alone.image, 1e-5) and close(found.model, alone.model, 1e-5)
        assert close(found.std, alone.std, 1e-3)
        assert found.chi2 == pytest.approx(alone.chi2, rel=1e-5)
        assert found.effective_dof == pytest.approx(alone.effective_dof, rel=1e-3)
        assert names(found) == names(alone)
        np.testing.assert_array_equal(found.inpainted, alone.inpainted)
        np.testing.assert_array_equal(np.isnan(found.residual), np.isnan(alone.residual))
    assert not close(batch[0].image, batch[1].image, 0.01)


def test_the_solver_named_is_the_one_that_ran(batch):
    """At the data's own pixel a stamp alone may be solved on two grids; the batch is not, and says so."""
    config = settings(num_samples=0)
    assert {r.solver for r in deconvolve_many(stamps(), config)} == {r.solver for r in batch} == {"cg"}
    for found, obs in zip(deconvolve_many(stamps(), config), stamps(), strict=True):
        assert close(found.image, deconvolve(obs, config).image, 1e-2)
    (found,) = deconvolve_many(stamps()[:1], settings(solver="lbfgs", num_samples=0))
    assert found.solver == "optax" and close(found.image, deconvolve(stamps()[0], config).image, 1e-2)
    with pytest.raises(UsageError, match="wiener"):
        deconvolve_many(stamps(), settings(solver="wiener"))


def test_a_result_does_not_depend_on_its_neighbours(batch):
    backwards = deconvolve_many(stamps()[::-1], settings(**TIGHT))[::-1]
    for a, b in zip(batch, backwards, strict=True):
        assert close(a.image, b.image, 1e-9) and close(a.std, b.std, 1e-6)
    # the middle one alone, on its own frame
    (alone,) = deconvolve_many(stamps()[1:2], settings(**TIGHT))
    assert close(alone.image, batch[1].image, 1e-5) and close(alone.std, batch[1].std, 1e-3)


def test_psf_images_of_several_sizes():
    """The frame is that of the widest; the images agree to the accuracy of the prior on the wider border."""
    mixed = [observation(0, size=9), observation(1, size=15)]
    both = deconvolve_many(mixed, settings(**TIGHT))
    assert both[0].frame.shape == both[1].frame.shape
    for obs, found in zip(mixed, both, strict=True):
        assert found.status is Status.CONVERGED
        assert close(found.image, deconvolve(obs, settings(**TIGHT)).image, 0.02)


def test_samples_and_sky():
    found = deconvolve_many(stamps(), settings(num_samples=3, method="sample", sky="fit"))
    alone = deconvolve(stamps()[2], settings(num_samples=3, method="sample", sky="fit"))
    assert all(isinstance(r, Samples) and r.draws.shape == (3, *SHAPE) for r in found)
    assert close(found[2].draws, alone.draws, 0.02)
    assert found[2].report.sky == pytest.approx(alone.report.sky, rel=1e-2)
    assert "sky_std" in found[0].report


def test_a_batch_that_is_not_converged():
    found = deconvolve_many(stamps(), settings(max_steps=2, num_samples=2))
    assert {r.status for r in found} == {Status.MAX_STEPS}
    assert {r.steps for r in found} == {2}


def test_what_does_not_fit():
    other = Observation.from_arrays(np.ones((5, 6)), 1.0, psf=stamps()[0].psf)
    with pytest.raises(InputError, match=r"need one shape, not \[\(5, 6\), \(18, 20\)\]"):
        deconvolve_many([stamps()[0], other], settings())
    without = Observation.from_arrays(np.ones(SHAPE), 1.0)
    with pytest.raises(InputError, match="1 of 2 stamps have no PSF"):
        deconvolve_many([stamps()[0], without], settings())
    assert deconvolve_many([], settings()) == []


def test_denoising():
    """Stamps without a PSF."""
    plain = [Observation.from_arrays(o.data, 1.0, mask=~o.valid) for o in stamps()]
    found = deconvolve_many(plain, settings(**TIGHT))
    assert close(found[1].image, deconvolve(plain[1], settings(**TIGHT)).image, 1e-5)


def test_in_a_spawned_process(batch):
    """Arguments and results travel between processes; the numbers are those of this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(deconvolve_many, (stamps(), settings(**TIGHT))).get(timeout=240)
    for a, b in zip(found, batch, strict=True):
        assert a.status is b.status and a.frame == b.frame and names(a) == names(b)
        assert close(a.image, b.image, 1e-8) and close(a.std, b.std, 1e-6)
