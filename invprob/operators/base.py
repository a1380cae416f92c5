"""Base classes of the operators that map a latent pytree to noiseless data.

An operator is applied by a call, composed by ``@``, and knows the structure (shapes) of its input and output. A
linear operator has an adjoint ``.T`` under the real inner product ``Re <a, b>``, for complex arrays as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Structure(eqx.Module):
    """Shapes (and nominal types) of a pytree, hashable, so that it can be a static field.

    Parameters
    ----------
    tree
        Pytree of arrays, `jax.ShapeDtypeStruct` or plain shapes (tuples of integers). The floating point type given
        here is nominal: operators work in the type of the arrays they are applied to.
    """

    leaves: tuple[tuple[tuple[int, ...], bool], ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def __init__(self, tree: PyTree):
        if isinstance(tree, Structure):
            self.leaves, self.treedef = tree.leaves, tree.treedef
            return
        leaves, self.treedef = jax.tree.flatten(tree, is_leaf=_is_shape)
        self.leaves = tuple(_shape_and_kind(leaf) for leaf in leaves)

    @property
    def tree(self) -> PyTree:
        """Pytree of `jax.ShapeDtypeStruct` of the default floating point type."""
        return self.like(jnp.zeros(()).dtype)

    def like(self, dtype) -> PyTree:
        """Pytree of `jax.ShapeDtypeStruct` of the precision of ``dtype``."""
        real = jnp.finfo(dtype).dtype
        kind = {False: real, True: jnp.result_type(real, jnp.complex64)}
        return self.treedef.unflatten([jax.ShapeDtypeStruct(shape, kind[c]) for shape, c in self.leaves])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a structure that is one array."""
        if len(self.leaves) != 1:
            raise TypeError(f"a pytree of {len(self.leaves)} arrays has no single shape")
        return self.leaves[0][0]

    def matches(self, other: Structure) -> bool:
        """Whether shapes and tree agree."""
        return self.treedef == other.treedef and [s for s, _ in self.leaves] == [s for s, _ in other.leaves]

    def __eq__(self, other):
        return isinstance(other, Structure) and (self.leaves, self.treedef) == (other.leaves, other.treedef)

    def __hash__(self):
        return hash((self.leaves, self.treedef))

    def __str__(self):
        shapes = self.treedef.unflatten([_Text(shape) for shape, _ in self.leaves])
        return str(shapes)


class _Text:
    def __init__(self, shape):
        self.shape = shape

    def __repr__(self):
        return str(self.shape)


def _is_shape(node) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def _shape_and_kind(leaf):
    if isinstance(leaf, tuple):
        return leaf, False
    return tuple(jnp.shape(leaf)), bool(jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating))


