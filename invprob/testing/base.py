"""What the contract tests share: messages, tolerances, finite differences, counting of compilations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from invprob.operators.base import vdot

NUM_DRAWS = 4000


def require(ok: Any, subject: Any, check: str, detail: str = "") -> None:
    if not bool(ok):
        raise AssertionError(f"{type(subject).__name__} fails: {check}{': ' + detail if detail else ''}")


def norm(tree: PyTree) -> float:
    return float(jnp.sqrt(vdot(tree, tree)))


def close(a: PyTree, b: PyTree, rtol: float, subject: Any, check: str) -> None:
    """Two pytrees agree in norm, relative to the second."""
    error = norm(jax.tree.map(jnp.subtract, a, b))
    scale = norm(b)
    require(error <= rtol * scale, subject, check, f"differs by {error:.3g}, {rtol:.1g} of {scale:.3g} is allowed")


def combine(a: float, x: PyTree, b: float, y: PyTree) -> PyTree:
    return jax.tree.map(lambda p, q: (a * p + b * q).astype(p.dtype), x, y)


def tolerance(rtol: float, dtype: Any) -> float:
    return max(rtol, 200 * float(jnp.finfo(dtype).eps))


def finite_step(dtype: Any) -> tuple[float, float]:
    """Step of a central difference and the relative error it may have."""
    return (1e-5, 1e-6) if jnp.finfo(dtype).eps < 1e-10 else (1e-2, 2e-2)


def directional(f: Callable, x: PyTree, d: PyTree, subject: Any, check: str, dtype: Any) -> None:
    """Forward and reverse derivative of a real function along d against a central difference."""
    h, rtol = finite_step(dtype)
    difference = float((f(combine(1, x, h, d)) - f(combine(1, x, -h, d))) / (2 * h))
    forward = float(jax.jvp(f, (x,), (d,))[1])
    reverse = float(vdot(jax.tree.map(jnp.conj, jax.grad(f)(x)), d))
    allowed = rtol * (abs(difference) + float(jnp.abs(f(x)))) + 1e-300
    for mode, value in (("forward", forward), ("reverse", reverse)):
        detail = f"{value:.12g} against {difference:.12g}"
        require(abs(value - difference) <= allowed, subject, f"{check}, {mode} derivative", detail)


def repeated(tree: PyTree, copies: int = 2) -> PyTree:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda a: jnp.stack([a] * copies), arrays), rest)


def first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[0], tree)


def no_retrace(make: Callable[[], Any], use: Callable[[Any], Any] | None = None) -> None:
    """Check that two objects made with different arrays share one compilation.

    Parameters
    ----------
    make
        Gives, at each call, an object of the same structure with new arrays.
    use
        What is compiled, a function of the object; default: apply it, as an operator, to zeros.
    """
    traces = 0

    def apply(operator):
        return operator(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure.tree))

    @eqx.filter_jit
    def run(thing):
        nonlocal traces
        traces += 1
        return (use or apply)(thing)

    first = make()
    run(first)
    run(make())
    require(traces == 1, first, "no retrace when rebuilt with new arrays", f"compiled {traces} times")
