"""The strength of a sparse prior, and the scale of the noise, together with the image."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.errors import CapabilityError
from invprob.posterior import Hierarchy, Posterior
from invprob.posterior.hierarchies import NoiseScaleModel, StrengthModel
from invprob.priors.capabilities import HasStrength
from invprob.sampling.samplers.base import AbstractMarkov, Chains
from invprob.sampling.samplers.gibbs import Mixture, ScaleMixture, parted

SPREAD = 1.0  # standard deviation of the logarithms with which the chains begin


class Problem(eqx.Module):
    """A hierarchy, and what does not depend on theta.

    Parameters
    ----------
    hierarchy
        The hierarchy.
    mixture
        The posterior at the theta to begin with.
    rank
        Power of the strength in the constant of the prior.
    """

    hierarchy: Hierarchy
    mixture: Mixture
    rank: Float[Array, ""]


class Place(eqx.Module):
    """Where a chain is: theta, and the latent."""

    theta: dict[str, Float[Array, ""]]
    x: PyTree


class StrengthMixture(AbstractMarkov):
    """Gibbs sampling of the strength given the image, of the scales given both, and of the image given the scales.

    The norms of a sparse prior are homogeneous: under the strength s the density of an image is ``s^rank
    exp(-s |W x|)`` up to a constant, so that s given the image is a Gamma number, exactly. So is the inverse variance
    of the noise given the residuals, where its scale is unknown too (`with_noise_scale`). The scales of the mixture are
    integrated out of the first step and drawn in the second, as in `ScaleMixture`.

    Parameters
    ----------
    num_warmup
        Sweeps of warm-up.
    rtol, max_steps
        As for `ScaleMixture`.

    References
    ----------
    Pereyra, Bioucas-Dias & Figueiredo 2015, EUSIPCO, 230 (the constant of homogeneous norms); van Dyk & Park 2008, JASA
    103, 790 (collapsing).
    """

    num_warmup: int = 200
    rtol: float = 1e-5
    max_steps: int = 1000
    name: ClassVar[str] = "strength"
    takes = Hierarchy

    @property
    def _given(self) -> ScaleMixture:
        """The sampler for a theta that is known."""
        return ScaleMixture(self.num_warmup, self.rtol, self.max_steps)

    def prepare(self, post: Hierarchy) -> Problem:
        inner = post.build.build if isinstance(post.build, NoiseScaleModel) else post.build
        if not isinstance(inner, StrengthModel):
            raise CapabilityError(
                f"this Gibbs sampling takes the strength of a sparse prior (strength_hierarchy) and the scale of the "
                f"noise as hyperparameters, not those of {type(inner).__name__}"
            )
        mixture = self._given.prepare(post.build(post.start))
        return Problem(post, mixture, jnp.asarray(inner.rank, mixture.like.data.dtype))

    def init(self, problem: Problem, key, num_chains: int) -> Chains:
        away, image = jax.random.split(key)
        chains = self._given.init(problem.mixture, image, num_chains)
        names, hierarchy = sorted(problem.hierarchy.start), problem.hierarchy
        dtype = problem.mixture.like.data.dtype
        first = SPREAD * jax.random.normal(away, (len(names), num_chains), dtype)
        theta = {
            name: jnp.clip(hierarchy.start[name] + first[i], hierarchy.lower[name], hierarchy.upper[name])
            for i, name in enumerate(names)
        }
        return Chains(Place(theta, chains.position), None, chains.step, chains.info)

    def step(self, problem: Problem, chains: Chains, key) -> Chains:
        keys = jax.random.split(key, len(chains.info.accept))
        # one after the other: a batch of solves would run until the slowest is done
        places, steps = jax.lax.map(lambda at: self._sweep(problem, *at), (chains.position, keys))
        return Chains(places, None, chains.step + 1, eqx.tree_at(lambda i: i.gradients, chains.info, steps))

    def latent(self, problem: Problem, position: Place) -> PyTree:
        return {"theta": position.theta, "x": position.x}

    def _sweep(self, problem: Problem, place: Place, key) -> tuple[Place, Array]:
        strength, noise, image = jax.random.split(key, 3)
        theta = self._update_strength(problem, place, strength)
        if "log_noise" in theta:
            theta = self._update_noise(problem, Place(theta, place.x), noise)
        post = problem.hierarchy.build(theta)
        mixtures, gaussians = parted(post.prior)
        given = Mixture(post.likelihood, mixtures, gaussians, problem.mixture.root, problem.mixture.origin)  # type: ignore[arg-type]
        x, steps = self._given.swept(given, place.x, image)
        return Place(theta, x), steps

    def _update_strength(self, problem: Problem, place: Place, key) -> dict[str, Float[Array, ""]]:
        """Theta with the strength drawn given the image; where the draw is out of bounds, as it was."""
        theta = place.theta
        unit = {**theta, "log_strength": jnp.zeros_like(theta["log_strength"])}
        prior = problem.hierarchy.build(unit).prior.find(HasStrength)
        if prior is None:
            return theta
        cost = prior.cost(place.x)
        tiny = jnp.finfo(cost.dtype).tiny
        drawn = jnp.log(jax.random.gamma(key, problem.rank, (), cost.dtype)) - jnp.log(jnp.maximum(cost, tiny))
        return self._within(problem, theta, "log_strength", drawn)

    def _update_noise(self, problem: Problem, place: Place, key) -> dict[str, Float[Array, ""]]:
        """Theta with the scale of the noise drawn given the residuals."""
        theta = place.theta
        post: Posterior = problem.hierarchy.build({**theta, "log_noise": jnp.zeros_like(theta["log_noise"])})
        half = 0.5 * jnp.asarray(post.likelihood.num_data, theta["log_noise"].dtype)
        drawn = jax.random.gamma(key, half, (), half.dtype)
        return self._within(problem, theta, "log_noise", 0.5 * (jnp.log(0.5 * post.chi2(place.x)) - jnp.log(drawn)))

    @staticmethod
    def _within(problem: Problem, theta: dict[str, Array], name: str, drawn: Array) -> dict[str, Array]:
        # a draw of the conditional without bounds is accepted by Metropolis with one within them and with zero beyond
        inside = (drawn >= problem.hierarchy.lower[name]) & (drawn <= problem.hierarchy.upper[name])
        return {**theta, name: jnp.where(inside, drawn, theta[name])}


__all__ = ["StrengthMixture"]
