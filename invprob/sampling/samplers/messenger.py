"""Hyperparameters together with the image, where a convolution is followed by anything local."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from invprob.covariance import Stationary
from invprob.errors import CapabilityError, UsageError
from invprob.operators.base import zeros
from invprob.optimize.solvers.cg import axpy, descend
from invprob.optimize.solvers.splitting import SeparatedConvolution, separate_convolution
from invprob.posterior import Hierarchy, Posterior
from invprob.priors.capabilities import HasPrecision
from invprob.sampling.samplers.base import AbstractMarkov, Chains, Info
from invprob.sampling.samplers.gaussian import perturbation

FIRST = 0.3  # standard deviation of the first proposals, in the coordinates of theta
ADAPTING = 0.8  # of the warm-up; the rest settles with the proposals found
ACCEPTED = 0.3  # between what is best in one dimension, 0.44, and in many, 0.23
SHARE = 0.95  # of the smallest variance that the messenger may take


class Place(eqx.Module):
    """Where a chain is: flat theta, and the latent of the posterior given theta."""

    theta: Float[Array, " d"]
    x: PyTree


class Adapted(eqx.Module):
    """A root of the covariance of the proposals, and how often it was adapted."""

    root: Float[Array, "d d"]
    count: Array


class Field(eqx.Module):
    """The posterior given theta as a Gaussian field u behind a convolution, observed through a messenger.

    With ``y = R C u + level + n`` and R of disjoint rows, the messenger is ``t = C u + e``, ``e ~ N(0, tau)`` on the
    whole latent grid, and the data are ``y = R t + level + n'`` with ``n' ~ N(0, N - tau R R.T)``. Given t nothing of
    the image depends on mask, border, block sums or varying noise: u and t are diagonal in Fourier space.

    Parameters
    ----------
    parts
        Convolution and data.
    mean, power
        Mean and power spectrum of the image.
    tau
        Variance of the messenger.
    """

    parts: SeparatedConvolution
    mean: Float[Array, "y x"]
    power: Float[Array, "ky kx"]
    tau: Float[Array, ""]

    @classmethod
    def of(cls, post: Posterior) -> Field:
        """The field of a posterior; `CapabilityError` where it is not one."""
        parts = separate_convolution(post, "messenger sampling", "give theta by hand, or take its maximum")
        gaussian = parts.prior.find(HasPrecision)
        if gaussian is None or not isinstance(gaussian.covariance, Stationary):
            raise CapabilityError(
                f"messenger sampling needs a stationary Gaussian prior of the image, not {type(parts.prior).__name__}"
            )
        data = parts.data
        offset = jnp.zeros(parts.shape, data.data.dtype) if gaussian.offset is None else gaussian.offset
        loudest = jnp.max(data.weight * data.gram)
        return cls(parts, offset, gaussian.covariance.power, SHARE / loudest)

    @property
    def response(self) -> Float[Array, "ky kx"]:
        """``|otf|^2``."""
        return jnp.real(self.parts.otf) ** 2 + jnp.imag(self.parts.otf) ** 2

    def convolved(self, image: Float[Array, "y x"]) -> Float[Array, "y x"]:
        """C u."""
        return jnp.fft.irfft2(self.parts.otf * jnp.fft.rfft2(image), s=image.shape)

    def message(self, key, image: Float[Array, "y x"], level: Float[Array, ""]) -> Float[Array, "y x"]:
        """A draw of t given the image and the data: simulated, then corrected by what it misses of the data."""
        data = self.parts.data
        own, rest = jax.random.split(key)
        t = self.convolved(image) + jnp.sqrt(self.tau) * jax.random.normal(own, image.shape, image.dtype)
        left = jnp.sqrt(self._left(data)) * jax.random.normal(rest, data.data.shape, image.dtype)
        return t + self.tau * data.R.adjoint(data.weight * (data.data - level - data.R.apply(t) - left))

    def log_prob(self, t: Float[Array, "y x"], level: Float[Array, ""]) -> Float[Array, ""]:
        """``log p(t, y | theta)``, the image integrated out, up to what does not depend on theta."""
        data = self.parts.data
        covariance = Stationary(self.power * self.response + self.tau, self.parts.shape)
        of_t = covariance.quadratic(t - self.convolved(self.mean)) + covariance.logdet()
        left, valid = self._left(data), data.weight > 0
        residual = data.data - level - data.R.apply(t)
        of_data = jnp.sum(jnp.where(valid, residual**2 / left + jnp.log(left), 0))
        return -0.5 * (of_t + of_data)

    def image(self, key, t: Float[Array, "y x"]) -> Float[Array, "y x"]:
        """A draw of the image given t."""
        covariance = Stationary(1 / (1 / self.power + self.response / self.tau), self.parts.shape)
        seen = jnp.fft.rfft2(t - self.convolved(self.mean)) * jnp.conj(self.parts.otf)
        mean = self.mean + covariance.mv(jnp.fft.irfft2(seen / self.tau, s=t.shape))
        return mean + covariance.sample(key, t.dtype)

    def _left(self, data):
        """Variance of the data given t; one where they are not valid."""
        valid = data.weight > 0
        return jnp.where(valid, 1 / jnp.where(valid, data.weight, 1) - self.tau * data.gram, 1)


class Messenger(AbstractMarkov):
    """Gibbs sampling of a stationary Gaussian field and its hyperparameters, whatever mask, border and noise.

    A sweep draws the image given theta and the data, exactly (perturb and solve, from the last image); a messenger
    field t given the image; theta given t, by ``num_moves`` Metropolis moves with the image integrated out, which cost
    a Fourier transform each; and the image given theta and t. Every conditional is exact, so the chain is; theta is
    held back only by what t knows beyond the data, so that it takes steps of the size of its uncertainty however many
    pixels there are, where theta given the image would hardly move.

    Parameters
    ----------
    num_warmup
        Steps of warm-up, in which the chains together learn the covariance of the proposals.
    num_moves
        Moves of theta in a step.
    rtol
        Part of the energy of a draw that its solve may leave out, as for `ScaleMixture`.
    max_steps
        Most steps of a solve.

    Notes
    -----
    Prior (power spectrum, mean), PSF, noise and levels may all depend on theta; border, mask and block sums may not.
    The messenger's variance is that of the least noisy datum: where a few data have much less noise than the rest,
    theta moves slowly. With variances that scatter by a third 2000 draws had 300 to 1100 effective ones of each of the
    three numbers of a power law, at a signal of 2 and of 20 times the noise; where they scatter by a factor of e, 20 to
    150.

    References
    ----------
    Jasche & Lavaux 2015, MNRAS 447, 1204 (messenger fields in Gibbs sampling of spectra); Elsner & Wandelt 2013, A&A
    549, A111; van Dyk & Park 2008, JASA 103, 790 (collapsing); Papandreou & Yuille 2010, NIPS 23 (perturb and solve);
    Vihola 2012, Stat. Comput. 22, 997 (adaptation).
    """

    num_warmup: int = 200
    num_moves: int = 100
    rtol: float = 1e-5
    max_steps: int = 1000
    name: ClassVar[str] = "messenger"
    takes = Hierarchy

    def __check_init__(self):
        if self.num_warmup < 1 or self.num_moves < 1:
            raise UsageError(
                f"Messenger takes num_warmup and num_moves of at least 1, not {self.num_warmup} and {self.num_moves}"
            )

    def prepare(self, post: Hierarchy) -> Hierarchy:
        Field.of(post.build(post.start))
        return post

    def init(self, problem: Hierarchy, key, num_chains: int) -> Chains:
        theta, _ = ravel_pytree(problem.start)
        lower, upper = _bounds(problem)
        inside = 1e-3 * (upper - lower)
        nothing = zeros(problem.build(problem.start).structure, theta.dtype)

        def one(key):
            away, draw = jax.random.split(key)
            first = theta + 2 * FIRST * jax.random.normal(away, theta.shape, theta.dtype)
            first = jnp.clip(first, lower + inside, upper - inside)
            return Place(first, self._image(_given(problem, first), nothing, draw)[0])

        places = jax.lax.map(one, jax.random.split(key, num_chains))
        none = jnp.full(num_chains, jnp.nan, theta.dtype)
        info = Info(none, jnp.ones_like(none), none > 0, jnp.zeros(num_chains, jnp.int32))
        adapted = Adapted(FIRST * jnp.eye(theta.size, dtype=theta.dtype), jnp.zeros((), jnp.int32))
        return Chains(places, adapted, jnp.zeros((), jnp.int32), info)

    def step(self, problem: Hierarchy, chains: Chains, key) -> Chains:
        keys = jax.random.split(key, len(chains.info.accept))
        # one after the other: a batch of solves would run until the slowest is done
        places, accept, directions, steps = jax.lax.map(
            lambda at: self._sweep(problem, chains.carry.root, *at), (chains.position, keys)
        )
        moves = accept.ravel(), directions.reshape(-1, directions.shape[-1])
        adapting = chains.step < int(ADAPTING * self.num_warmup)
        carry = jax.lax.cond(adapting, lambda: _learned(chains.carry, *moves), lambda: chains.carry)
        info = Info(chains.info.energy, accept.mean(-1), chains.info.divergent, steps)
        return Chains(places, carry, chains.step + 1, info)

    def latent(self, problem: Hierarchy, position: Place) -> PyTree:
        return {"theta": ravel_pytree(problem.start)[1](position.theta), "x": position.x}

    def _sweep(self, problem: Hierarchy, root: Array, place: Place, key) -> tuple[Place, Array, Array, Array]:
        draw, messenger, moves, back = jax.random.split(key, 4)
        post = _given(problem, place.theta)
        x, steps = self._image(post, place.x, draw)
        field = Field.of(post)
        image, level = _parted(field, x)
        t = field.message(messenger, image, level)

        def density(theta):
            new = Field.of(_given(problem, theta))
            inside = problem.log_hyperprior(ravel_pytree(problem.start)[1](theta))
            return new.log_prob(t, level) + _log_level(new, x) + inside

        def move(state, key):
            theta, log_prob = state
            towards, length, chance = jax.random.split(key, 3)
            # of many lengths: spectra are often known along a bent and narrow valley
            z = jax.random.normal(towards, theta.shape, theta.dtype) * jnp.exp(
                jax.random.normal(length, (), theta.dtype)
            )
            new = theta + root @ z
            found = density(new)
            accept = jnp.where(jnp.isfinite(found), jnp.exp(jnp.minimum(found - log_prob, 0)), 0)
            taken = jax.random.uniform(chance, (), accept.dtype) < accept
            return (jnp.where(taken, new, theta), jnp.where(taken, found, log_prob)), (accept, z)

        start = (place.theta, density(place.theta))
        (theta, _), (accept, directions) = jax.lax.scan(move, start, jax.random.split(moves, self.num_moves))
        image = Field.of(_given(problem, theta)).image(back, t)
        x = image if field.parts.key is None else {**x, field.parts.key: image}
        return Place(theta, x), accept, directions, steps

    def _image(self, post: Posterior, x: PyTree, key) -> tuple[PyTree, Array]:
        """A draw of the latent given theta, and the steps of its solve, which begins from x."""
        system = post.linear_gaussian()
        assert system is not None
        right = axpy(1, system.right_hand_side(), perturbation(system, key))
        u = x if system.mean is None else axpy(-1, system.mean, x)
        enough = self.rtol * sum(leaf.size for leaf in jax.tree.leaves(x))
        residual = axpy(-1, system.precision.apply(u), right)
        u, left, steps = descend(
            system.precision.apply, u, residual, enough, self.max_steps, system.circulant().operator.apply
        )
        # where rounding or the data broke the solve, its last x is no draw
        x = jax.tree.map(lambda a: jnp.where(jnp.isfinite(left), a, jnp.nan), system.shifted(u))
        return x, steps


def _bounds(problem: Hierarchy) -> tuple[Array, Array]:
    return ravel_pytree(problem.lower)[0], ravel_pytree(problem.upper)[0]


def _given(problem: Hierarchy, theta: Array) -> Posterior:
    """The posterior given theta; beyond the bounds, which is refused, that of the nearest theta within."""
    return problem.build(ravel_pytree(problem.start)[1](jnp.clip(theta, *_bounds(problem))))


def _parted(field: Field, x: PyTree) -> tuple[Array, Array]:
    """The image and the sum of the levels."""
    if field.parts.key is None:
        return x, jnp.zeros((), field.mean.dtype)
    levels = field.parts.data.levels
    assert levels is not None
    return x[field.parts.key], sum((x[name] for name in levels.keys), start=jnp.zeros((), field.mean.dtype))


def _log_level(field: Field, x: PyTree) -> Array:
    """Log-density of the levels, which may depend on theta."""
    levels = field.parts.data.levels
    if levels is None:
        return jnp.zeros((), field.mean.dtype)
    away = jnp.stack([x[name] for name in levels.keys]) - levels.mean
    return -0.5 * jnp.sum(away**2 / levels.variance + jnp.log(levels.variance))


def _learned(adapted: Adapted, accepts: Array, directions: Array) -> Adapted:
    """The proposals after the moves of all chains: longer along what was accepted, shorter along what was not."""

    def body(i, adapted):
        z = directions[i]
        count = adapted.count + 1
        rate = jnp.minimum(1.0, z.size * count.astype(z.dtype) ** (-2 / 3))
        change = rate * (accepts[i] - ACCEPTED) / jnp.maximum(z @ z, jnp.finfo(z.dtype).tiny)
        square = adapted.root @ (jnp.eye(z.size, dtype=z.dtype) + change * jnp.outer(z, z)) @ adapted.root.T
        return Adapted(jnp.linalg.cholesky(square), count)

    return jax.lax.fori_loop(0, len(accepts), body, adapted)


__all__ = ["Field", "Messenger"]
