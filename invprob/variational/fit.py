"""Variational inference: the member of a family of distributions that is nearest to a posterior, and how near it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invprob.diagnostics.importance import MIN_WEIGHTS
from invprob.errors import CapabilityError, UsageError
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasParts, HasTransform
from invprob.results import Status
from invprob.sampling.coordinates import Coordinates
from invprob.variational.base import (
    AbstractDistribution,
    AbstractFamily,
    Draws,
    FitSettings,
    Variational,
    VariationalProgress,
    judged,
    nothing,
)
from invprob.variational.circulant import CirculantGaussian
from invprob.variational.lanczos import size_of
from invprob.variational.metric_gaussian import MetricGaussian
from invprob.variational.stochastic_gradient import AbstractStochasticVI, about

FLOW_LIMIT = 400  # numbers; the weights of its networks grow with them, and so does the work of finding them


class DiagonalNormal(AbstractDistribution):
    """Independent normal coordinates."""

    mean: Float[Array, " n"]
    log_std: Float[Array, " n"]

    @property
    def _tfp(self) -> Any:
        from tensorflow_probability.substrates.jax import distributions as tfd

        return tfd.MultivariateNormalDiag(self.mean, jnp.exp(self.log_std))

    def log_prob(self, c):
        return self._tfp.log_prob(c)

    def draws(self, key, num):
        return about(self.mean, self._tfp.sample(num, seed=key))


class MeanField(AbstractStochasticVI):
    """Independent normal distributions of the coordinates.

    In coordinates that are correlated under the posterior it gives each its standard deviation with the others held
    fixed, which is too small; k-hat tells.
    """

    name: ClassVar[str] = "mean field"

    def start(self, target, key):
        none = jnp.zeros(target.size, target.dtype)
        return DiagonalNormal(none, none)


class LowRankNormal(AbstractDistribution):
    """A normal distribution with the covariance ``diag(s^2) + U U.T``."""

    mean: Float[Array, " n"]
    log_std: Float[Array, " n"]
    factor: Float[Array, "n rank"]

    @property
    def _tfp(self) -> Any:
        from tensorflow_probability.substrates.jax import distributions as tfd

        return tfd.MultivariateNormalDiagPlusLowRankCovariance(self.mean, jnp.exp(2 * self.log_std), self.factor)

    def log_prob(self, c):
        return self._tfp.log_prob(c)

    def draws(self, key, num):
        return about(self.mean, self._tfp.sample(num, seed=key))


class LowRank(AbstractStochasticVI):
    """A normal distribution whose covariance is diagonal and of low rank, ``diag(s^2) + U U.T``.

    Parameters
    ----------
    rank
        Columns of U: correlated directions; at most the number of coordinates.

    References
    ----------
    Ong, Nott & Smith 2018, J. Comput. Graph. Stat. 27, 465.
    """

    rank: int = 10
    name: ClassVar[str] = "low rank"

    def __check_init__(self):
        if self.rank < 1:
            raise UsageError(f"LowRank takes a rank of at least 1, not {self.rank}; for none use MeanField")

    def start(self, target, key):
        none, rank = jnp.zeros(target.size, target.dtype), min(self.rank, target.size)
        # zero would be a saddle: the factor has no gradient there
        factor = 0.1 * jax.random.normal(key, (target.size, rank), target.dtype) / jnp.sqrt(target.size)
        return LowRankNormal(none, none, factor)


class Coupling(eqx.Module):
    """Shift and logarithmic scale of some coordinates as functions of the others: a network of one hidden layer."""

    first: Float[Array, "h a"]
    bias: Float[Array, " h"]
    second: Float[Array, "2b h"]

    def __call__(self, given, depth, **_):
        out = jnp.tanh(given @ self.first.T + self.bias) @ self.second.T
        shift, log_scale = jnp.split(out, 2, axis=-1)
        return shift, jnp.tanh(log_scale)  # a scale beyond e in one layer is not needed, and overflows


class RealNVP(AbstractDistribution):
    """White noise through couplings that take half of the coordinates in turn, a scale and a shift."""

    mean: Float[Array, " n"]
    log_std: Float[Array, " n"]
    couplings: tuple[Coupling, ...]

    @property
    def _bijector(self) -> Any:
        from tensorflow_probability.substrates.jax import bijectors as tfb

        size = self.mean.size
        turned = tfb.Permute(np.arange(size)[::-1].astype(np.int32))
        layers: list[Any] = [tfb.Shift(self.mean), tfb.Scale(log_scale=self.log_std)]
        for coupling in self.couplings:
            layers += [turned, tfb.RealNVP(num_masked=size - size // 2, shift_and_log_scale_fn=coupling)]
        return tfb.Chain(layers)

    def log_prob(self, c):
        bijector = self._bijector
        z = bijector.inverse(c)
        base = -0.5 * (z @ z + z.size * jnp.log(2 * jnp.pi))
        return base + bijector.inverse_log_det_jacobian(c, event_ndims=1)

    def draws(self, key, num):
        z = jax.random.normal(key, (num, self.mean.size), self.mean.dtype)
        forward = self._bijector.forward
        return Draws(forward(z), forward(-z), jnp.ones(num, bool))


class Flow(AbstractStochasticVI):
    """A normalizing flow of affine couplings (RealNVP), for latents of up to some hundred numbers.

    Parameters
    ----------
    layers
        Couplings; each moves half of the coordinates.
    width
        Width of the hidden layer of their networks.

    References
    ----------
    Dinh, Sohl-Dickstein & Bengio 2017, ICLR, arXiv:1605.08803.
    """

    layers: int = 6
    width: int = 32
    name: ClassVar[str] = "flow"
    effort: ClassVar[FitSettings] = FitSettings(3000, 32, 5e-3)

    def __check_init__(self):
        if self.layers < 1 or self.width < 1:
            raise UsageError(f"Flow takes at least one layer and width, not {self.layers} and {self.width}")

    def check(self, post):
        self._check_size(post)
        super().check(post)

    def fit(self, post, key, effort, where, progress):
        self._check_size(post)
        return super().fit(post, key, effort, where, progress)

    def _check_size(self, post):
        size = size_of(post.structure)
        if not 1 < size <= FLOW_LIMIT:
            raise CapabilityError(
                f"Flow is for latents of 2 to {FLOW_LIMIT} numbers, this one has {size}: use another family"
            )

    def start(self, target, key):
        size = target.size
        moved = size // 2
        given = size - moved

        def coupling(key):
            first = jax.random.normal(key, (self.width, given), target.dtype) / np.sqrt(given)
            return Coupling(
                first, jnp.zeros(self.width, target.dtype), jnp.zeros((2 * moved, self.width), target.dtype)
            )

        none = jnp.zeros(size, target.dtype)
        return RealNVP(none, none, tuple(coupling(k) for k in jax.random.split(key, self.layers)))


FAMILIES: dict[str, Callable[[], AbstractFamily]] = {
    "metric": MetricGaussian,
    "meanfield": MeanField,
    "lowrank": LowRank,
    "circulant": CirculantGaussian,
    "flow": Flow,
}


def as_family(family: str | AbstractFamily, post: Posterior) -> tuple[AbstractFamily, str]:
    """The family for a name or a family, and the reason for it.

    Raises
    ------
    UsageError
        For a name that is not known.
    """
    if isinstance(family, AbstractFamily):
        return family, "chosen by the caller"
    if family != "auto":
        if family not in FAMILIES:
            raise UsageError(f"no family is called {family!r}; there are auto, {', '.join(FAMILIES)}")
        return FAMILIES[family](), "chosen by the caller"
    name = type(post.prior).__name__
    pushed = post.prior.find(HasTransform)
    if pushed is not None and (pushed.is_smooth or post.prior.find(HasParts) is not None):
        return MetricGaussian(), f"{name} prior that is transformed white noise: its Fisher metric is known"
    if any(len(shape) == 2 for shape, _ in post.structure.leaves):
        return CirculantGaussian(), f"{name} prior of an image: one scale for each spatial frequency"
    return MeanField(), f"{name} prior: independent coordinates in which the posterior is near to white noise"


def fit_variational(
    post: Posterior,
    key,
    family: str | AbstractFamily = "auto",
    *,
    num_steps: int | None = None,
    num_draws: int | None = None,
    learning_rate: float | None = None,
    num_samples: int = 1000,
    coordinates: Coordinates | None = None,
    progress: Callable[[VariationalProgress], None] | None = None,
    summary: Callable[[PyTree], Any] = nothing,
) -> Variational:
    """The distribution q of a family that maximizes the evidence lower bound (ELBO), and how well it fits.

    ``ELBO = E_q[log p(data, c) - log q(c)] = log p(data) - KL(q | p)``.

    Parameters
    ----------
    post
        Posterior.
    key
        Random key.
    family
        ``"auto"`` chooses by the prior: `MetricGaussian` where it is transformed white noise, else `CirculantGaussian`
        for images and `MeanField` for what is none. ``"metric"``, ``"meanfield"``, ``"lowrank"``, ``"circulant"``,
        ``"flow"``, or a family.
    num_steps, num_draws, learning_rate
        Steps, draws of q in each step (in pairs about its centre), and the rate of Adam at the beginning; default: what
        the family suggests.
    num_samples
        Independent draws of the final q behind its ELBO, k-hat, mean and standard deviation.
    coordinates
        Coordinates c to fit in; default: those of the family, near to white noise under the posterior.
    progress
        Called with a `VariationalProgress` now and then.
    summary
        From the x of a draw to what is to be kept of it, in `Variational.kept`; default: nothing.

    Returns
    -------
    Variational
        With mean and standard deviation of x, ELBO, k-hat and `sample`. A k-hat above its threshold makes the status
        `Status.NOT_RELIABLE`: the fit may have ended too early, or the family has nothing that is near enough.

    Raises
    ------
    UsageError
        For a family that is not known, or too few draws.
    CapabilityError
        When the prior or the likelihood cannot do what the family needs (a `TypeError`).

    Notes
    -----
    The ELBO includes the Jacobians of all changes of coordinates, so that it may be compared between families, and
    between priors where `Variational.normalized` holds. With ``z = origin + T c`` the density of c is that of z times
    ``|det T|``; z are white coordinates, in which the prior is N(0, I) and nothing else is missing, or x itself, with
    the prior's own constant and the Jacobian of its bounds. ``log |det T|`` is computed from the matrix of T up to some
    thousand numbers, and by stochastic Lanczos quadrature beyond; its error is part of ``elbo_error``.

    References
    ----------
    Blei, Kucukelbir & McAuliffe 2017, JASA 112, 859; Yao, Vehtari, Simpson & Gelman 2018, ICML, PMLR 80, 5581 (k-hat).
    """
    chosen, reason = as_family(family, post)
    for name, value in {"num_steps": num_steps, "num_draws": num_draws, "learning_rate": learning_rate}.items():
        if value is not None and not value > 0:
            raise UsageError(f"{name} is above zero, not {value}")
    if num_samples < MIN_WEIGHTS:
        raise UsageError(f"k-hat needs at least {MIN_WEIGHTS} draws: raise num_samples from {num_samples}")
    fit_key, judge_key = jax.random.split(key)
    fit = chosen.fit(post, fit_key, FitSettings(num_steps, num_draws, learning_rate), coordinates, progress)
    # who stops a fit does not want to wait for its draws
    number = MIN_WEIGHTS if fit.status is Status.INTERRUPTED else num_samples
    return judged(
        Variational, post, fit.approximation, judge_key, number, fit.status, summary, solver=chosen.name, reason=reason,
        steps=fit.steps, history=fit.history,
    )  # fmt: skip


__all__ = [
    "FAMILIES",
    "CirculantGaussian",
    "Flow",
    "LowRank",
    "MeanField",
    "MetricGaussian",
    "Variational",
    "VariationalProgress",
    "fit_variational",
]
