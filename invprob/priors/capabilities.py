"""What a prior can do, as base classes: a prior inherits what it can honour, a solver states what it needs."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.covariance import AbstractCovariance
from invprob.operators.base import AbstractLinearOperator, AbstractOperator, Identity, Structure, precision_of

if TYPE_CHECKING:
    from invprob.priors.gaussian import Gaussian


class AbstractPrior(eqx.Module):
    """A prior on a latent pytree."""

    @property
    @abstractmethod
    def structure(self) -> Structure:
        """Structure of the latent pytree."""

    def as_gaussian(self) -> "Gaussian | None":
        """This prior as a plain Gaussian, None where it is not one.

        A product is Gaussian when its parts are, which its class alone cannot say: hence a method.
        """
        return None

    def as_terms(self) -> "Sequence[tuple[AbstractLinearOperator, HasProx]] | None":
        """The pairs ``(W_j, g_j)`` with ``-log p(x) = sum_j -log g_j(W_j x)`` up to a constant, None where unknown.

        A product has terms when its parts do, which its class alone cannot say: hence a method. A prior with both
        terms and a proximal map of its own inherits `HasTerms` first.
        """
        return None

    def as_transform(self) -> AbstractOperator | None:
        """T with ``x = T(xi)``, ``xi ~ N(0, I)``, None where there is none.

        A product has one when its parts do, which its class alone cannot say: hence a method.
        """
        return None

    def gaussian_approximation(self) -> "Gaussian | None":
        """A Gaussian of the same mean and variance, None where it is not known; a local search begins from it."""
        return self.as_gaussian()

    def start(self, solution: PyTree, covariance: AbstractCovariance) -> PyTree:
        """Where a local search begins, from the posterior mean and covariance under `matched`."""
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


class HasProx(AbstractPrior):
    """A prior with a proximal map."""

    @abstractmethod
    def prox(self, v: PyTree, step: Float[Array, ""]) -> PyTree:
        """``argmin_x -log p(x) + |x - v|^2 / (2 step)``."""

    def as_terms(self) -> Sequence[tuple[AbstractLinearOperator, "HasProx"]]:
        return [(Identity(self.structure), self)]


class HasSeparableProx(HasProx):
    """A prior with a proximal map that takes each number on its own, its density a product over them."""


class HasPrecision(AbstractPrior):
    """A Gaussian prior, with its `mean` and `covariance` as fields or properties."""

    mean: eqx.AbstractVar[PyTree]
    covariance: eqx.AbstractVar[AbstractCovariance]


class HasTerms(AbstractPrior):
    """A prior that is a product of simple ones on linear maps, ``-log p(x) = sum_j -log g_j(W_j x)``."""

    @property
    @abstractmethod
    def terms(self) -> Sequence[tuple[AbstractLinearOperator, HasProx]]:
        """The pairs ``(W_j, g_j)``, each g_j a prior with a proximal map."""

    def as_terms(self) -> Sequence[tuple[AbstractLinearOperator, HasProx]]:
        return self.terms


class HasTransform(AbstractPrior):
    """A prior that is white noise pushed through a map."""

    @property
    @abstractmethod
    def transform(self) -> AbstractOperator:
        """T with ``x = T(xi)``, ``xi ~ N(0, I)``."""

    def as_transform(self) -> AbstractOperator:
        return self.transform


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


def capabilities(prior: Any) -> tuple[str, ...]:
    """Names of what a prior can do, for messages and listings."""
    known = (
        HasScore, HasLogProb, HasProx, HasSeparableProx, HasPrecision, HasTerms, HasTransform, HasSample, HasDenoiser,
        HasColouredDenoiser,
    )  # fmt: skip
    return tuple(c.__name__ for c in known if isinstance(prior, c))
