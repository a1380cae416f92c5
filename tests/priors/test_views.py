"""Views of an image: each is undone, they are all that a grid has, and a network between is one of as many."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.operators.fourier import half_shape
from invprob.priors.network import UNet
from invprob.priors.views import View, Viewed

KEYS = jax.random.split(jax.random.key(0), 200)


def image(shape=(8, 8), key=1):
    return jax.random.normal(jax.random.key(key), shape)


@pytest.mark.parametrize("shape", [(8, 8), (6, 8), (8, 8, 3), (5, 7, 2)])
def test_what_is_seen_is_undone(shape):
    x = image(shape)
    back = jax.vmap(lambda key: (view := View.random(key, 4)).undone(view.of(x)))(KEYS)
    np.testing.assert_array_equal(back, jnp.broadcast_to(x, back.shape))


def test_all_views_occur():
    """Eight orientations of a square, four of others, and every shift."""

    def number(shape, reach):
        seen = jax.vmap(lambda key: View.random(key, reach).of(image(shape)))(KEYS)
        return len(np.unique(np.asarray(seen).reshape(len(KEYS), -1), axis=0))

    assert number((8, 8), 1) == 8
    assert number((6, 8), 1) == 4
    assert number((6, 8), 2) == 16


def test_a_view_goes_with_what_is_the_same_in_all():
    """An isotropic periodic filter gives the same in every view; one along an axis does not."""
    ky, kx = np.meshgrid(np.fft.fftfreq(8), np.fft.rfftfreq(8), indexing="ij")

    def away(response):
        def filtered(x):
            return jnp.fft.irfft2(response * jnp.fft.rfft2(x), s=x.shape)

        x = image()
        through = jax.vmap(lambda key: (view := View.random(key, 8)).undone(filtered(view.of(x))))(KEYS)
        return float(jnp.abs(through - filtered(x)).max())

    assert ky.shape == half_shape((8, 8))
    assert away(np.exp(-20 * (ky**2 + kx**2))) < 1e-5
    assert away(np.exp(-20 * kx**2)) > 1e-2


def test_a_viewed_network_is_the_network_in_that_view():
    network = UNet(jax.random.key(2), 2, 3, 5, channels=(4, 6), blocks=1, embedding=8)
    last = 0.3 * jax.random.normal(jax.random.key(3), network.out.weight.shape)
    network = eqx.tree_at(lambda n: n.out.weight, network, last)
    x, level = image((8, 8, 2)), jnp.zeros(5)
    plain = View(jnp.zeros(3, jnp.int32), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(Viewed(network, plain)(x, level), network(x, level), atol=1e-6)
    upside = View(jnp.asarray([1, 0, 0]), jnp.asarray([0, 1]))
    by_hand = jnp.roll(network(jnp.roll(x[::-1], 1, 1), level), -1, 1)[::-1]
    np.testing.assert_allclose(Viewed(network, upside)(x, level), by_hand, atol=1e-5)
    assert float(jnp.abs(by_hand - network(x, level)).max()) > 1e-2
    assert Viewed(network, upside).multiple == network.multiple
