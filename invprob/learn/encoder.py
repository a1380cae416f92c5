"""The training of a generator: a variational autoencoder whose prior of the code is a flow, trained with it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.learn.steps import Schedule, State
from invprob.learn.training import Stamps
from invprob.priors.generator import Generator
from invprob.priors.network import Conv, Linear, to_channels
from invprob.priors.views import View

NARROWEST = -4.0  # least logarithm of the scatter of a code


class Encoder(eqx.Module):
    """From ``asinh(image / softness)`` to mean and logarithm of the standard deviation of its code."""

    convs: list[Conv]
    out: Linear

    def __init__(self, key, size: int, code: int, channels: int = 48):
        keys = jax.random.split(key, 3)
        self.convs = [Conv(keys[0], (16, channels)), Conv(keys[1], (4 * channels, channels))]
        self.out = Linear(keys[2], ((size // 8) ** 2 * channels, 2 * code), scale=0.3)

    def __call__(self, bent: Float[Array, "y x"]) -> tuple[Float[Array, " code"], Float[Array, " code"]]:
        h = jax.nn.silu(self.convs[0](to_channels(bent[..., None], 4)))
        h = jax.nn.silu(self.convs[1](to_channels(h, 2)))
        mean, log_std = jnp.split(self.out(h.ravel()), 2)
        return mean, jnp.maximum(log_std - 1, NARROWEST)


class Autoencoder(eqx.Module):
    """Generator and encoder, and the logarithm of the scatter of an image about what is decoded, in asinh."""

    generator: Generator
    encoder: Encoder
    log_scatter: Float[Array, ""]

    def __init__(self, key, **settings):
        keys = jax.random.split(key)
        self.generator = Generator(keys[0], **settings)
        self.encoder = Encoder(keys[1], self.generator.size, self.generator.code)
        self.log_scatter = jnp.zeros((), jnp.float32)

    def negative_elbo(self, image: Float[Array, "y x"], key) -> Float[Array, ""]:
        """Of one image, per pixel; the scatter is added to its asinh."""
        bent = jnp.arcsinh(image / self.generator.decoder.softness)
        mean, log_std = self.encoder(bent)
        e = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(log_std) * e
        log_q = -jnp.sum(log_std + 0.5 * e**2 + 0.5 * jnp.log(2 * jnp.pi))
        left = (bent - self.generator.decoder.bent(z)) * jnp.exp(-self.log_scatter)
        log_p = -jnp.sum(0.5 * left**2 + self.log_scatter + 0.5 * jnp.log(2 * jnp.pi))
        return (log_q - self.generator.log_code(z) - log_p) / image.size


@eqx.filter_jit
def advanced(stamps: Stamps, key, state: State, schedule: Schedule) -> tuple[State, Array]:
    """One step."""
    pick, turn, draw = jax.random.split(jax.random.fold_in(key, state.step), 3)
    chosen = jax.random.randint(pick, (schedule.batch,), 0, len(stamps.images))
    views = jax.random.split(turn, schedule.batch)
    images = jax.vmap(lambda image, key: View.random(key, 1).of(image))(stamps.images[chosen], views)

    def objective(network, images, key):
        return jnp.mean(jax.vmap(network.negative_elbo)(images, jax.random.split(key, len(images))))

    value, gradient = eqx.filter_value_and_grad(objective)(state.network, images, draw)
    return state.moved(gradient, schedule), value


@eqx.filter_jit
def validated(network: Autoencoder, images: Float[Array, "n y x"], key) -> Array:
    """The mean negative ELBO per pixel of images that were not trained on."""
    return jnp.mean(jax.vmap(network.negative_elbo)(images, jax.random.split(key, len(images))))


__all__ = ["Autoencoder", "advanced", "validated"]
