"""Log-determinants of matrices known by their products, and roots of their inverses, by the Lanczos iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from invprob.covariance import dense_operator
from invprob.operators.base import AbstractLinearOperator, Adjoint, Structure, compose, zeros

STEPS = 48  # of the Lanczos iteration of one probe: with the condition number 1000 the quadrature is good to 1e-3
VOLUME_PROBES, DENSE_VOLUME = 32, 4096  # numbers up to which the matrix of a change of coordinates is written out
SHORTER = 2 / 3  # of the steps; what a quadrature with so many misses stands for what is missed with all of them


@dataclass(frozen=True)
class Determinant:
    """A log-determinant with its error.

    Parameters
    ----------
    value
        Logarithm of the determinant.
    error
        Standard error of the random probes, and in quadrature what the last third of the Lanczos steps changed; zero
        where the matrix was small enough to be exact.
    lowest
        Smallest (Ritz) eigenvalue that was seen; not a number where none was computed.
    """

    value: float
    error: float
    lowest: float


def size_of(structure: Structure) -> int:
    """Number of real numbers in a structure of real arrays."""
    return sum(int(np.prod(shape)) for shape, _ in structure.leaves)


def flat_product(operator: AbstractLinearOperator, dtype) -> Callable[[Array], Array]:
    """The product of an operator from a structure to itself, on flat vectors."""
    _, unravel = ravel_pytree(zeros(operator.in_structure, dtype))
    return lambda v: ravel_pytree(operator.apply(unravel(v)))[0]


def lanczos(
    apply: Callable[[Array], Array], v: Float[Array, " n"], steps: int
) -> tuple[Float[Array, " steps"], Float[Array, " steps"], Float[Array, "steps n"]]:
    """Diagonal and subdiagonal of ``Q A Q.T``, tridiagonal, and the orthonormal rows Q of the Krylov space of v.

    The rows are orthogonalised against all before, twice. Where the space is exhausted the rest is zero.
    """
    tiny = 10 * jnp.finfo(v.dtype).eps

    def step(j, state):
        basis, diagonal, below = state
        q = basis[j]
        w = apply(q)
        a, before = q @ w, jnp.linalg.norm(w)
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        b = jnp.linalg.norm(w)
        more = b > tiny * before
        basis = basis.at[j + 1].set(jnp.where(more, w / jnp.where(more, b, 1), 0))
        return basis, diagonal.at[j].set(a), below.at[j].set(jnp.where(more, b, 0))

    none = jnp.zeros(steps, v.dtype)
    basis = jnp.zeros((steps + 1, v.size), v.dtype).at[0].set(v / jnp.linalg.norm(v))
    basis, diagonal, below = jax.lax.fori_loop(0, steps, step, (basis, none, none))
    return diagonal, below, basis[:-1]


def _tridiagonal(diagonal, below):
    return jnp.diag(diagonal) + jnp.diag(below[:-1], 1) + jnp.diag(below[:-1], -1)


def _quadrature(diagonal, below) -> tuple[Array, Array]:
    """``e1.T log(T) e1`` of a tridiagonal T, and the smallest eigenvalue that weighs anything."""
    nodes, vectors = jnp.linalg.eigh(_tridiagonal(diagonal, below))
    weights = jnp.square(vectors[0])
    seen = weights > jnp.finfo(nodes.dtype).eps ** 2
    positive = jnp.where(seen & (nodes > 0), nodes, 1)
    return jnp.sum(weights * jnp.log(positive)), jnp.min(jnp.where(seen, nodes, jnp.inf))


@eqx.filter_jit
def _probes(operator: AbstractLinearOperator, keys, steps: int, dtype) -> tuple[Array, Array, Array]:
    apply, size = flat_product(operator, dtype), size_of(operator.in_structure)
    few = max(1, int(SHORTER * steps))

    def probe(key):
        diagonal, below, _ = lanczos(apply, jax.random.rademacher(key, (size,), dtype), steps)
        value, lowest = _quadrature(diagonal, below)
        return size * value, size * _quadrature(diagonal[:few], below[:few])[0], lowest

    return jax.lax.map(probe, keys)


def log_determinant(operator: AbstractLinearOperator, key, num_probes: int, dtype, steps: int = STEPS) -> Determinant:
    """The log-determinant of a symmetric positive definite operator from a structure to itself.

    ``log det A = tr log A = E[v.T log(A) v]`` over vectors v of random signs; a Gauss quadrature of few Lanczos steps
    gives each ``v.T log(A) v``. Where the matrix has no more columns than that would take products, it is written out
    and the result is exact.

    References
    ----------
    Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38, 1075.
    """
    size = size_of(operator.in_structure)
    if size <= num_probes * steps:
        matrix = np.asarray(eqx.filter_jit(dense_operator)(operator, dtype), float)
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        lowest = float(values[0])
        return Determinant(float(np.sum(np.log(values))) if lowest > 0 else np.nan, 0.0, lowest)
    found = _probes(operator, jax.random.split(key, num_probes), steps, dtype)
    values, shorter, lowest = (np.asarray(a, float) for a in found)
    scatter = values.std(ddof=1) / np.sqrt(num_probes) if num_probes > 1 else np.inf
    error = float(np.hypot(scatter, np.mean(values - shorter)))
    return Determinant(float(values.mean()), error, float(lowest.min()))


def log_volume(T: AbstractLinearOperator, key, dtype) -> Determinant:
    """``log |det T|`` of an operator between structures of equal size, symmetric or not: half that of ``T.T T``."""
    if size_of(T.in_structure) <= DENSE_VOLUME:
        matrix = np.asarray(eqx.filter_jit(dense_operator)(T, dtype), float)
        return Determinant(float(np.linalg.slogdet(matrix)[1]), 0.0, np.nan)
    squared = log_determinant(compose(Adjoint(T), T), key, VOLUME_PROBES, dtype)
    return Determinant(squared.value / 2, squared.error / 2, squared.lowest)


def inverse_root(apply: Callable[[Array], Array], v: Float[Array, " n"], steps: int) -> tuple[Array, Array]:
    """``A^-1/2 v`` from the Krylov space of v, and how much the last third of the steps changed it, relative.

    References
    ----------
    Chow & Saad 2014, SIAM J. Sci. Comput. 36, A588.
    """
    diagonal, below, basis = lanczos(apply, v, steps)

    def combined(count):
        nodes, vectors = jnp.linalg.eigh(_tridiagonal(diagonal[:count], below[:count]))
        weights = vectors[0]
        seen = jnp.abs(weights) > jnp.finfo(nodes.dtype).eps
        scaled = jnp.where(seen, weights * jax.lax.rsqrt(jnp.where(seen, nodes, 1)), 0)
        return jnp.linalg.norm(v) * (vectors @ scaled) @ basis[:count]

    full, short = combined(steps), combined(max(1, int(SHORTER * steps)))
    return full, jnp.linalg.norm(full - short) / jnp.linalg.norm(full)


__all__ = ["Determinant", "inverse_root", "lanczos", "log_determinant", "log_volume"]
