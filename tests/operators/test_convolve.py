"""Convolution against scipy, its borders, and shifts of band-limited images."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from invprob import operators as op
from tests.cases import fresh, kernel


@pytest.mark.parametrize("size", [(3, 3), (5, 3), (1, 7)])
def test_equals_scipy(size):
    k, x = jnp.exp(fresh(*size)), fresh(12, 11)
    ours = op.Convolve(k, x.shape)(x)
    np.testing.assert_allclose(ours, scipy.signal.convolve2d(x, k, mode="valid"), rtol=1e-11, atol=1e-12)


def test_a_footprint_is_a_part_of_the_full_convolution():
    k, x = kernel(3), fresh(12, 11)
    cut = (slice(2, 9), slice(3, 10))
    ours = op.Convolve(k, x.shape, cut)(x)
    np.testing.assert_allclose(ours, scipy.signal.convolve2d(x, k, mode="same")[cut], atol=1e-12)


@pytest.mark.parametrize("edge", [(0, 5), (11, 5), (5, 0), (5, 10), (0, 0)])
def test_nothing_wraps_around(edge):
    """A source on the border of the latent grid reaches its own side of the frame and nothing else."""
    x = jnp.zeros((12, 11)).at[edge].set(1.0)
    y = np.asarray(op.Convolve(jnp.ones((5, 5)), x.shape)(x))
    far = np.hypot(*(np.indices(y.shape) + 2 - np.reshape(edge, (2, 1, 1)))) > 2 * np.sqrt(2) + 0.1
    assert np.abs(y[far]).max() < 1e-14
    wrapped = np.asarray(op.CircularConvolve.from_kernel(jnp.ones((5, 5)), x.shape)(x))
    assert np.abs(wrapped).sum() == pytest.approx(25)


@pytest.mark.parametrize("cut", [slice(1, 10), slice(2, 11), slice(5, 5)])
def test_a_footprint_within_the_reach_is_an_error(cut):
    with pytest.raises(ValueError, match=r"pad the latent grid"):
        op.Convolve(jnp.ones((5, 5)), (12, 12), (cut, slice(2, 10)))


def test_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match="odd sides"):
        op.Convolve(jnp.ones((4, 5)), (12, 12))
    with pytest.raises(ValueError, match="larger than the grid"):
        op.CircularConvolve.from_kernel(jnp.ones((5, 5)), (4, 12))
    with pytest.raises(ValueError, match="from_kernel"):
        op.CircularConvolve(jnp.ones((5, 5)), (12, 12))


@pytest.mark.parametrize("shape", [(16, 20), (15, 21)])
def test_shift_of_a_band_limited_image(shape):
    """A sum of a few waves is moved exactly, by any fraction of a pixel."""

    def image(dy, dx):
        y, x = np.meshgrid(np.arange(shape[0]) - dy, np.arange(shape[1]) - dx, indexing="ij")
        return sum(
            np.cos(2 * np.pi * (ky * y / shape[0] + kx * x / shape[1]) + ky) for ky, kx in [(0, 1), (2, 3), (-5, 2)]
        )

    for offset in [(0.3, -1.7), (2.0, 5.0)]:
        moved = op.Shift(jnp.asarray(offset), shape)(jnp.asarray(image(0, 0)))
        np.testing.assert_allclose(moved, image(*offset), atol=1e-12)


def test_shift_by_whole_pixels_rolls():
    x = fresh(6, 8)
    np.testing.assert_allclose(op.Shift((1, -2), x.shape)(x), jnp.roll(x, (1, -2), (0, 1)), atol=1e-12)
