"""Frames and observations."""

import pickle

import numpy as np
import pytest

from invprob.errors import ExitCode, InputError, NoUsablePixelsError
from invprob.observation import PSF, Frame, Observation


def test_frame_refines_then_pads():
    frame = Frame((10, 12), pixel_scale=0.2).refine(3)
    assert frame.shape == (30, 36)
    psf = PSF.gaussian(3.0, size=15)
    padded = frame.pad(psf)
    reach = psf.on(frame).shape[0] // 2
    (below, above), (left, right) = padded.border
    assert min(below, above, left, right) >= reach
    assert np.zeros(padded.shape)[padded.footprint].shape == (30, 36)
    assert all(n % 2 == 0 for n in padded.shape)
    assert padded.cropped() == frame
    with pytest.raises(InputError, match="before it is padded"):
        padded.refine(2)


@pytest.mark.parametrize("factor", [0, -1, 1.5])
def test_refine_needs_a_whole_number(factor):
    with pytest.raises(InputError, match="whole number"):
        Frame((5, 5)).refine(factor)


def test_bad_pixels_carry_no_weight():
    data, variance = np.arange(12.0).reshape(3, 4), np.ones((3, 4))
    data[0, 0], variance[0, 1], variance[0, 2] = np.nan, 0.0, np.inf
    mask = np.zeros((3, 4), bool)
    mask[2, 3] = True
    obs = Observation.from_arrays(data, variance, mask)
    assert obs.valid.sum() == 8
    assert not obs.valid[[0, 0, 0, 2], [0, 1, 2, 3]].any()
    assert np.all(obs.data[~obs.valid] == 0) and np.all(obs.variance[~obs.valid] == 1)


def test_one_number_is_a_variance():
    obs = Observation.from_arrays(np.ones((3, 3)), 4.0)
    assert np.all(obs.variance == 4) and obs.name == "array"


def test_nothing_left_has_its_own_error():
    with pytest.raises(NoUsablePixelsError) as caught:
        Observation.from_arrays(np.full((2, 2), np.nan), 1.0)
    assert caught.value.exit_code == ExitCode.NO_USABLE_PIXELS


def test_shapes_must_agree():
    ones = np.ones((3, 3))
    with pytest.raises(InputError, match="variance has shape"):
        Observation(ones, np.ones((3, 4)), ones > 0)
    with pytest.raises(InputError, match="frame"):
        Observation(ones, ones, ones > 0, frame=Frame((4, 4)))
    with pytest.raises(InputError, match="choose a plane"):
        Observation(np.ones((2, 3, 3)), np.ones((2, 3, 3)), np.ones((2, 3, 3)) > 0)


def test_valid_pixels_must_be_usable():
    data = np.ones((3, 3))
    data[0, 0] = np.nan
    with pytest.raises(InputError, match="1 valid pixels"):
        Observation(data, np.ones((3, 3)), np.ones((3, 3), bool))


def test_pickle_and_dtype():
    obs = Observation.from_arrays(np.ones((3, 3)), 1.0, psf=PSF.gaussian(2.0))
    again = pickle.loads(pickle.dumps(obs))
    assert again.psf is not None and np.array_equal(again.psf.image, obs.psf.image)
    assert obs.astype(np.float32).data.dtype == np.float32
