"""The samplers of `invprob.sample` as pure functions of one case, and draws of priors that have no direct sampler."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from invprob import likelihoods
from invprob.covariance import Diagonal
from invprob.operators.base import Identity
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasLogProb
from invprob.sampling.samplers import AbstractIndependent, AbstractMarkov, ScaleMixture


class Independent(eqx.Module):
    """Independent draws, ``(post, key, num_draws) -> draws``.

    Parameters
    ----------
    sampler
        Sampler of independent draws.
    """

    sampler: AbstractIndependent

    def __call__(self, post: Posterior, key, num_draws: int) -> PyTree:
        problem = self.sampler.prepare(post)
        mean = self.sampler.mean(problem).value

        def one(key):
            return jax.tree.map(jnp.add, mean, self.sampler.draw(problem, key).value)

        return jax.lax.map(one, jax.random.split(key, num_draws))


class Thinned(eqx.Module):
    """Every so many draws of some chains, ``(post, key, num_draws) -> draws``, so that they nearly do not depend.

    Parameters
    ----------
    sampler
        Sampler of chains.
    thin
        Steps from one draw to the next.
    num_chains
        Chains; the draws are taken from all of them in turn.
    """

    sampler: AbstractMarkov
    thin: int = eqx.field(static=True, default=5)
    num_chains: int = eqx.field(static=True, default=2)

    def __call__(self, post: Posterior, key, num_draws: int) -> PyTree:
        start, key = jax.random.split(key)
        problem = self.sampler.prepare(post)
        chains = self.sampler.init(problem, start, self.num_chains)
        chains = _stepped(self.sampler, problem, chains, key, self.sampler.num_warmup)

        def body(chains, _):
            chains = _stepped(self.sampler, problem, chains, key, self.thin)
            return chains, jax.vmap(lambda position: self.sampler.latent(problem, position))(chains.position)

        _, draws = jax.lax.scan(body, chains, None, length=-(-num_draws // self.num_chains))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_draws], draws)


def _stepped(sampler: AbstractMarkov, problem: Any, chains: Any, key, number: int) -> Any:
    """Chains after some steps; the step counter makes the keys."""

    def body(_, now):
        return sampler.step(problem, now, jax.random.fold_in(key, now.step))

    return jax.lax.fori_loop(0, number, body, chains)


@eqx.filter_jit
def prior_draws(prior: HasLogProb, key, number: int, sampler: AbstractMarkov | None = None) -> PyTree:
    """Draws of a proper prior of one array by as many chains, each the end of its own warm-up.

    Parameters
    ----------
    prior
        Proper prior that the sampler takes, such as `GaussianRegularized` total variation.
    key
        Random key.
    number
        Draws.
    sampler
        Default: 300 sweeps of Gibbs sampling.

    Returns
    -------
    array
        Shape ``(number, ...)``.
    """
    sampler = ScaleMixture(num_warmup=300) if sampler is None else sampler
    shape = prior.structure.shape
    dtype = jnp.result_type(*jax.tree.leaves(eqx.filter(prior, eqx.is_inexact_array)))
    unseen = Diagonal(jnp.ones(shape, dtype), jnp.zeros(shape, bool))
    post = Posterior(likelihoods.Gaussian(Identity(shape), jnp.zeros(shape, dtype), unseen), prior)
    problem = sampler.prepare(post)
    chains = sampler.init(problem, jax.random.fold_in(key, 0), number)
    chains = _stepped(sampler, problem, chains, jax.random.fold_in(key, 1), sampler.num_warmup)
    return jax.vmap(lambda position: sampler.latent(problem, position))(chains.position)


__all__ = ["Independent", "Thinned", "prior_draws"]
