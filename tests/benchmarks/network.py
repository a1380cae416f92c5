"""How the convolutions of the network are computed: as products of matrices, beside XLA's own; a minute on a CPU.

    python tests/benchmarks/network.py

Times of the untrained network on stamps of 64 x 64 pixels, all in one process and in turns, as a Markdown table.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ground_sims import head, row

from invprob.priors import network
from invprob.priors.denoiser import INPUTS, LEVELS, OUTPUTS

WAYS = {"products": network._by_products, "library": network._by_library}
REPEATS, LOOP = 7, 5


def squared(net: network.UNet, x: jax.Array) -> jax.Array:
    """The network as a denoiser calls it, and a number that depends on every output."""
    levels = jnp.zeros((len(x), len(LEVELS)))
    return jnp.sum((jax.vmap(net)(x, levels) - 1) ** 2)


def looped(net: network.UNet, x: jax.Array) -> jax.Array:
    """As the reverse diffusion calls it."""

    def body(x, _):
        return x * (1 + 1e-6 * squared(net, x)), None

    return jax.lax.scan(body, x, length=LOOP)[0]


def trained(net: network.UNet, x: jax.Array):
    """As a step of the training does."""
    return eqx.filter_grad(squared)(net, x)


def ratio(call: Callable, net: network.UNet, x: jax.Array) -> float:
    """Time of the library's convolutions over that of the products; the median of turns."""
    ready, (arrays, fixed) = {}, eqx.partition(net, eqx.is_array)
    for name, way in WAYS.items():
        network._by_products = way  # what the network uses on a CPU
        ready[name] = jax.jit(lambda arrays, x: call(eqx.combine(arrays, fixed), x)).lower(arrays, x).compile()
        assert ("convolution(" in ready[name].as_text()) == (name == "library")
        jax.block_until_ready(ready[name](arrays, x))
    network._by_products = WAYS["products"]
    times = {name: [] for name in WAYS}
    for _ in range(REPEATS):
        for name, run in ready.items():
            begun = time.perf_counter()
            jax.block_until_ready(run(arrays, x))
            times[name].append(time.perf_counter() - begun)
    return float(np.median(times["library"]) / np.median(times["products"]))


def main() -> None:
    net = network.UNet(jax.random.key(0), INPUTS, OUTPUTS, len(LEVELS))
    head("stamps at once", "denoiser", "in a loop", "gradient")
    for number in (1, 4, 16):
        x = jax.random.normal(jax.random.key(1), (number, 64, 64, INPUTS))
        row(str(number), *(f"{ratio(call, net, x):.1f}" for call in (squared, looped, trained)))


if __name__ == "__main__":
    main()
