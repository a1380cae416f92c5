"""The contract of an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from invprob.covariance import white
from invprob.operators import AbstractLinearOperator, AbstractOperator, Adjoint, Structure
from invprob.operators.base import precision_of, vdot
from invprob.testing.base import (
    close,
    combine,
    directional,
    finite_step,
    first,
    norm,
    repeated,
    require,
    tolerance,
)


def _vector(key: Any, structure: Structure, dtype: Any, image: Callable[[], PyTree] | None) -> PyTree:
    # complex vectors may be half-spectra, of which only the consistent ones mean anything
    complex_ones = any(kind for _, kind in structure.leaves)
    return white(key, structure, dtype) if image is None or not complex_ones else image()


def check_operator(operator: AbstractOperator, key: Any = None, rtol: float = 1e-12) -> None:
    """Check the contract of an operator.

    Linear operators: dot test ``Re <u, A x> = Re <A.T u, x>``, ``A.T.T is A``, linearity, and what
    `has_disjoint_rows` and `normal_is_circulant` say of ``A A.T`` and ``A.T A``. Non-linear ones:
    `linearize` against central differences, and the dot test of the Jacobian. Both: shapes and types as
    declared, jit, vmap over inputs and over stacked operators, and gradients, with respect to x and to the
    operator's own arrays, against central differences.

    Parameters
    ----------
    operator
        Operator to check. Complex inputs are drawn from the range of the adjoint, so that the half-spectrum
        of a real image is a consistent one.
    key
        Random key.
    rtol
        Relative tolerance of the dot test in float64; in float32 it is 200 roundings, 2.4e-5.
    """
    key = jax.random.key(0) if key is None else key
    arrays, rest = eqx.partition(operator, eqx.is_inexact_array)
    dtype = precision_of(arrays)
    keys = jax.random.split(key, 6)
    linear = isinstance(operator, AbstractLinearOperator)

    def draw_in(k):
        def image():
            return operator.T(white(k, operator.out_structure, dtype))  # type: ignore[attr-defined]

        return _vector(k, operator.in_structure, dtype, image if linear else None)

    x, z = draw_in(keys[0]), draw_in(keys[1])
    y = operator(x)
    _declared(operator, y, operator.out_structure, dtype, "output")
    close(eqx.filter_jit(lambda o, v: o(v))(operator, x), y, tolerance(1e-10, dtype), operator, "jit")
    batch = jax.tree.map(lambda a, b: jnp.stack([a, b]), x, z)
    tol = tolerance(1e-10, dtype)
    close(jax.tree.map(lambda a: a[1], jax.vmap(operator)(batch)), operator(z), tol, operator, "vmap")
    over = eqx.filter_vmap(lambda o, v: o(v), in_axes=(eqx.if_array(0), None))
    if jax.tree.leaves(arrays):
        close(first(over(repeated(operator), x)), y, tol, operator, "vmap over stacked operators")
    jacobian = operator if linear else operator.linearize(x)
    require(isinstance(jacobian, AbstractLinearOperator), operator, "linearize gives a linear operator")
    _dot_test(jacobian, operator, x if linear else z, keys[2], tolerance(rtol, dtype), dtype)
    if linear:
        same = operator.T is operator.operator if isinstance(operator, Adjoint) else operator.T.T is operator
        require(same, operator, "A.T.T is A")
        both = operator(combine(2.0, x, -0.5, z))
        close(both, combine(2.0, y, -0.5, operator(z)), tolerance(1e-11, dtype), operator, "linearity")
        _check_structure_claims(operator, keys[3], tolerance(1e-11, dtype), dtype)
    else:
        h, allowed = finite_step(dtype)
        ends = operator(combine(1, x, h, z)), operator(combine(1, x, -h, z))
        close(jacobian(z), combine(0.5 / h, ends[0], -0.5 / h, ends[1]), allowed, operator, "linearize")

    def scalar(o, v):
        out = o(v)
        return 0.5 * vdot(out, out) + vdot(out, y)

    directional(lambda v: scalar(operator, v), x, z, operator, "gradient with respect to x", dtype)
    if jax.tree.leaves(arrays):
        own = lambda a: scalar(eqx.combine(a, rest), x)  # noqa: E731
        directional(own, arrays, arrays, operator, "gradient with respect to its arrays", dtype)


def _check_structure_claims(operator, key, tol, dtype) -> None:
    # a matrix is diagonal when it commutes with any diagonal one, circulant when it commutes with both unit shifts
    one, other = jax.random.split(key)
    if operator.has_disjoint_rows:
        u, s = white(one, operator.out_structure, dtype), white(other, operator.out_structure, dtype)

        def scaled(v):
            return jax.tree.map(lambda a, b: jnp.real(a) * b, s, v)

        left, right = operator(operator.T(scaled(u))), scaled(operator(operator.T(u)))
        close(left, right, tol, operator, "A A.T is diagonal, as has_disjoint_rows says")
    if operator.normal_is_circulant:
        x = white(one, operator.in_structure, dtype)
        ranks = [a.ndim for a in jax.tree.leaves(x)]
        require(ranks == [2], operator, "normal_is_circulant is said of an operator on one image", f"ranks {ranks}")

        def rolled(v, axis):
            return jax.tree.map(lambda a: jnp.roll(a, 1, axis), v)

        for axis in (0, 1):
            left = operator.T(operator(rolled(x, axis)))
            right = rolled(operator.T(operator(x)), axis)
            close(left, right, tol, operator, "A.T A is circulant, as normal_is_circulant says")


def _declared(operator, value, structure, dtype, what) -> None:
    require(Structure(value) == structure, operator, f"{what} as declared", f"{Structure(value)}, not {structure}")
    kept = precision_of(value) == dtype
    require(kept, operator, f"{what} keeps the precision", f"{precision_of(value)}, not {dtype}")


def _dot_test(operator, subject, x, key, rtol, dtype) -> None:
    y = operator(x)
    other = _vector(key, operator.out_structure, dtype, lambda: operator(white(key, operator.in_structure, dtype)))
    # half of u lies along A x, so that the product does not cancel and its relative error has a meaning
    u = combine(1 / max(norm(y), 1e-30), y, 1 / max(norm(other), 1e-30), other)
    back = operator.T(u)
    _declared(subject, back, operator.in_structure, dtype, "output of the adjoint")
    left, right = float(vdot(u, y)), float(vdot(back, x))
    error = abs(left - right) / max(abs(left), 1e-300)
    detail = f"Re<u, A x> = {left:.16g}, Re<A.T u, x> = {right:.16g}: {error:.2g} apart, not {rtol:.1g}"
    require(error <= rtol, subject, "dot test", detail)
