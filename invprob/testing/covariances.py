"""The contract of a covariance."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from invprob.covariance import AbstractCovariance, dense, dense_operator, white
from invprob.operators import compose
from invprob.operators.base import vdot
from invprob.testing.base import NUM_DRAWS, repeated, require, tolerance


def check_covariance(covariance: AbstractCovariance, key: Any = None) -> None:
    """Check that all faces of a covariance agree with its dense matrix, and its draws with both.

    Parameters
    ----------
    covariance
        Covariance of a few hundred elements at most; some may be masked (zero variance).
    key
        Random key.
    """
    key = jax.random.key(0) if key is None else key
    matrix = np.asarray(dense(covariance))
    rtol = tolerance(1e-9, matrix.dtype)
    scale = np.abs(matrix).max()
    good = np.flatnonzero(np.diag(matrix) > 0)
    block = np.ix_(good, good)
    inverse = np.zeros_like(matrix)
    inverse[block] = np.linalg.inv(matrix[block])
    require(np.abs(matrix - matrix.T).max() <= rtol * scale, covariance, "symmetric")
    lowest = np.linalg.eigvalsh(matrix[block]).min()
    require(lowest > 0, covariance, "positive definite", f"lowest eigenvalue {lowest:.3g}")

    def same(got, want, check):
        error = np.abs(np.asarray(got) - want).max()
        detail = f"differs by {error:.3g} of {np.abs(want).max():.3g}"
        require(error <= rtol * np.abs(want).max(), covariance, check, detail)

    sqrt, inv_sqrt = (np.asarray(dense_operator(o)) for o in (covariance.sqrt, covariance.inv_sqrt))
    same(dense_operator(covariance.inv), inverse, "inv")
    same(sqrt @ sqrt, matrix, "sqrt")
    same(sqrt.T, sqrt, "sqrt is symmetric")
    same(inv_sqrt @ inv_sqrt, inverse, "inv_sqrt")
    same(dense_operator(compose(covariance.root, covariance.root.T)), matrix, "root L with C = L L.T")
    same(covariance.logdet(), np.linalg.slogdet(matrix[block])[1], "logdet")
    x = white(key, covariance.structure)
    flat = np.asarray(ravel_pytree(x)[0])
    same(ravel_pytree(covariance.mv(x))[0], matrix @ flat, "mv")
    same(covariance.quadratic(x), flat @ inverse @ flat, "quadratic")
    same(eqx.filter_jit(lambda c: c.quadratic(x))(covariance), flat @ inverse @ flat, "jit")
    same(eqx.filter_vmap(lambda c: c.quadratic(x))(repeated(covariance))[0], flat @ inverse @ flat, "vmap")
    draws = jax.vmap(lambda k: ravel_pytree(covariance.inv_sqrt(covariance.sample(k)))[0])
    whitened = np.asarray(draws(jax.random.split(key, NUM_DRAWS)))[:, good]
    pull = (whitened.T @ whitened / NUM_DRAWS - np.eye(good.size)) * np.sqrt(NUM_DRAWS)
    worst = np.abs(pull / np.sqrt(1 + np.eye(good.size))).max()
    require(worst < 6, covariance, "covariance of its draws", f"off by {worst:.1f} Monte-Carlo standard errors")
    _check_masked(covariance, matrix, good, same)
    c = covariance.root.T(x)
    pulled, image = covariance.pulled_back(covariance.root), covariance.root(c)
    same(
        vdot(c, pulled.inv(c)),
        float(covariance.quadratic(image)),
        "pulled_back to the coordinates of its root",
    )
    impulse = jax.tree.map(lambda a: jnp.zeros_like(a).at[(0,) * a.ndim].set(1), x)
    seen = covariance.updated(impulse, jax.tree.map(lambda a: jnp.full_like(a, 2.0), x))
    after = inverse.copy()
    after[good, good] += 2.0
    same(dense_operator(seen.inv), after, "updated by white data of weight 2")


def _check_masked(covariance, matrix, good, same) -> None:
    keep = np.random.default_rng(0).random(len(matrix)) < 0.7
    keep[good[0]] = True
    unravel = ravel_pytree(white(jax.random.key(0), covariance.structure))[1]
    try:
        masked = covariance.masked(jax.tree.map(lambda a: a > 0, unravel(jnp.asarray(keep, matrix.dtype))))
    except TypeError:
        return  # says itself that its elements cannot be dropped
    left = np.intersect1d(good, np.flatnonzero(keep))
    block, wanted = np.ix_(left, left), np.zeros_like(matrix)
    wanted[block] = np.linalg.inv(matrix[block])
    same(dense_operator(masked.inv), wanted, "inverse of the masked covariance")
    same(masked.logdet(), np.linalg.slogdet(matrix[block])[1], "logdet of the masked covariance")
