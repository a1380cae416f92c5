"""Langevin dynamics for priors that are known by their score alone. Approximate: there is no density to accept by."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob import likelihoods
from invprob.covariance import white
from invprob.errors import CapabilityError, UsageError
from invprob.operators.base import AbstractLinearOperator, vdot, zeros
from invprob.optimize.solvers.cg import axpy
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasPrecision, HasScore, HasTerms, require
from invprob.sampling.coordinates import posterior_root, prior_precisions, score_precisions
from invprob.sampling.samplers.base import AbstractMarkov, Chains, Info

FIRST, FURTHER = 30, 2  # steps of the power iteration for the stiffest direction, at the start and along the way
FORGETTING = 0.98  # of the stiffness in a step of warm-up: starts may lie where the density is steeper


class Walk(eqx.Module):
    """A posterior in coordinates c, ``x = origin + T c``."""

    post: Posterior
    T: AbstractLinearOperator
    origin: PyTree

    def latent(self, c: PyTree) -> PyTree:
        """x."""
        return jax.tree.map(jnp.add, self.origin, self.T.apply(c))

    def force(self, c: PyTree) -> PyTree:
        """The score of c, ``T.T score(x)``."""
        return self.T.adjoint(self.post.score(self.latent(c)))

    def bent(self, c: PyTree, force: PyTree, direction: PyTree, steps: int) -> tuple[PyTree, Float[Array, ""]]:
        """Towards the stiffest direction at c, by power iteration from another, and the stiffness along it.

        It is the change of the force over a distance of one, which is what a step sees: at a kink of the density, as of
        total variation, the curvature has no bound.
        """

        def body(_, state):
            u, _ = state
            bent = axpy(-1, force, self.force(axpy(1, u, c)))
            length = jnp.sqrt(vdot(bent, bent))
            return jax.tree.map(lambda b: -b / jnp.maximum(length, jnp.finfo(length.dtype).tiny), bent), length

        dtype = jax.tree.leaves(c)[0].dtype
        return jax.lax.fori_loop(0, steps, body, (direction, jnp.zeros((), dtype)))


class Motion(eqx.Module):
    """What the chains carry along: speed and force, the stiffest direction of each, and the stiffness of them all."""

    speed: PyTree
    force: PyTree
    direction: PyTree
    stiffness: Float[Array, ""]


class Langevin(AbstractMarkov):
    """Underdamped Langevin dynamics of the score, without a Metropolis test.

    ``dc = v dt``, ``dv = score(c) dt - v dt + sqrt(2) dW`` in coordinates in which the posterior is near to white,
    integrated by the splitting BAOAB, with a step that warm-up fits to the stiffest place it came through. Its draws
    are those of a Gaussian posterior for every stable step; of any other they are off by the order of the squared step,
    which `bias` says. Halve ``step_length`` and see what changes.

    Parameters
    ----------
    num_warmup
        Transitions of warm-up.
    num_steps
        Steps of the integrator in a transition, a gradient each.
    step_length
        Step in units of the longest that the stiffest direction would bear, between 0 and 1.

    References
    ----------
    Leimkuhler & Matthews 2013, AMRX 2013, 34 (BAOAB, and that it is exact for Gaussian densities); Durmus & Moulines
    2017, Ann. Appl. Probab. 27, 1551 (the bias of unadjusted dynamics).
    """

    num_warmup: int = 200
    num_steps: int = 10
    step_length: float = 0.25
    name: ClassVar[str] = "langevin"
    bias: ClassVar[str] = "approximate: Langevin dynamics of a finite step, off where the posterior is not Gaussian"

    def __check_init__(self):
        if self.num_warmup < 1 or self.num_steps < 1 or not 0 < self.step_length < 1:
            raise UsageError(
                "Langevin takes num_warmup and num_steps of at least 1 and step_length between 0 and 1, not "
                f"{self.num_warmup}, {self.num_steps} and {self.step_length:g}"
            )

    def prepare(self, post: Posterior) -> Walk:
        like, prior = post.likelihood, post.prior
        scored = require(prior, HasScore, "Langevin dynamics")
        if not isinstance(like, likelihoods.Gaussian):
            raise CapabilityError(f"Langevin dynamics need a Gaussian likelihood, not {type(like).__name__}")
        dtype = like.data.dtype
        origin = zeros(post.structure, dtype)
        known = prior.find(HasPrecision) is not None or prior.find(HasTerms) is not None
        precisions = prior_precisions(prior, dtype) if known else score_precisions(scored, origin)
        T = posterior_root(like.operator.linearize(origin), like.noise, precisions, dtype)
        # one Newton step with the approximate covariance T T.T
        return Walk(post, T, jax.tree.map(jnp.add, origin, T.apply(T.adjoint(post.score(origin)))))

    def init(self, problem: Walk, key, num_chains: int) -> Chains:
        structure = problem.T.in_structure
        dtype = jax.tree.leaves(problem.origin)[0].dtype

        def one(key):
            place, speed, towards = jax.random.split(key, 3)
            c, u = white(place, structure, dtype), white(towards, structure, dtype)
            size = jnp.sqrt(vdot(u, u))
            force = problem.force(c)
            u, stiffness = problem.bent(c, force, jax.tree.map(lambda a: a / size, u), FIRST)
            return c, white(speed, structure, dtype), force, u, stiffness

        position, speed, force, direction, stiffness = jax.vmap(one)(jax.random.split(key, num_chains))
        none = jnp.full(num_chains, jnp.nan, dtype)
        info = Info(none, jnp.ones_like(none), none > 0, jnp.zeros(num_chains, jnp.int32))
        motion = Motion(speed, force, direction, jnp.maximum(jnp.max(stiffness), 1))
        return Chains(position, motion, jnp.zeros((), jnp.int32), info)

    def step(self, problem: Walk, chains: Chains, key) -> Chains:
        keys, motion = jax.random.split(key, len(chains.info.accept)), chains.carry
        h = self.step_length * 2 / jnp.sqrt(motion.stiffness)
        position, speed, force = jax.vmap(lambda *at: self._moved(problem, h, *at))(
            chains.position, motion.speed, motion.force, keys
        )

        def looked():
            u, stiffness = jax.vmap(lambda c, f, u: problem.bent(c, f, u, FURTHER))(position, force, motion.direction)
            return u, jnp.maximum(jnp.maximum(jnp.max(stiffness), FORGETTING * motion.stiffness), 1)

        warming = chains.step < self.num_warmup
        direction, stiffness = jax.lax.cond(warming, looked, lambda: (motion.direction, motion.stiffness))
        cost = jnp.full(len(keys), self.num_steps + jnp.where(warming, FURTHER, 0), jnp.int32)
        info = eqx.tree_at(lambda i: i.gradients, chains.info, cost)
        return Chains(position, Motion(speed, force, direction, stiffness), chains.step + 1, info)

    def latent(self, problem: Walk, position: PyTree) -> PyTree:
        return problem.latent(position)

    def _moved(
        self, problem: Walk, h: Array, c: PyTree, v: PyTree, force: PyTree, key
    ) -> tuple[PyTree, PyTree, PyTree]:
        kept = jnp.exp(-h)  # friction of one: the period of white noise over two pi
        lost = jnp.sqrt(1 - kept**2)

        def body(state, key):
            c, v, force = state
            v = axpy(0.5 * h, force, v)
            c = axpy(0.5 * h, v, c)
            n = white(key, problem.T.in_structure, h.dtype)
            v = jax.tree.map(lambda v, n: kept * v + lost * n, v, n)
            c = axpy(0.5 * h, v, c)
            force = problem.force(c)
            return (c, axpy(0.5 * h, force, v), force), None

        return jax.lax.scan(body, (c, v, force), jax.random.split(key, self.num_steps))[0]


__all__ = ["Langevin"]
