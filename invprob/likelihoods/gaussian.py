"""The Gaussian likelihood, for any forward operator."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from invprob.covariance import AbstractCovariance, Diagonal, inexact
from invprob.likelihoods.base import AbstractLikelihood
from invprob.operators.base import AbstractLinearOperator, AbstractOperator, Adjoint, compose, vdot


class Gaussian(AbstractLikelihood):
    """Data with additive Gaussian noise, ``y = F(x) + n``, ``n ~ N(0, N)``.

    ``log p = -1/2 r.T N^-1 r - 1/2 log det N - n/2 log 2 pi`` with ``r = y - F(x)`` over the valid data.

    Parameters
    ----------
    operator
        Forward operator F, linear or not.
    data
        The data y, shape of the operator's output.
    noise
        Covariance of the noise, or an array of variances in the squared unit of the data.
    valid
        True where a datum counts; None: everywhere. Data that are not valid may hold anything, NaN included.

    Raises
    ------
    ValueError
        When data, noise and operator differ in shape.
    """

    operator: AbstractOperator
    data: Float[Array, ...]
    noise: AbstractCovariance

    def __init__(
        self,
        operator: AbstractOperator,
        data: Float[Array, ...],
        noise: AbstractCovariance | Float[Array, ...],
        valid: Bool[Array, ...] | None = None,
    ):
        self.operator = operator
        data = inexact(data)
        given: Any = noise if isinstance(noise, AbstractCovariance) else Diagonal(jnp.broadcast_to(noise, data.shape))
        self.noise = given if valid is None else given.masked(jnp.asarray(valid, bool))
        self.data = data if self.valid is None else jnp.where(self.valid, data, 0)

    def __check_init__(self):
        shape = self.operator.out_structure.shape
        for name, given in (("data", self.data.shape), ("noise", self.noise.structure.shape)):
            if given != shape:
                raise ValueError(f"the operator predicts data of shape {shape}, but the {name} have {given}")

    @property
    def valid(self) -> Bool[Array, ...] | None:
        """True where a datum counts, None when all do."""
        return self.noise.valid if isinstance(self.noise, Diagonal) else None

    @property
    def num_data(self):
        return int(np.prod(self.data.shape)) if self.valid is None else jnp.sum(self.valid)

    def residual(self, x):
        return self.noise.inv_sqrt(self.data - self.operator(x))

    def chi2(self, x):
        r = self.residual(x)
        return vdot(r, r)

    def log_prob(self, x):
        return -0.5 * (self.chi2(x) + self.noise.logdet() + self.num_data * jnp.log(2 * jnp.pi))

    def simulate(self, key, x):
        prediction = self.operator(x)
        mean = prediction if self.valid is None else jnp.where(self.valid, prediction, 0)
        return mean + self.noise.sample(key, mean.dtype)

    def fisher(self, x) -> AbstractLinearOperator:
        jacobian = self.operator.linearize(x)
        return compose(Adjoint(jacobian), self.noise.inv, jacobian)

    def pulled_back(self, T: AbstractLinearOperator, offset=None) -> Gaussian:
        """The likelihood of c for ``x = offset + T c``; an offset needs a linear operator."""
        data = self.data if offset is None else self.data - self.operator(offset)
        return Gaussian(compose(self.operator, T), data, self.noise)
