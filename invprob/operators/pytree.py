"""Operators on pytrees: `Part` of one, `BlockDiagonal` on each part, `Sum` of the parts, `stack` of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from invprob.operators.base import (
    AbstractLinearOperator,
    AbstractOperator,
    Structure,
    compose,
    precision_of,
    zeros,
)


class Part(AbstractLinearOperator):
    """One entry of a latent pytree, ``x[key]``.

    Parameters
    ----------
    key
        Key of a dictionary or index of a sequence.
    structure
        Structure of the whole pytree.
    """

    key: Any = eqx.field(static=True)
    structure: Structure

    def __init__(self, key, structure):
        self.key, self.structure = key, Structure(structure)

    @property
    def in_structure(self):
        return self.structure

    @property
    def out_structure(self):
        return Structure(self.structure.tree[self.key])

    def apply(self, x):
        return x[self.key]

    def adjoint(self, u):
        out = zeros(self.structure, precision_of(u))
        return eqx.tree_at(lambda tree: tree[self.key], out, u)

    def fuse(self, right):
        if isinstance(right, BlockDiagonal) and isinstance(right.operators[self.key], AbstractLinearOperator):
            return right.operators[self.key], Part(self.key, right.in_structure)
        return None


def _is_operator(node) -> bool:
    return isinstance(node, AbstractOperator)


def _require_linear(operators) -> None:
    for operator in operators:
        if not isinstance(operator, AbstractLinearOperator):
            raise TypeError(
                f"{type(operator).__name__} is not a linear operator; for a non-linear map of a pytree use Function"
            )


class BlockDiagonal(AbstractLinearOperator):
    """A linear operator for each entry of a pytree: block-diagonal.

    Parameters
    ----------
    operators
        Dictionary, list or tuple of linear operators.
    """

    operators: PyTree

    def __check_init__(self):
        _require_linear(jax.tree.leaves(self.operators, is_leaf=_is_operator))

    def _map(self, function, *trees) -> PyTree:
        return jax.tree.map(function, self.operators, *trees, is_leaf=_is_operator)

    @property
    def in_structure(self):
        return Structure(self._map(lambda operator: operator.in_structure.tree))

    @property
    def out_structure(self):
        return Structure(self._map(lambda operator: operator.out_structure.tree))

    def apply(self, x):
        return self._map(lambda operator, part: operator.apply(part), x)

    def adjoint(self, u):
        return self._map(lambda operator, part: operator.adjoint(part), u)

    def fuse(self, right):
        if isinstance(right, BlockDiagonal):
            return (BlockDiagonal(self._map(compose, right.operators)),)
        return None


class Sum(AbstractLinearOperator):
    """The sum of the entries of a pytree that all have one shape: diffuse light + point sources + sky.

    Parameters
    ----------
    structure
        Structure of the pytree.
    """

    structure: Structure

    def __init__(self, structure):
        self.structure = Structure(structure)
        if len({shape for shape, _ in self.structure.leaves}) != 1:
            raise ValueError(f"Sum adds arrays of one shape, not {self.structure}")

    @property
    def in_structure(self):
        return self.structure

    @property
    def out_structure(self):
        return Structure(jax.tree.leaves(self.structure.tree)[0])

    def apply(self, x):
        first, *rest = jax.tree.leaves(x)
        return sum(rest, start=first)

    def adjoint(self, u):
        return self.structure.treedef.unflatten([u] * len(self.structure.leaves))


class Stack(AbstractLinearOperator):
    """The outputs of several linear operators on the same input, as a tuple."""

    operators: tuple[AbstractLinearOperator, ...]

    def __check_init__(self):
        _require_linear(self.operators)
        first, *others = (operator.in_structure for operator in self.operators)
        if not all(first.matches(other) for other in others):
            raise ValueError("stacked operators must take the same input")

    @property
    def in_structure(self):
        return self.operators[0].in_structure

    @property
    def out_structure(self):
        return Structure(tuple(operator.out_structure.tree for operator in self.operators))

    def apply(self, x):
        return tuple(operator.apply(x) for operator in self.operators)

    def adjoint(self, u):
        parts = [operator.adjoint(part) for operator, part in zip(self.operators, u, strict=True)]
        return jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *parts)

    def fuse(self, right):
        # only where every branch becomes cheaper: else the common factor is applied once
        if not isinstance(right, AbstractLinearOperator):
            return None
        if any(operator.fuse(right) is None for operator in self.operators):
            return None
        return (Stack(tuple(compose(operator, right) for operator in self.operators)),)


def stack(operators: Sequence[AbstractLinearOperator]) -> Stack:
    """The operator x -> (A_1 x, A_2 x, ...): exposures or bands of one sky."""
    return Stack(tuple(operators))
