"""Differences, the starlet and wavelets: exact values, borders, reconstruction, orthogonality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
import scipy.ndimage

from invprob import operators as op
from invprob.covariance import dense_operator
from tests.cases import OPERATORS, SHAPE, fresh


def reference_details(x, scales, mode):
    """Starlet details and coarse scale by scipy's correlations."""
    details, c = [], np.asarray(x)
    for j in range(scales):
        kernel = np.zeros(4 * 2**j + 1)
        kernel[:: 2**j] = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16]
        smooth = c
        for axis in (0, 1):
            smooth = scipy.ndimage.correlate1d(smooth, kernel, axis, mode=mode)
        details.append(c - smooth)
        c = smooth
    return np.stack(details), c


def test_gradient_by_hand():
    x = jnp.asarray([[1.0, 2.0, 4.0], [0.0, 5.0, 5.0]])
    wanted = [[[-1, 3, 1], [1, -3, -1]], [[1, 2, -3], [5, 0, -5]]]
    np.testing.assert_array_equal(op.Gradient((2, 3))(x), wanted)


@pytest.mark.parametrize("mode", ["constant", "wrap"])
@pytest.mark.parametrize(("shape", "scales"), [((16, 21), 4), ((9, 33), 3), ((1, 5), 1), ((4, 4), 2)])
def test_starlet_is_that_of_scipy_and_adds_up(shape, scales, mode):
    x, starlet = fresh(*shape), op.Starlet(shape, scales, mode)
    coefficients = starlet(x)
    details, coarse = reference_details(x, scales, mode)
    np.testing.assert_allclose(coefficients["details"], details, atol=1e-14)
    np.testing.assert_allclose(coefficients["coarse"], coarse, atol=1e-14)
    np.testing.assert_allclose(starlet.reconstruct(coefficients), x, atol=1e-14)
    weights = jnp.exp(fresh(scales))
    weighted = op.StarletDetails(weights, shape, mode)
    np.testing.assert_allclose(weighted(x), weights[:, None, None] * details, atol=1e-13)
    u = fresh(scales, *shape)
    both = starlet.T({"details": weights[:, None, None] * u, "coarse": jnp.zeros(shape)})
    np.testing.assert_allclose(weighted.T(u), both, atol=1e-13)


def test_starlet_norms():
    wanted = [0.89079631, 0.20066385, 0.08550750, 0.04121744, 0.02042497]
    np.testing.assert_allclose(op.starlet_norms(5), wanted, atol=5e-9)
    delta = jnp.zeros((65, 65)).at[32, 32].set(1.0)
    details = op.Starlet((65, 65), 3)(delta)["details"]
    np.testing.assert_allclose(jnp.sqrt(jnp.sum(details**2, (1, 2))), op.starlet_norms(3), rtol=1e-12)


def test_a_constant_has_no_periodic_details():
    x = jnp.full((8, 9), 3.0)
    coefficients = op.Starlet(x.shape, 3, "wrap")(x)
    np.testing.assert_allclose(coefficients["details"], 0, atol=1e-14)
    np.testing.assert_allclose(coefficients["coarse"], 3.0, rtol=1e-14)
    np.testing.assert_allclose(op.Gradient(x.shape)(x), 0)
    wavelet = op.Wavelet(x.shape, "db2", 2)
    even = op.Wavelet((8, 16), "db2", 2)
    np.testing.assert_allclose(even(jnp.ones((8, 16)))[even.is_detail], 0, atol=1e-10)
    assert wavelet.is_detail.sum() == 72 - 2 * 3


def test_starlet_scales_and_modes_that_make_no_sense():
    assert op.Starlet((64, 70)).scales == 5 and op.Starlet(SHAPE).scales == 1
    for scales in (0, 7):
        with pytest.raises(ValueError, match=r"\(64, 70\) has 1 to 6"):
            op.Starlet((64, 70), scales)
    with pytest.raises(ValueError, match="not 'reflect'"):
        op.Starlet((64, 70), 2, "reflect")
    with pytest.raises(ValueError, match="one weight for each scale"):
        op.StarletDetails(1.0, (64, 70))


@pytest.mark.parametrize("name", ["haar", "db4", "sym5"])
@pytest.mark.parametrize(("shape", "levels"), [((8, 12), 3), ((7, 5), 2), ((9, 6), 1), ((1, 5), 1)])
def test_wavelet_is_orthogonal_for_any_sides(shape, levels, name):
    matrix = np.asarray(dense_operator(op.Wavelet(shape, name, levels)))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(len(matrix)), atol=1e-11)


@pytest.mark.parametrize("name", ["haar", "db2", "db4", "sym5"])
def test_wavelet_is_that_of_pywavelets_up_to_its_origin(name):
    x = np.asarray(fresh(12, 8))
    ours = np.asarray(op.Wavelet(x.shape, name, 1)(jnp.asarray(x)))
    offset = 1 - pywt.Wavelet(name).dec_len // 2
    coarse, (down, across, both) = pywt.dwt2(np.roll(x, (offset, offset), (0, 1)), name, mode="periodization")
    np.testing.assert_allclose(ours, np.block([[coarse, across], [down, both]]), atol=1e-10)


def test_wavelets_that_are_not_orthogonal_and_levels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"'bior2\.2' is not orthogonal"):
        op.Wavelet(SHAPE, "bior2.2")
    with pytest.raises(ValueError, match="1 to 2"):
        op.Wavelet(SHAPE, "haar", 3)
    assert op.Wavelet((300, 300)).levels == 5


def test_what_is_known_of_the_normal_operator():
    circulant = {name for name, (_, make) in OPERATORS.items() if isinstance(make(), op.AbstractLinearOperator)}
    circulant = {name for name in circulant if OPERATORS[name][1]().normal_is_circulant}
    assert circulant == {
        "CircularConvolve", "CircularConvolve, odd sides", "CircularConvolve, real", "Gradient", "Identity",
        "Shift", "Shift, even sides", "Starlet, periodic", "StarletDetails, periodic", "Wavelet", "Wavelet, odd sides",
    }  # fmt: skip
    binned = op.PixelBin(2, (4, 4)) @ op.Crop(SHAPE, (slice(0, 4), slice(1, 5)))
    assert binned.has_disjoint_rows and not binned.is_pixelwise
    assert not (op.PixelBin(2, (4, 4)) @ op.Convolve(jnp.ones((3, 3)), (6, 6))).has_disjoint_rows


def test_single_precision_stays_and_batches_map():
    x = fresh(2, *SHAPE).astype(jnp.float32)
    for operator in (op.Gradient(SHAPE), op.Starlet(SHAPE), op.Wavelet(SHAPE)):
        out = jax.vmap(operator)(x)
        assert {a.dtype for a in jax.tree.leaves(out)} == {jnp.dtype("float32")}
        assert jax.vmap(operator.T)(out).dtype == jnp.float32
