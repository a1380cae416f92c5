"""Any differentiable map as an operator, and the Jacobian of one."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import PyTree

from invprob.operators.base import AbstractLinearOperator, AbstractOperator, Structure


class Function(AbstractOperator):
    """A differentiable function as an operator.

    Parameters
    ----------
    function
        From the latent pytree to the data. An `equinox.Module` or `jax.tree_util.Partial` keeps its arrays traced; a
        plain function is compared by identity, so that a lambda made anew is compiled anew.
    structure
        Structure of the input: arrays, `jax.ShapeDtypeStruct` or shapes.
    """

    function: Callable[[PyTree], PyTree]
    structure: Structure

    def __init__(self, function, structure):
        self.function, self.structure = function, Structure(structure)

    @property
    def in_structure(self):
        return self.structure

    @property
    def out_structure(self):
        return Structure(jax.eval_shape(self.function, self.structure.tree))

    def apply(self, x):
        return self.function(x)

    def linearize(self, x):
        return Jacobian(self, x)


class Jacobian(AbstractLinearOperator):
    """The derivative of an operator at a point: forward mode applies it, reverse mode its adjoint."""

    operator: AbstractOperator
    point: PyTree

    @property
    def in_structure(self):
        return self.operator.in_structure

    @property
    def out_structure(self):
        return self.operator.out_structure

    def apply(self, x):
        return jax.jvp(self.operator.apply, (self.point,), (x,))[1]

    def adjoint(self, u):
        (out,) = jax.vjp(self.operator.apply, self.point)[1](jax.tree.map(jax.numpy.conj, u))
        return jax.tree.map(jax.numpy.conj, out)
