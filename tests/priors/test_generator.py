"""The generator: a flow that can be turned round, a decoder, and a place on the grid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.priors import GeneratorPrior
from invprob.priors.generator import Coupling, Generator
from tests.cases import generator

SMALL = {"size": 16, "code": 5, "channels": 8, "couplings": 3, "hidden": 6, "softness": 0.1}


@pytest.mark.parametrize("flip", [False, True])
def test_a_coupling_is_turned_round(flip):
    coupling = Coupling(jax.random.key(0), 5, 6, flip)
    weight = 0.7 * jax.random.normal(jax.random.key(1), coupling.second.weight.shape)
    coupling = eqx.tree_at(lambda c: c.second.weight, coupling, weight)
    v = jax.random.normal(jax.random.key(3), (5,))
    back, log_volume = coupling.inverse(coupling.forward(v))
    np.testing.assert_allclose(back, v, atol=1e-6)
    assert np.abs(coupling.forward(v) - v).max() > 0.1
    dense = jnp.linalg.slogdet(jax.jacfwd(coupling.forward)(v))[1]
    assert float(-log_volume) == pytest.approx(float(dense), abs=1e-5)


def test_the_density_of_a_code():
    """That of white noise pushed through the flow, by the dense Jacobian."""
    made = generator().generator
    xi = jax.random.normal(jax.random.key(4), (4,))

    def pushed(v):
        for coupling in made.flow:
            v = coupling.forward(v)
        return v

    wanted = -0.5 * jnp.sum(xi**2 + jnp.log(2 * jnp.pi)) - jnp.linalg.slogdet(jax.jacfwd(pushed)(xi))[1]
    assert float(made.log_code(pushed(xi))) == pytest.approx(float(wanted), abs=1e-4)
    assert float(made.log_code(xi)) != pytest.approx(float(wanted), abs=1e-2)


def test_images_are_in_the_middle_and_not_negative():
    made = Generator(jax.random.key(0), **SMALL)
    prior = GeneratorPrior(made, (24, 30), flux=2.0)
    x = np.asarray(prior.sample(jax.random.key(1)))
    assert x.shape == (24, 30) and x.min() >= 0
    inside = x[4:20, 7:23]
    assert inside.min() > 0 and x.sum() == pytest.approx(inside.sum())
    np.testing.assert_allclose(inside, made(jax.random.normal(jax.random.key(1), (5,), x.dtype)) / 2, rtol=1e-5)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="8 times a power of two, not 24"):
        Generator(jax.random.key(0), size=24)
    with pytest.raises(ValueError, match="16 pixels on a side, the grid has"):
        GeneratorPrior(Generator(jax.random.key(0), **SMALL), (12, 20))
