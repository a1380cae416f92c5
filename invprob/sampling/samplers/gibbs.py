"""Gibbs sampling of sparse posteriors as scale mixtures of Gaussians."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from invprob import likelihoods
from invprob.covariance import white
from invprob.errors import CapabilityError
from invprob.operators.base import AbstractLinearOperator
from invprob.optimize.find_map import solve
from invprob.optimize.solvers.cg import axpy, descend
from invprob.posterior import Posterior
from invprob.priors.capabilities import AbstractPrior, HasConditionalGaussian, HasPrecision, HasTerms, require
from invprob.sampling.coordinates import posterior_root, prior_precisions
from invprob.sampling.samplers.base import AbstractMarkov, Chains, Info

Mixtures = tuple[tuple[AbstractLinearOperator, HasConditionalGaussian], ...]
Gaussians = tuple[tuple[AbstractLinearOperator, HasPrecision], ...]


class Mixture(eqx.Module):
    """A posterior with terms that are Gaussian given their scales.

    Parameters
    ----------
    like
        Gaussian likelihood of a linear operator.
    mixtures
        Pairs of a linear map and a prior that is Gaussian given its scales: a norm.
    gaussians
        Pairs of a linear map and a Gaussian prior.
    root
        Coordinates of the solves, near to white for typical scales.
    origin
        Where the chains begin, with scatter.
    """

    like: likelihoods.Gaussian
    mixtures: Mixtures
    gaussians: Gaussians
    root: AbstractLinearOperator
    origin: PyTree


def parted(prior: AbstractPrior) -> tuple[Mixtures, Gaussians]:
    """The terms of a prior that are Gaussian given their scales, and those that are Gaussian.

    Raises
    ------
    CapabilityError
        When it has none, or others.
    """
    mixtures, gaussians = [], []
    for W, g in require(prior, HasTerms, "sweeps of Gibbs sampling").terms:
        gaussian, mixture = g.find(HasPrecision), g.find(HasConditionalGaussian)
        if gaussian is not None:
            gaussians.append((W, gaussian))
        elif mixture is not None:
            mixtures.append((W, mixture))
        else:
            raise CapabilityError(
                "Gibbs sampling takes terms that are Gaussian, or so given their scales (HasConditionalGaussian), not "
                f"{type(g).__name__}: use hmc"
            )
    return tuple(mixtures), tuple(gaussians)


class ScaleMixture(AbstractMarkov):
    """The scales given the image are inverse Gaussian, the image given the scales is one exact Gaussian draw.

    The draws have the posterior's distribution up to what the solves leave: `rtol`.

    Parameters
    ----------
    num_warmup
        Sweeps of warm-up.
    rtol
        Part of the energy of a draw that its solve may leave out: of the squared residual in white coordinates,
        compared with the number of unknowns.
    max_steps
        Most steps of a solve.
    """

    num_warmup: int = 50
    rtol: float = 1e-5
    max_steps: int = 1000
    name: ClassVar[str] = "gibbs"

    def prepare(self, post: Posterior) -> Mixture:
        like = post.likelihood
        if not isinstance(like, likelihoods.Gaussian) or not isinstance(like.operator, AbstractLinearOperator):
            raise CapabilityError("Gibbs sampling needs a linear operator and Gaussian noise")
        mixtures, gaussians = parted(post.prior)
        dtype = like.data.dtype
        root = posterior_root(like.operator, like.noise, prior_precisions(post.prior, dtype), dtype)
        # without data a solver may have nothing to go by, and any start is as good
        origin = jax.tree.map(lambda a: jnp.where(jnp.isfinite(a), a, 0), solve(post).x)
        return Mixture(like, mixtures, gaussians, root, origin)

    def init(self, problem: Mixture, key, num_chains: int) -> Chains:
        dtype = problem.like.data.dtype

        def one(key):
            away = problem.root.apply(white(key, problem.root.in_structure, dtype))
            return jax.tree.map(jnp.add, problem.origin, away)

        position = jax.vmap(one)(jax.random.split(key, num_chains))
        none = jnp.full(num_chains, jnp.nan, dtype)
        info = Info(none, jnp.ones_like(none), none > 0, jnp.zeros(num_chains, jnp.int32))
        return Chains(position, None, jnp.zeros((), jnp.int32), info)

    def step(self, problem: Mixture, chains: Chains, key) -> Chains:
        keys = jax.random.split(key, len(chains.info.accept))
        # one after the other: a batch of solves would run until the slowest is done
        position, steps = jax.lax.map(lambda at: self.swept(problem, *at), (chains.position, keys))
        info = eqx.tree_at(lambda i: i.gradients, chains.info, steps)
        return Chains(position, None, chains.step + 1, info)

    def swept(self, problem: Mixture, x: PyTree, key) -> tuple[PyTree, Array]:
        """A draw of the scales given the image and of the image given the scales, and the steps of its solve."""
        like = problem.like
        scale_key, data_key, *keys = jax.random.split(key, 2 + len(problem.mixtures) + len(problem.gaussians))
        noise = like.noise.inv_sqrt(white(data_key, like.noise.structure, like.data.dtype))
        right = like.operator.adjoint(like.noise.inv(like.data) + noise)  # type: ignore[attr-defined]
        parts = []
        for i, (W, g) in enumerate(problem.mixtures):
            u = W.apply(x)
            inverse = g.inverse_scales(jax.random.fold_in(scale_key, i), u)
            right = axpy(1, W.adjoint(jnp.sqrt(inverse) * jax.random.normal(keys[i], u.shape, u.dtype)), right)
            parts.append((W, inverse))
        for key, (W, g) in zip(keys[len(problem.mixtures) :], problem.gaussians, strict=True):
            covariance = g.covariance
            pull = covariance.inv_sqrt(white(key, covariance.structure, like.data.dtype))
            if g.offset is not None:
                pull = axpy(1, covariance.inv(g.offset), pull)
            right = axpy(1, W.adjoint(pull), right)

        def precision(v):
            out = like.operator.adjoint(like.noise.inv(like.operator.apply(v)))  # type: ignore[attr-defined]
            for W, inverse in parts:
                out = axpy(1, W.adjoint(inverse * W.apply(v)), out)
            for W, g in problem.gaussians:
                out = axpy(1, W.adjoint(g.covariance.inv(W.apply(v))), out)
            return out

        # in white coordinates; not relative to the right-hand side, which at high signal to noise is mostly signal
        enough = self.rtol * sum(leaf.size for leaf in jax.tree.leaves(x))
        root = problem.root
        x, left, steps = descend(
            precision, x, axpy(-1, precision(x), right), enough, self.max_steps, lambda r: root.apply(root.adjoint(r))
        )
        # where rounding or the data broke the solve, its last x is no draw
        return jax.tree.map(lambda a: jnp.where(jnp.isfinite(left), a, jnp.nan), x), steps

    def latent(self, problem: Mixture, position: PyTree) -> PyTree:
        return position


__all__ = ["Mixture", "ScaleMixture", "parted"]
