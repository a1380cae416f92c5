"""Split Gibbs sampling for priors that are known by their denoiser."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.errors import UsageError
from invprob.optimize.data_augmentation import AugmentedPosterior, augment, temperature
from invprob.posterior import Posterior
from invprob.sampling.samplers.base import AbstractMarkov, Chains, Info


class Place(eqx.Module):
    """The image and the auxiliary image of a chain."""

    x: Float[Array, "y x"]
    u: Float[Array, "y x"]


class Split(AbstractMarkov):
    """The image given an auxiliary one is a denoised draw; the auxiliary one given image and data is Gaussian.

    With ``u ~ N(x, C)`` and C at most the inverse of ``H = A.T N^-1 A`` x has the posterior exactly, whatever C:
    ``u | x, y ~ N(x + C A.T N^-1 (y - A x), C - C H C)``, one gradient and a polynomial, no solve; and
    ``x | u ~ p(x) N(u; x, C)``, the reverse diffusion of the prior. C is stationary and follows the inverse of H: wide
    where the PSF leaves nothing. Under a Gaussian prior of power P a mode of a circulant H is left with
    ``P / (P + C) (1 - C H)`` of itself in a sweep; where there are no data, in masked pixels and the border, with
    ``P / (P + C)``, which mixes slowly.

    It begins with a dark image. From another one, such as the mean of the prior, the border begins full of light, which
    goes only slowly, and the image inside turns negative to make up for it. The first half of the warm-up is annealed:
    the likelihood is to the power ``1 / t`` and the auxiliary image has the covariance ``t C``, with t falling from
    ``hot`` to one. Of the draws none is.

    Parameters
    ----------
    num_warmup
        Sweeps of warm-up.
    steps
        Steps of the reverse diffusion, one call of the network each.
    share
        Largest eigenvalue of ``C H``.
    depth
        Power response of the operator, relative to the largest, below which C rises no more.
    hot
        First temperature t. With one that is so high that the data are forgotten, the border where there are none has
        not found back after the warm-up.

    References
    ----------
    Vono, Dobigeon & Chainais 2019, IEEE Trans. Signal Processing 67, 1648 (split Gibbs); Marnissi et al. 2018, Entropy
    20, 110 (exact auxiliary variables).
    """

    num_warmup: int = 20
    steps: int = 40
    share: float = 0.95
    depth: float = 1e-4
    hot: float = 10.0
    name: ClassVar[str] = "split"
    bias: ClassVar[str] = "exact for an exact denoiser; off by what the network and the steps of its diffusion are"

    def __check_init__(self):
        good = self.num_warmup >= 1 and self.steps >= 2 and self.hot >= 1
        if not good or not 0 < self.share < 1 or not 0 < self.depth <= 1:
            raise UsageError(
                "Split takes num_warmup and hot of at least 1, steps of at least 2, share between 0 and 1 and depth up "
                f"to 1, not {self.num_warmup}, {self.hot:g}, {self.steps}, {self.share:g} and {self.depth:g}"
            )

    def prepare(self, post: Posterior) -> AugmentedPosterior:
        return augment(post, self.share, self.depth)

    def init(self, problem: AugmentedPosterior, key, num_chains: int) -> Chains:
        dtype = problem.like.data.dtype
        dark = jnp.zeros(problem.prior.structure.shape, dtype)  # type: ignore[union-attr]

        def one(key):
            return self._swept(problem, dark, jnp.asarray(self.hot, dtype), *jax.random.split(key))

        places = jax.vmap(one)(jax.random.split(key, num_chains))
        none = jnp.full(num_chains, jnp.nan, dtype)
        info = Info(none, jnp.ones_like(none), none > 0, jnp.zeros(num_chains, jnp.int32))
        return Chains(places, None, jnp.zeros((), jnp.int32), info)

    def step(self, problem: AugmentedPosterior, chains: Chains, key) -> Chains:
        hot = temperature(self.hot, chains.step + 1, max(self.num_warmup // 2, 1), problem.like.data.dtype)

        def one(place, key):
            return self._swept(problem, place.x, hot, *jax.random.split(key))

        places = jax.vmap(one)(chains.position, jax.random.split(key, len(chains.info.accept)))
        cost = jnp.full(len(chains.info.accept), self.steps, jnp.int32)
        return Chains(places, None, chains.step + 1, eqx.tree_at(lambda i: i.gradients, chains.info, cost))

    def latent(self, problem: AugmentedPosterior, position: Place) -> Float[Array, "y x"]:
        return position.x

    def _swept(self, problem: AugmentedPosterior, x: Float[Array, "y x"], t: Array, away, draw) -> Place:
        """Both conditionals at the temperature t."""
        u = problem.towards_data(x) + jnp.sqrt(t) * problem.scatter(away)
        return Place(problem.prior.denoised_draw(draw, u, t * problem.covariance.power, self.steps), u)


__all__ = ["Split"]