def zeros(structure: Structure, dtype) -> PyTree:
    """Zeros of a structure, in the precision of ``dtype``."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure.like(dtype))


def precision_of(tree: PyTree):
    """Floating point type shared by the arrays of a pytree."""
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
    return jnp.finfo(jnp.result_type(*leaves)).dtype if leaves else jnp.zeros(()).dtype


def vdot(a: PyTree, b: PyTree) -> Array:
    """Real inner product ``Re <a, b>`` over all leaves."""
    return total(jax.tree.map(_real_dot, a, b))


def total(tree: PyTree) -> Array:
    """The sum of the leaves, in their own type."""
    out, *rest = jax.tree.leaves(tree)
    for leaf in rest:
        out = out + leaf
    return out


def _real_dot(a, b):
    if jnp.iscomplexobj(a) or jnp.iscomplexobj(b):
        return jnp.sum(jnp.real(a) * jnp.real(b) + jnp.imag(a) * jnp.imag(b))
    return jnp.sum(a * b)


class AbstractOperator(eqx.Module):
    """A differentiable map from a latent pytree to a pytree of data."""

    @property
    @abstractmethod
    def in_structure(self) -> Structure:
        """Structure of the input."""

    @property
    @abstractmethod
    def out_structure(self) -> Structure:
        """Structure of the output."""

    @abstractmethod
    def apply(self, x: PyTree) -> PyTree:
        """Value at x, whose structure has been checked by the call."""

    @abstractmethod
    def linearize(self, x: PyTree) -> AbstractLinearOperator:
        """The Jacobian at x as a linear operator."""

    def fuse(self, right: AbstractOperator) -> tuple[AbstractOperator, ...] | None:
        """Shorter or cheaper operators equal to ``self @ right``, or None where there are none."""
        return None

    def __call__(self, x: PyTree) -> PyTree:
        given = Structure(x)
        if not self.in_structure.matches(given):
            raise ValueError(
                f"{type(self).__name__} takes {self.in_structure}, not {given}: check the shape of the latent grid"
            )
        return self.apply(x)

    def __matmul__(self, other):
        if not isinstance(other, AbstractOperator):
            raise TypeError(f"@ composes operators; to apply {type(self).__name__} to an array, call it: operator(x)")
        return compose(self, other)


class AbstractLinearOperator(AbstractOperator):
    """A linear operator A, with its adjoint ``A.T``: ``Re <u, A x> = Re <A.T u, x>``."""

    @property
    def is_pixelwise(self) -> bool:
        """Whether each output is a multiple of one input, so that ``A.T W A`` is diagonal for a diagonal W."""
        return False

    @property
    def has_disjoint_rows(self) -> bool:
        """Whether no input reaches two outputs, so that ``A A.T`` is diagonal."""
        return self.is_pixelwise

    @property
    def normal_is_circulant(self) -> bool:
        """Whether ``A.T A`` is diagonal in Fourier space, so that a circulant matrix stands for it exactly."""
        return False

    def adjoint(self, u: PyTree) -> PyTree:
        """The adjoint applied to u; by default the transpose that JAX derives, conjugated on both sides."""
        like = self.in_structure.like(precision_of(u))
        transpose = jax.linear_transpose(self.apply, like)
        (out,) = transpose(jax.tree.map(jnp.conj, u))
        return jax.tree.map(jnp.conj, out)

    def linearize(self, x: PyTree) -> AbstractLinearOperator:
        return self

    @property
    def T(self) -> AbstractLinearOperator:
        """The adjoint operator; ``A.T.T is A``."""
        return Adjoint(self)


class Adjoint(AbstractLinearOperator):
    """The adjoint of an operator, as an operator."""

    operator: AbstractLinearOperator

    @property
    def in_structure(self):
        return self.operator.out_structure

    @property
    def out_structure(self):
        return self.operator.in_structure

    def apply(self, x):
        return self.operator.adjoint(x)

    def adjoint(self, u):
        return self.operator.apply(u)

    @property
    def T(self):
        return self.operator


class Identity(AbstractLinearOperator):
    """The identity on a structure."""

    structure: Structure

    def __init__(self, structure):
        self.structure = Structure(structure)

    @property
    def in_structure(self):
        return self.structure

    @property
    def out_structure(self):
        return self.structure

    def apply(self, x):
        return x

    def adjoint(self, u):
        return u

    def fuse(self, right):
        return (right,)

    @property
    def is_pixelwise(self):
        return True

    @property
    def normal_is_circulant(self):
        return [len(shape) for shape, _ in self.structure.leaves] == [2]


class Composition(AbstractOperator):
    """Operators applied from right to left, at least one of them not linear."""

    operators: tuple[AbstractOperator, ...]

    @property
    def in_structure(self):
        return self.operators[-1].in_structure

    @property
    def out_structure(self):
        return self.operators[0].out_structure

    def apply(self, x):
        for operator in reversed(self.operators):
            x = operator.apply(x)
        return x

    def linearize(self, x):
        jacobians = []
        for operator in reversed(self.operators):
            jacobians.append(operator.linearize(x))
            x = operator.apply(x)
        return compose(*reversed(jacobians))


class LinearComposition(AbstractLinearOperator):
    """Linear operators applied from right to left."""

    operators: tuple[AbstractLinearOperator, ...]

    @property
    def in_structure(self):
        return self.operators[-1].in_structure

    @property
    def out_structure(self):
        return self.operators[0].out_structure

    def apply(self, x):
        for operator in reversed(self.operators):
            x = operator.apply(x)
        return x

    def adjoint(self, u):
        for operator in self.operators:
            u = operator.adjoint(u)
        return u

    @property
    def is_pixelwise(self):
        return all(operator.is_pixelwise for operator in self.operators)

    @property
    def has_disjoint_rows(self):
        return all(operator.has_disjoint_rows for operator in self.operators)


def _parts(operator: AbstractOperator) -> Sequence[AbstractOperator]:
    return operator.operators if isinstance(operator, Composition | LinearComposition) else (operator,)


def compose(*operators: AbstractOperator) -> Any:
    """The composition ``operators[0] @ operators[1] @ ...``.

    Compositions are flattened, identities dropped, and neighbours that know a cheaper common form are fused.

    Raises
    ------
    ValueError
        When the output of an operator does not fit the input of the one to its left.
    """
    done: list[AbstractOperator] = []
    for operator in (part for given in operators for part in _parts(given)):
        if done and not done[-1].in_structure.matches(operator.out_structure):
            raise ValueError(
                f"{type(done[-1]).__name__} takes {done[-1].in_structure}, but {type(operator).__name__} to its right "
                f"gives {operator.out_structure}: the shapes must agree"
            )
        _append(done, operator)
    if len(done) == 1:
        return done[0]
    linear = all(isinstance(operator, AbstractLinearOperator) for operator in done)
    return LinearComposition(tuple(done)) if linear else Composition(tuple(done))  # type: ignore[arg-type]


def _append(done: list[AbstractOperator], operator: AbstractOperator) -> None:
    if isinstance(operator, Identity) and done:
        return
    fused = done[-1].fuse(operator) if done else None
    if fused is None:
        done.append(operator)
        return
    done.pop()
    for part in fused:
        _append(done, part)
