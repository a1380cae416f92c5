"""A prior made proper by a wide Gaussian on every number."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.covariance import Diagonal, inexact
from invprob.operators.base import Identity
from invprob.priors.capabilities import AbstractPrior, HasLogProb, HasTerms, require
from invprob.priors.gaussian import Gaussian


class GaussianRegularized(HasLogProb, HasTerms):
    """``p(x) ∝ prior(x) N(x; 0, std^2 I)``: a density of its own, with an integral whatever the prior leaves free.

    Total variation leaves constants free and the starlet its coarse scale, so that they have no draws. With this wide
    Gaussian, which is part of the prior and not of a sampler, they have, and a sampler can be calibrated on them.

    Parameters
    ----------
    prior
        Prior of one array with a log-density and terms.
    std
        Standard deviation of the Gaussian, in the unit of x: wide beside what the data say.
    """

    prior: AbstractPrior
    std: Float[Array, ""]
    normalized: ClassVar[bool] = False

    def __init__(self, prior: AbstractPrior, std: Float[Array, ""] | float):
        self.prior, self.std = prior, inexact(std)

    def __check_init__(self):
        for capability in (HasLogProb, HasTerms):
            require(self.prior, capability, "regularized priors")
        if len(self.prior.structure.leaves) != 1:
            raise ValueError(f"GaussianRegularized takes a prior of one array, not of {self.prior.structure}")

    @property
    def structure(self):
        return self.prior.structure

    @property
    def anchor(self) -> Gaussian:
        """The Gaussian."""
        return Gaussian(None, Diagonal(jnp.broadcast_to(self.std**2, self.structure.shape)))

    @property
    def terms(self):
        terms = require(self.prior, HasTerms, "regularized priors").terms
        return [*terms, (Identity(self.structure), self.anchor)]

    def log_prob(self, x):
        return require(self.prior, HasLogProb, "regularized priors").log_prob(x) + self.anchor.log_prob(x)

    def barrier(self, x, kappa):
        value, number = require(self.prior, HasLogProb, "regularized priors").barrier(x, kappa)
        return value - self.anchor.log_prob(x), number

    def constrain(self, c, unit=1.0):
        return self.prior.constrain(c, unit)

    def unconstrain(self, x, unit=1.0):
        return self.prior.unconstrain(x, unit)

    def log_jacobian(self, c, unit=1.0):
        return self.prior.log_jacobian(c, unit)


__all__ = ["GaussianRegularized"]
