"""Every operator keeps the contract of operators, and the contract notices those that do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from invprob import operators as op
from invprob.operators import AbstractLinearOperator, Structure
from invprob.testing import check_operator, no_retrace
from tests.cases import OPERATORS, SHAPE, convolve, fresh


@pytest.mark.parametrize("name", OPERATORS)
def test_contract(name):
    make = OPERATORS[name][1]
    check_operator(make())
    no_retrace(make)


@pytest.mark.parametrize("name", ["Convolve", "Composition", "FourierSynthesis, complex", "Shift", "StarletDetails"])
def test_contract_in_single_precision(name):
    def single(a):
        return a.astype(jnp.complex64 if jnp.iscomplexobj(a) else jnp.float32) if eqx.is_inexact_array(a) else a

    check_operator(jax.tree.map(single, OPERATORS[name][1]()))


class Broken(AbstractLinearOperator):
    """A convolution with one thing wrong."""

    inner: AbstractLinearOperator

    @property
    def in_structure(self):
        return self.inner.in_structure

    @property
    def out_structure(self):
        return self.inner.out_structure

    def apply(self, x):
        return self.inner.apply(x)

    def adjoint(self, u):
        return self.inner.adjoint(u)


class WrongAdjoint(Broken):
    def adjoint(self, u):
        return (1 + 1e-10) * self.inner.adjoint(u)


class NotLinear(Broken):
    def apply(self, x):
        return self.inner.apply(x) + 1e-3


class WrongShape(Broken):
    @property
    def out_structure(self):
        return Structure((4, 6))


class WrongType(Broken):
    def apply(self, x):
        return self.inner.apply(x).astype(jnp.float32)


class WrongGradient(Broken):
    def apply(self, x):
        return self.inner.apply(x) + 0.1 * jax.lax.stop_gradient(self.inner.apply(x))

    def adjoint(self, u):
        return 1.1 * self.inner.adjoint(u)


class SaysCirculant(Broken):
    @property
    def normal_is_circulant(self):
        return True


class SaysDisjoint(Broken):
    @property
    def has_disjoint_rows(self):
        return True


class SaysCirculantOfAPair(SaysCirculant):
    def __init__(self):
        self.inner = op.Sum({"a": SHAPE, "b": SHAPE})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (WrongAdjoint, "dot test"),
        (NotLinear, "dot test|linearity"),
        (WrongShape, "as declared"),
        (WrongType, "precision"),
        (WrongGradient, "gradient"),
        (SaysCirculant, "as normal_is_circulant says"),
        (SaysDisjoint, "as has_disjoint_rows says"),
    ],
)
def test_contract_notices(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_operator(cls(convolve()))


def test_only_an_image_has_a_circulant_normal_operator():
    with pytest.raises(AssertionError, match="one image"):
        check_operator(SaysCirculantOfAPair())


def test_retrace_is_noticed():
    with pytest.raises(AssertionError, match="retrace"):
        no_retrace(lambda: op.Function(lambda x: x**2, SHAPE))
    no_retrace(lambda: op.Multiply(fresh(*SHAPE)))
