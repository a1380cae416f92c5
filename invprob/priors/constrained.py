"""Priors on images that are nowhere below a floor: the constraint alone, and any prior with terms restricted to it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.covariance import inexact
from invprob.errors import CapabilityError
from invprob.operators.base import Identity, Structure, precision_of, total
from invprob.priors.capabilities import (
    AbstractPrior,
    HasLogProb,
    HasParts,
    HasSeparableProx,
    HasTerms,
    leaves_of,
    offers,
    require,
)
from invprob.priors.product import Product


class AbstractBounded(AbstractPrior):
    """A prior with the support x >= floor in each number."""

    @property
    @abstractmethod
    def floor(self) -> Float[Array, ""]:
        """The lowest value, in the unit of x."""

    @property
    def is_sharp(self) -> bool:
        return True

    def restricted(self, value: Float[Array, ""], x: PyTree) -> Float[Array, ""]:
        """The value inside of the support, minus infinity outside."""
        inside = jnp.asarray([jnp.all(a >= self.floor) for a in jax.tree.leaves(x)])
        return jnp.where(jnp.all(inside), value, -jnp.inf)

    def constrain(self, c, unit=1.0):
        """``floor + unit log(1 + exp(c / unit))``."""
        return jax.tree.map(lambda a: self.floor + unit * jax.nn.softplus(a / unit), c)

    def unconstrain(self, x, unit=1.0):
        """``unit log(exp((x - floor) / unit) - 1)``; a number not above the floor becomes zero, where it can move."""
        return jax.tree.map(lambda a: unit * _inverse_softplus((a - self.floor) / unit), x)

    def edge(self, x: PyTree, kappa: Float[Array, ""] | float) -> tuple[Float[Array, ""], int]:
        """The barrier ``-sum log(x - floor) / kappa`` of the bound, and the number of barriers."""
        leaves = jax.tree.leaves(x)
        return total([-jnp.sum(jnp.log(a - self.floor)) / kappa for a in leaves]), sum(a.size for a in leaves)

    def log_jacobian(self, c, unit=1.0):
        return total(jax.tree.map(lambda a: jnp.sum(jax.nn.log_sigmoid(a / unit)), c))


def _inverse_softplus(x):
    safe = jnp.where(x > 0, x, 1)
    return jnp.where(x > 0, safe + jnp.log(-jnp.expm1(-safe)), 0)


class LowerBound(AbstractBounded, HasLogProb, HasSeparableProx):
    """The constraint x >= floor, with an optional density of each number inside of it.

    ``p(x) = inner(x)`` up to a constant where no x is below the floor, else 0. The proximal map is that of the inner
    prior cut at the floor, which is exact where the inner prior is log-concave.

    Parameters
    ----------
    structure
        Structure (or shape) of x.
    floor
        Lowest value, in the unit of x.
    inner
        Prior with a separable proximal map; None for the constraint alone, an improper flat density.
    """

    own: Structure
    lowest: Float[Array, ""]
    inner: AbstractPrior | None
    normalized: ClassVar[bool] = False

    def __init__(self, structure, floor: Float[Array, ""] | float = 0.0, inner: AbstractPrior | None = None):
        self.own, self.lowest, self.inner = Structure(structure), inexact(floor), inner

    def __check_init__(self):
        if self.inner is None:
            return
        if self.inner.find(HasSeparableProx) is None or self.inner.find(HasLogProb) is None:
            raise CapabilityError(
                f"LowerBound takes a prior with HasLogProb and HasSeparableProx; {type(self.inner).__name__} offers "
                f"{offers(self.inner)}: use Positive(prior)"
            )
        if not self.inner.structure.matches(self.own):
            raise ValueError(f"the inner prior describes {self.inner.structure}, not {self.own}")

    @property
    def structure(self):
        return self.own

    @property
    def floor(self):
        return self.lowest

    def log_prob(self, x):
        if self.inner is None:
            return self.restricted(jnp.zeros((), precision_of(x)), x)
        return self.restricted(require(self.inner, HasLogProb, "bounds").log_prob(x), x)

    def prox(self, v, step):
        v = v if self.inner is None else require(self.inner, HasSeparableProx, "bounds").prox(v, step)
        return jax.tree.map(lambda a: jnp.maximum(a, self.lowest), v)

    def stiffness(self, u):
        return jax.tree.map(jnp.zeros_like, u) if self.inner is None else self.inner.stiffness(u)

    def barrier(self, x, kappa):
        value, number = self.edge(x, kappa)
        if self.inner is None:
            return value, number
        inner, more = require(self.inner, HasLogProb, "bounds").barrier(x, kappa)
        return value + inner, number + more


class Positive(AbstractBounded, HasLogProb, HasTerms):
    """A prior of one image restricted to x >= floor: ``p(x) = prior(x)`` up to a constant there, else 0.

    Its terms are those of the prior and the constraint, which joins a term on x itself that takes each pixel on its
    own.

    Parameters
    ----------
    prior
        Log-concave prior of one array, with a log-density and terms.
    floor
        Lowest value, in the unit of x; zero by default.

    Notes
    -----
    With a floor of zero the sky keeps the positive half of its noise, so that the flux of a faint source is too high
    when it is summed over much sky. A floor of minus one standard deviation of the noise takes this bias away at little
    cost.
    """

    prior: AbstractPrior
    lowest: Float[Array, ""]
    normalized: ClassVar[bool] = False

    def __init__(self, prior: AbstractPrior, floor: Float[Array, ""] | float = 0.0):
        self.prior, self.lowest = prior, inexact(floor)

    def __check_init__(self):
        for capability in (HasLogProb, HasTerms):
            require(self.prior, capability, "positive images")
        if len(self.prior.structure.leaves) != 1:
            raise ValueError(
                f"Positive takes a prior of one array, not of {self.prior.structure}: make the parts of the product "
                "positive"
            )

    @property
    def structure(self):
        return self.prior.structure

    @property
    def floor(self):
        return self.lowest

    @property
    def terms(self):
        terms = list(require(self.prior, HasTerms, "positive images").terms)
        for i, (W, g) in enumerate(terms):
            if isinstance(W, Identity) and g.find(HasSeparableProx) is not None:
                terms[i] = (W, LowerBound(self.structure, self.lowest, g))
                return terms
        return [*terms, (Identity(self.structure), LowerBound(self.structure, self.lowest))]

    def log_prob(self, x):
        return self.restricted(require(self.prior, HasLogProb, "positive images").log_prob(x), x)

    def barrier(self, x, kappa):
        value, number = self.edge(x, kappa)
        inner, more = require(self.prior, HasLogProb, "positive images").barrier(x, kappa)
        return value + inner, number + more


def positive(prior: AbstractPrior, floor: Float[Array, ""] | float = 0.0) -> AbstractPrior:
    """`Positive` of a prior; of a product of images that of each, which share the floor, so that their sum is above it.

    Raises
    ------
    CapabilityError
        When the prior, or one of the parts, cannot be restricted.
    """
    whole = prior.find(HasParts)
    if whole is None:
        return Positive(prior, floor)
    share = floor / len(leaves_of(whole.parts))
    is_prior = {"is_leaf": lambda node: isinstance(node, AbstractPrior)}
    return Product(jax.tree.map(lambda part: positive(part, share), whole.parts, **is_prior))


__all__ = ["AbstractBounded", "LowerBound", "Positive", "positive"]
