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
from invprob.priors.capabilities import AbstractPrior, HasLogProb, HasSeparableProx, HasTerms, capabilities


class AbstractBounded(AbstractPrior):
    """A prior with the support x >= floor in each number."""

    @property
    @abstractmethod
    def floor(self) -> Float[Array, ""]:
        """The lowest value, in the unit of x."""

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
    inner: HasSeparableProx | None
    normalized: ClassVar[bool] = False

    def __init__(self, structure, floor: Float[Array, ""] | float = 0.0, inner: HasSeparableProx | None = None):
        self.own, self.lowest, self.inner = Structure(structure), inexact(floor), inner

    def __check_init__(self):
        if self.inner is None:
            return
        if not (isinstance(self.inner, HasSeparableProx) and isinstance(self.inner, HasLogProb)):
            raise CapabilityError(
                f"LowerBound takes a prior with HasLogProb and HasSeparableProx; {type(self.inner).__name__} has "
                f"{', '.join(capabilities(self.inner))}: use Positive(prior)"
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
        inner = self.inner
        value = inner.log_prob(x) if isinstance(inner, HasLogProb) else jnp.zeros((), precision_of(x))
        return self.restricted(value, x)

    def prox(self, v, step):
        v = v if self.inner is None else self.inner.prox(v, step)
        return jax.tree.map(lambda a: jnp.maximum(a, self.lowest), v)


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

    prior: HasLogProb
    lowest: Float[Array, ""]
    normalized: ClassVar[bool] = False

    def __init__(self, prior: HasLogProb, floor: Float[Array, ""] | float = 0.0):
        self.prior, self.lowest = prior, inexact(floor)

    def __check_init__(self):
        if not isinstance(self.prior, HasLogProb) or self.prior.as_terms() is None:
            raise CapabilityError(
                f"Positive takes a prior with HasLogProb and HasTerms or HasProx; {type(self.prior).__name__} has "
                f"{', '.join(capabilities(self.prior)) or 'none of them'}"
            )
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
        terms = list(self.prior.as_terms() or ())
        for i, (W, g) in enumerate(terms):
            if isinstance(W, Identity) and isinstance(g, HasSeparableProx):
                terms[i] = (W, LowerBound(self.structure, self.lowest, g))
                return terms
        return [*terms, (Identity(self.structure), LowerBound(self.structure, self.lowest))]

    def log_prob(self, x):
        return self.restricted(self.prior.log_prob(x), x)


__all__ = ["AbstractBounded", "LowerBound", "Positive"]
