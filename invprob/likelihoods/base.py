"""Base class of the likelihoods."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from invprob.operators.base import AbstractLinearOperator, AbstractOperator


class AbstractLikelihood(eqx.Module):
    """``p(data | F(x))`` for a forward operator F, with masked data left out everywhere."""

    operator: eqx.AbstractVar[AbstractOperator]

    @abstractmethod
    def log_prob(self, x: PyTree) -> Float[Array, ""]:
        """Logarithm of the normalized density of the valid data."""

    @abstractmethod
    def residual(self, x: PyTree) -> PyTree:
        """Whitened residual of each datum, zero where masked; its square sums to `chi2`."""

    @abstractmethod
    def simulate(self, key, x: PyTree) -> PyTree:
        """Data drawn for x; masked elements are zero."""

    @abstractmethod
    def fisher(self, x: PyTree) -> AbstractLinearOperator:
        """The Fisher information at x, ``J.T N^-1 J``, matrix-free."""

    @abstractmethod
    def chi2(self, x: PyTree) -> Float[Array, ""]:
        """Sum of the squared whitened residuals."""

    @property
    @abstractmethod
    def num_data(self) -> Array | int:
        """Number of valid data."""
