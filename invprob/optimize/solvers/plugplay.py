"""The image that a denoiser and the data agree on: for priors that are known by their denoiser alone."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.errors import UsageError
from invprob.optimize.data_augmentation import AugmentedPosterior, augment, temperature
from invprob.optimize.solvers.base import DONE, NOT_FINITE, RUNNING, AbstractSolver, Metrics, State, first_metrics
from invprob.posterior import Posterior

LEAST = 8  # averaged steps before the run may end


class Average(eqx.Module):
    """The mean of the images so far, later ones counting more, and their mean squared distance from it.

    Parameters
    ----------
    mean, square
        Weighted mean, and mean of the squared norms of what is averaged less the mean.
    count
        Images in it.
    """

    mean: Float[Array, "y x"]
    square: Float[Array, ""]
    count: Array


class PlugAndPlay(AbstractSolver):
    """Half-quadratic splitting with noise: steps towards the data, a denoiser after each, and the mean of what comes.

    With an auxiliary image ``u ~ N(x, t C)``, C stationary and at most the inverse of ``H = A.T N^-1 A`` (see
    `invprob.optimize.data_augmentation`), a step is

        u = x + C A.T N^-1 (y - A x) + t^1/2 e,     e ~ N(0, C - C H C),
        x = D(u; t C).

    The noise e makes that of u what the denoiser is told, C, at the truth; per-pixel variances and masks are in it
    exactly. A denoiser that can see an image in several ways takes another one in each step. It begins with a dark
    image; the temperature t falls from ``hot`` to one in ``anneal`` steps, and the images from then on are averaged,
    their numbers as weights. Two images with the noises e and -e are taken along, so that the mean has next to none of
    it where the denoiser is nearly linear. Under a Gaussian prior it is the posterior mean exactly; under others an
    estimate of it, for which there is no theorem.

    Parameters
    ----------
    rtol
        Where to stop: standard error of the mean, relative to its norm, were the steps independent.
    anneal, hot
        Steps until the temperature is one, and the first temperature.
    share, depth
        As in `Split`.
    seed
        Seed of the noise.

    References
    ----------
    Zhang et al. 2021, IEEE TPAMI 44, 6360 (plug-and-play by annealed half-quadratic splitting); Laumont et al. 2022,
    SIAM J. Imaging Sciences 15, 701 (with noise); Terris et al. 2024, arXiv:2312.01831 (views at random).
    """

    rtol: float = 5e-2
    anneal: int = 8
    hot: float = 10.0
    share: float = 0.95
    depth: float = 1e-4
    seed: int = 0
    name: ClassVar[str] = "plugplay"
    measure: ClassVar[str] = "standard error of the mean, relative, of steps taken as independent"

    def __check_init__(self):
        if self.anneal < 1 or self.hot < 1 or not 0 < self.share < 1 or not 0 < self.depth <= 1:
            raise UsageError(
                "PlugAndPlay takes anneal and hot of at least 1, share between 0 and 1 and depth up to 1, not "
                f"{self.anneal}, {self.hot:g}, {self.share:g} and {self.depth:g}"
            )

    def prepare(self, post: Posterior) -> AugmentedPosterior:
        return augment(post, self.share, self.depth)

    def init(self, problem: AugmentedPosterior, x0: PyTree | None) -> State:
        dtype = problem.like.data.dtype
        # dark: where there are no data, a border full of galaxies would come from the prior and go only slowly
        start: Array = jnp.zeros(problem.prior.structure.shape, dtype) if x0 is None else jnp.asarray(x0, dtype)
        none = Average(start, jnp.zeros((), dtype), jnp.zeros((), jnp.int32))
        return State(jnp.stack([start, start]), none, first_metrics(dtype))

    def step(self, problem: AugmentedPosterior, state: State) -> State:
        step, average = state.metrics.step, state.carry
        dtype = average.mean.dtype
        t = temperature(self.hot, step, self.anneal, dtype)
        scatter, view = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), step))
        e = jnp.sqrt(t) * problem.scatter(scatter)
        noise = t * problem.covariance.power

        def one(x, e):
            return problem.prior.denoise_coloured(problem.towards_data(x) + e, noise, view)

        x = jax.vmap(one)(state.x, jnp.stack([e, -e]))
        average = self._averaged(average, jnp.mean(x, axis=0), step >= self.anneal)
        count = jnp.maximum(average.count, 1)
        # the mean with weights 1, 2, ..., n has 4 / 3 of the variance of the plain one
        error = jnp.sqrt(4 / (3 * count) * average.square / jnp.maximum(jnp.sum(average.mean**2), 1e-30))
        gap = jnp.where(average.count < LEAST, jnp.inf, error).astype(dtype)
        code = jnp.where(gap <= self.rtol, DONE, RUNNING)
        code = jnp.where(jnp.all(jnp.isfinite(x)), code, NOT_FINITE).astype(jnp.int32)
        return State(x, average, Metrics(step + 1, gap, code))

    def latent(self, problem: AugmentedPosterior, state: State) -> Float[Array, "y x"]:
        return jnp.where(state.carry.count > 0, state.carry.mean, jnp.mean(state.x, axis=0))

    @staticmethod
    def _averaged(average: Average, x: Float[Array, "y x"], cold: Array) -> Average:
        count = average.count + cold.astype(jnp.int32)
        part = (2 / (count.astype(x.dtype) + 1)).astype(x.dtype)
        away = x - average.mean
        mean = average.mean + part * away
        square = (1 - part) * (average.square + part * jnp.sum(away**2))
        kept = Average(mean, square.astype(x.dtype), count)
        return jax.tree.map(lambda new, old: jnp.where(cold, new, old), kept, average)


__all__ = ["PlugAndPlay"]
