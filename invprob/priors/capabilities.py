"""What a prior can do: one mechanism, by which every solver and sampler asks.

The rule:

1. A capability is an abstract class ``HasX`` with the methods named below. A prior inherits those that it can honour.
2. Whoever needs one asks the prior itself: ``prior.find(HasX)`` is the prior as one that has it, or None, and
   ``require(prior, HasX, by)`` is the same with a readable `CapabilityError` instead of None. Nobody else asks for the
   class of a prior: what a product or a restricted prior can do is a question of its parts.
3. A composite answers in its own `AbstractPrior.find`, from what its parts find.

============================  ======================================================  ================================
capability                    methods                                                 asked for by
============================  ======================================================  ================================
`HasScore`                    ``score(x)``                                            Langevin dynamics
`HasLogProb`                  ``log_prob(x)``, ``normalized``, ``barrier(x, kappa)``  L-BFGS, HMC, NUTS, evidences
`HasProx`                     ``prox(v, step)``                                       proximal gradients
`HasSeparableProx`            the same, for each number on its own                    planes with steps of their own
`HasPrecision`                ``mean``, ``covariance``, ``offset``: it is Gaussian    Wiener, CG, exact draws, evidences
`HasTerms`                    ``terms``, the sum of g_j(W_j x)                        ADMM, primal-dual steps, Gibbs
`HasConditionalGaussian`      ``inverse_scales(key, u)``                              Gibbs sampling of sparse priors
`HasStrength`                 ``cost(x)``, ``rescaled(factor)``, ``rank``             Gibbs sampling of the strength
`HasTransform`                ``transform``, ``is_smooth``: x = T(xi)                 Newton, VI, HMC, Laplace
`HasWhitening`                ``whitened(x)``, the inverse of T                       Newton steps from a given x
`HasSample`                   ``sample(key)``                                         calibration
`HasDenoiser`                 ``denoise(x, sigma)``                                   (a basis of the next)
`HasColouredDenoiser`         ``denoise_coloured``, ``denoised_draw``                 plug-and-play, the split sampler
`HasParts`                    ``parts``, independent priors                           ADMM, Laplace (part by part)
============================  ======================================================  ================================

What every prior answers, with a default that suits most, are methods of `AbstractPrior`: its ``structure``, whether it
``is_sharp``, its ``stiffness``, a ``gaussian_approximation`` and the ``start`` of a search, and the unbounded
coordinates of its support (``constrain``, ``unconstrain``, ``log_jacobian``).

Composites honour them so:

`Product`
    has what all its parts have, of all but proximal maps and denoisers; a strength where some have one and the others
    are Gaussian. A product of Gaussians is Gaussian.
`HasProx`
    has terms, with itself as the only one.
`Positive`, `LowerBound`, `GaussianRegularized`, `Analysis`
    have a log-density and terms (`LowerBound` a separable proximal map), and take priors that have both.
`LogNormal`, `Blurred`
    are what they inherit, whatever they are made of.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.covariance import AbstractCovariance
from invprob.errors import CapabilityError
from invprob.operators.base import AbstractLinearOperator, AbstractOperator, Identity, Structure, precision_of

# no `from __future__ import annotations` here: equinox knows an abstract variable by its annotation, not by its text
C = TypeVar("C", bound="AbstractPrior")


class AbstractPrior(eqx.Module):
    """A prior on a latent pytree."""

    @property
    @abstractmethod
    def structure(self) -> Structure:
        """Structure of the latent pytree."""

    def find(self, capability: type[C]) -> C | None:
        """This prior as one with the capability, None where it has not got it.

        A product is Gaussian when its parts are, which its class alone cannot say: hence a method, which a composite
        overrides.
        """
        return self if isinstance(self, capability) else None

    @property
    def is_sharp(self) -> bool:
        """Whether the density of x has kinks or ends at a bound, so that a maximum on them has no curvature."""
        return False

    def stiffness(self, u: PyTree) -> PyTree:
        """A quadratic stand-in for ``-log p`` applied to u, of the right scale for coordinates; zero where unknown."""
        gaussian = self.find(HasPrecision)
        return jax.tree.map(jnp.zeros_like, u) if gaussian is None else gaussian.covariance.inv(u)

    def gaussian_approximation(self) -> "HasPrecision | None":
        """A Gaussian of the same mean and variance, None where it is not known; a local search begins from it."""
        return self.find(HasPrecision)

    def start(self, solution: PyTree, covariance: AbstractCovariance) -> PyTree:
        """Where a local search begins, from the posterior mean and covariance under the Gaussian approximation."""
        return solution

    def constrain(self, c: PyTree, unit: Float[Array, ""] | float = 1.0) -> PyTree:
        """A point of the support for any unbounded c: the coordinates of an unconstrained search.

        The unit, in that of x, is the distance from a bound within which the map bends.
        """
        return c

    def unconstrain(self, x: PyTree, unit: Float[Array, ""] | float = 1.0) -> PyTree:
        """The inverse of `constrain`."""
        return x

    def log_jacobian(self, c: PyTree, unit: Float[Array, ""] | float = 1.0) -> Float[Array, ""]:
        """The logarithm of the volume that `constrain` gives a unit volume at c."""
        return jnp.zeros((), precision_of(c))


class HasScore(AbstractPrior):
    """A prior with a score, the gradient of its log-density."""

    @abstractmethod
    def score(self, x: PyTree) -> PyTree:
        """Gradient of the log-density at x."""


class HasLogProb(HasScore):
    """A prior with a log-density."""

    normalized: eqx.AbstractClassVar[bool]
    """Whether `log_prob` includes its constant, so that evidences may be compared."""

    @abstractmethod
    def log_prob(self, x: PyTree) -> Float[Array, ""]:
        """Log-density at x; up to a constant where `normalized` is False."""

    def score(self, x: PyTree) -> PyTree:
        return jax.grad(self.log_prob)(x)

    def barrier(self, x: PyTree, kappa: Float[Array, ""] | float) -> tuple[Float[Array, ""], int]:
        """A smooth function for ``-log p(x)`` within a constant, and its number n of barriers.

        Its minimum is at most ``n / kappa`` above that of ``-log p``, together with whatever convex is added to both. A
        smooth density is its own; one with kinks or bounds has a barrier for each.
        """
        return -self.log_prob(x), 0


class HasProx(AbstractPrior):
    """A prior with a proximal map."""

    @abstractmethod
    def prox(self, v: PyTree, step: Float[Array, ""]) -> PyTree:
        """``argmin_x -log p(x) + |x - v|^2 / (2 step)``."""

    def find(self, capability: type[C]) -> C | None:
        found = super().find(capability)
        if found is None and capability is HasTerms:
            return cast(Any, OnlyTerm(self))
        return found


class HasSeparableProx(HasProx):
    """A prior with a proximal map that takes each number on its own, its density a product over them."""


class HasPrecision(AbstractPrior):
    """A Gaussian prior, with its `mean` and `covariance` as fields or properties."""

    mean: eqx.AbstractVar[PyTree]
    covariance: eqx.AbstractVar[AbstractCovariance]

    @property
    def offset(self) -> PyTree | None:
        """The mean; None for zero, which saves a prediction of it."""
        return self.mean


class HasTerms(AbstractPrior):
    """A prior that is a product of simple ones on linear maps, ``-log p(x) = sum_j -log g_j(W_j x)``."""

    @property
    @abstractmethod
    def terms(self) -> Sequence[tuple[AbstractLinearOperator, HasProx]]:
        """The pairs ``(W_j, g_j)``, each g_j a prior with a proximal map."""

    @property
    def is_sharp(self) -> bool:
        return any(g.is_sharp for _, g in self.terms)


class OnlyTerm(HasTerms):
    """A prior with a proximal map as one with terms: itself on x.

    Parameters
    ----------
    prior
        The prior.
    """

    prior: HasProx

    @property
    def structure(self) -> Structure:
        return self.prior.structure

    @property
    def terms(self) -> Sequence[tuple[AbstractLinearOperator, HasProx]]:
        return [(Identity(self.structure), self.prior)]


class HasConditionalGaussian(AbstractPrior):
    """A prior of one array that is Gaussian given latent scales, ``u ~ N(0, tau^2)`` in each number or vector."""

    @abstractmethod
    def inverse_scales(self, key: Any, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """A draw of ``1 / tau^2`` given u, of a shape that broadcasts to that of u; zero for what is free."""


class HasStrength(AbstractPrior):
    """A prior with one strength s, ``p(x) = s^rank exp(-s cost(x))`` up to a constant, the cost homogeneous."""

    @abstractmethod
    def cost(self, x: PyTree) -> Float[Array, ""]:
        """``log p(0) - log p(x)``, at the strength that it has."""

    @abstractmethod
    def rescaled(self, factor: Float[Array, ""]) -> AbstractPrior:
        """The prior of a strength that is so many times this one."""

    @property
    @abstractmethod
    def rank(self) -> Float[Array, ""] | int:
        """How many dimensions the cost is of: the density of so many times the strength has it to this power."""


class HasTransform(AbstractPrior):
    """A prior that is white noise pushed through a map."""

    @property
    @abstractmethod
    def transform(self) -> AbstractOperator:
        """T with ``x = T(xi)``, ``xi ~ N(0, I)``."""

    @property
    def is_smooth(self) -> bool:
        """Whether T bends without a kink, so that the posterior of xi has a curvature everywhere."""
        return True


class HasWhitening(HasTransform):
    """A prior that is white noise pushed through a map with an inverse."""

    @abstractmethod
    def whitened(self, x: PyTree) -> PyTree:
        """xi with ``T(xi) = x``."""


class HasSample(AbstractPrior):
    """A prior that can be drawn from."""

    @abstractmethod
    def sample(self, key) -> PyTree:
        """One draw."""


class HasDenoiser(AbstractPrior):
    """A prior known by its denoiser."""

    @abstractmethod
    def denoise(self, x: PyTree, sigma: Float[Array, ""]) -> PyTree:
        """``E[x0 | x0 + sigma n = x]`` for white n."""


class HasColouredDenoiser(HasDenoiser):
    """A prior known by its denoiser for stationary noise of any spectrum, with draws of what was clean."""

    @abstractmethod
    def denoise_coloured(self, x: PyTree, noise: PyTree, key=None) -> PyTree:
        """``E[x0 | x0 + n = x]`` for noise of this power spectrum on the rfft2 grid.

        With a random key it may be one of several estimates, the mean of which is better than each.
        """

    @abstractmethod
    def denoised_draw(self, key, x: PyTree, noise: PyTree, steps: int = 40) -> PyTree:
        """A draw of x0 given ``x0 + n = x``, in so many steps where it takes steps."""


class HasParts(AbstractPrior):
    """A prior of independent parts, ``p(x) = prod_j p_j(x_j)``."""

    parts: eqx.AbstractVar[Any]
    """Pytree of priors, in the structure of the latent above them."""


WORDS: dict[type[AbstractPrior], str] = {
    HasScore: "with a score, the gradient of its log-density",
    HasLogProb: "with a log-density, without which no proposal can be accepted or refused",
    HasProx: "with a proximal map",
    HasSeparableProx: "with a proximal map that takes each number on its own",
    HasPrecision: "that is Gaussian",
    HasTerms: "that is a sum of terms with a proximal map",
    HasConditionalGaussian: "that is Gaussian given its scales",
    HasStrength: "of one strength, as sparse priors, norms and products of these with Gaussians are",
    HasTransform: "that is white noise pushed through a map",
    HasWhitening: "that is white noise pushed through a map with an inverse",
    HasSample: "that can be drawn from",
    HasDenoiser: "with a denoiser",
    HasColouredDenoiser: "with a denoiser for coloured noise",
    HasParts: "of independent parts",
}
"""The capabilities, and each in words."""


def capabilities(prior: AbstractPrior) -> tuple[str, ...]:
    """Names of what a prior can do, for messages and listings."""
    return tuple(c.__name__ for c in WORDS if prior.find(c) is not None)


def offers(prior: AbstractPrior) -> str:
    """What a prior can do, as a part of a message."""
    return ", ".join(capabilities(prior)) or "nothing"


def require(prior: AbstractPrior, capability: type[C], by: str) -> C:
    """The prior as one with the capability.

    Parameters
    ----------
    prior
        Prior.
    capability
        One of the classes of this module.
    by
        Who needs it, in the plural: the beginning of the message.

    Raises
    ------
    CapabilityError
        Where the prior has not got it; says what is needed, what the prior offers, and which of its parts lack it.
    """
    found = prior.find(capability)
    if found is not None:
        return found
    words = WORDS.get(capability, f"with the capability {capability.__name__}")
    whole = prior.find(HasParts)
    parts = [] if whole is None else leaves_of(whole.parts)
    lacking = sorted({type(part).__name__ for part in parts if part.find(capability) is None})
    more = f" ({', '.join(lacking)} in it {'has' if len(lacking) == 1 else 'have'} not)" if lacking else ""
    raise CapabilityError(
        f"{by} need a prior {words} ({capability.__name__}); {type(prior).__name__} offers {offers(prior)}{more}"
    )


def leaves_of(parts: Any) -> list[Any]:
    """The priors in a pytree of them."""
    return jax.tree.leaves(parts, is_leaf=lambda node: isinstance(node, AbstractPrior))
