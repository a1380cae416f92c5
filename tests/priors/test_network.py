"""The network of a learned prior: its convolutions are the same on every device."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.priors.network import Conv, _by_library, _by_products


@pytest.mark.parametrize(("shape", "size", "channels"), [((6, 8), 3, (5, 7)), ((7, 9), 5, (2, 3)), ((4, 4), 1, (3, 2))])
def test_a_convolution_by_products_is_that_of_the_library(shape, size, channels):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*shape, channels[0]))
    weight = jax.random.normal(keys[1], (size, size, *channels))
    found, back = jax.vjp(_by_products, x, weight)
    wanted, wanted_back = jax.vjp(_by_library, x, weight)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for ours, theirs in zip(back(found), wanted_back(found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    assert float(abs(found - np.roll(found, 1, 0)).max()) > 0.1  # a shift by a pixel would be noticed


def test_a_convolution_by_hand():
    """A kernel with one entry moves the image: the sum is over ``x[y + i - 1, x + j - 1] w[i, j]``, periodic."""
    one = np.zeros((3, 3, 1, 1), np.float32)
    one[0, 2] = 1
    image = np.arange(20, dtype=np.float32).reshape(4, 5, 1)
    conv = eqx.tree_at(lambda c: c.weight, Conv(jax.random.key(0), (1, 1)), jnp.asarray(one))
    np.testing.assert_array_equal(conv(image), np.roll(image, (1, -1), (0, 1)))
