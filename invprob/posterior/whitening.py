"""A posterior in the coordinates in which its prior is white noise, as a posterior of its own."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from invprob.covariance import Blocks, Diagonal
from invprob.operators.base import AbstractOperator, compose, precision_of, zeros
from invprob.posterior.posterior import Posterior
from invprob.priors import Gaussian, HasTransform, require


def in_white_coordinates(post: Posterior) -> tuple[Posterior, AbstractOperator]:
    """The posterior of xi, ``x = T(xi)`` with xi ~ N(0, I) under the prior, and T.

    Everything that takes a posterior with a density and any differentiable operator takes it: L-BFGS, HMC, NUTS,
    variational flows. T of its draws are draws of x.

    Raises
    ------
    CapabilityError
        When the prior is not white noise pushed through a map.
    """
    T = require(post.prior, HasTransform, "white coordinates").transform
    dtype = precision_of(eqx.filter(post.likelihood, eqx.is_inexact_array))
    mean = zeros(T.in_structure, dtype)
    single = len(jax.tree.leaves(mean)) == 1 and not isinstance(mean, dict | tuple | list)
    covariance = jax.tree.map(lambda a: Diagonal(jnp.ones_like(a)), mean)
    prior = Gaussian(mean, covariance if single else Blocks(covariance))
    operator = compose(post.likelihood.operator, T)
    return Posterior(eqx.tree_at(lambda like: like.operator, post.likelihood, operator), prior), T


__all__ = ["in_white_coordinates"]
