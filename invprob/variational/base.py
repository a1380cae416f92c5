"""What an approximation of a posterior is, how it is judged, and the results that hold one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from invprob.diagnostics.importance import khat_threshold, psis
from invprob.operators.base import Structure, precision_of, zeros
from invprob.posterior import Posterior, Whitened
from invprob.priors.capabilities import HasLogProb
from invprob.results import Estimate, Status
from invprob.sampling.coordinates import Coordinates
from invprob.variational.lanczos import log_volume, size_of

CHUNK = 50  # draws in one compiled call


class TargetDensity(eqx.Module):
    """A posterior as the density of flat coordinates c.

    Parameters
    ----------
    where
        Coordinates with ``log_prob`` and ``latent``, ``z = origin + T c``.
    log_volume
        ``log |det T|``, without which densities of c in different coordinates are not comparable.
    error
        Standard error of ``log_volume``.
    """

    where: Coordinates
    log_volume: Float[Array, ""]
    error: Float[Array, ""]

    @property
    def structure(self) -> Structure:
        """Structure that c has before it is made flat."""
        return self.where.T.in_structure

    @property
    def dtype(self):
        """Floating point type."""
        return precision_of(self.where.origin)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return size_of(self.structure)

    def unravel(self, c: Float[Array, " n"]) -> PyTree:
        """c in its structure."""
        return ravel_pytree(zeros(self.structure, self.dtype))[1](c)

    def latent(self, c: Float[Array, " n"]) -> PyTree:
        """x."""
        return self.where.latent(self.unravel(c))

    def log_joint(self, c: Float[Array, " n"]) -> Float[Array, ""]:
        """``log p(data, c)``, up to the constant of a prior that is not normalized."""
        return self.where.log_prob(self.unravel(c)) + self.log_volume


def target_density(where: Coordinates, key) -> TargetDensity:
    """The target of coordinates whose determinant is not known, but computed."""
    dtype = precision_of(where.origin)
    found = log_volume(where.T, key, dtype)
    return TargetDensity(where, jnp.asarray(found.value, dtype), jnp.asarray(found.error, dtype))


def is_normalized(post: Posterior, target: TargetDensity) -> bool:
    """Whether ``log_joint`` includes all constants: always in the coordinates of white noise, else as the prior's."""
    density = post.prior.find(HasLogProb)
    return isinstance(target.where.density, Whitened) or (density is not None and density.normalized)


class Draws(eqx.Module):
    """Draws c, their reflections about the centre of q, which are draws as well, and whether each is exact enough."""

    c: Float[Array, "draw n"]
    reflected: Float[Array, "draw n"]
    good: Bool[Array, " draw"]


class AbstractDistribution(eqx.Module):
    """A distribution q of flat coordinates."""

    @abstractmethod
    def log_prob(self, c: Float[Array, " n"]) -> Float[Array, ""]:
        """Logarithm of the normalized density at c."""

    @abstractmethod
    def draws(self, key, num: int) -> Draws:
        """So many independent draws with their reflections; differentiable in the parameters of q."""


class Approximation(eqx.Module):
    """An approximation q of a posterior: a distribution in the coordinates of a target.

    Parameters
    ----------
    target, q
        The coordinates, and the distribution of them.
    error
        Standard error of ``log q`` that all draws share, from its determinant.
    """

    target: TargetDensity
    q: AbstractDistribution
    error: Float[Array, ""]

    def log_prob(self, c: Float[Array, " n"]) -> Float[Array, ""]:
        """``log q(c)``."""
        return self.q.log_prob(c)


@eqx.filter_jit
def _looked_at(approximation: Approximation, key, num: int, summary: Callable[[PyTree], Any]):
    """Log-densities and summaries of draws, and sums over them and their reflections of the deviation from c = 0."""
    target, q = approximation.target, approximation.q
    draws = q.draws(key, num)
    centre = target.latent(jnp.zeros(target.size, target.dtype))

    def one(pair):
        c, reflected = pair
        x = target.latent(c)
        both = [jax.tree.map(jnp.subtract, a, centre) for a in (x, target.latent(reflected))]
        return target.log_joint(c), q.log_prob(c), both, summary(x)

    log_p, log_q, both, kept = jax.lax.map(one, (draws.c, draws.reflected))
    sums = jax.tree.map(lambda a, b: jnp.sum(a + b, axis=0), *both)
    squares = jax.tree.map(lambda a, b: jnp.sum(a**2 + b**2, axis=0), *both)
    return log_p, log_q, centre, sums, squares, draws.good, kept


@eqx.filter_jit
def _drawn(approximation: Approximation, key, num: int):
    draws = approximation.q.draws(key, num)
    return jax.lax.map(approximation.target.latent, draws.c)


@dataclass(frozen=True, eq=False)
class Approximate(Estimate):
    """An approximation of a posterior and how good it is; `std` and `image` where the latent is one image.

    Parameters
    ----------
    approximation
        The distribution q and the coordinates it is in.
    latent_std
        Standard deviation of x under q, a pytree like ``x``.
    std_error
        Relative standard error of the standard deviations, from the number of draws behind them.
    elbo, elbo_error
        ``E_q[log p(data, c) - log q(c)]``, at most the log evidence, with its Monte-Carlo standard error.
    normalized
        Whether all constants are in the ELBO. Where they are not (a prior with ``normalized = False``) it compares
        approximations of this posterior only.
    khat, threshold
        Shape of the tail of the importance weights p / q, and the largest at which means over q can be relied on.
    num_draws
        Draws behind the ELBO, k-hat, mean and standard deviation.
    failures
        What keeps the approximation from being trusted, one line each.
    kept
        What was asked to be kept of each of these draws, stacked along a leading axis; None where nothing was.

    Notes
    -----
    k-hat judges the joint density of all coordinates by draws of q: it cannot see a mode that q has not, and it is
    strict with many pixels, where small errors of many of them add up.

    References
    ----------
    Yao, Vehtari, Simpson & Gelman 2018, ICML, PMLR 80, 5581.
    """

    approximation: Approximation | None = None
    latent_std: PyTree = None
    std_error: float = np.nan
    elbo: float = np.nan
    elbo_error: float = np.nan
    normalized: bool = False
    khat: float = np.inf
    threshold: float = 0.7
    num_draws: int = 0
    failures: tuple[str, ...] = ()
    kept: PyTree = None

    @property
    def reliable(self) -> bool:
        """Whether k-hat is below its threshold."""
        return self.khat < self.threshold

    def sample(self, key, num: int) -> PyTree:
        """Independent draws of x under q, stacked along a leading axis."""
        assert self.approximation is not None
        parts = [
            _drawn(self.approximation, jax.random.fold_in(key, i), min(CHUNK, num - i * CHUNK))
            for i in range(-(-num // CHUNK))
        ]
        return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)

    def log_prob(self, c: Float[Array, " n"]) -> Float[Array, ""]:
        """``log q(c)`` in the flat coordinates of ``approximation.target``."""
        assert self.approximation is not None
        return self.approximation.log_prob(c)


@dataclass(frozen=True, eq=False)
class Variational(Approximate):
    """What `fit_variational` gives: ``x`` is the mean under q."""

    @property
    def mean(self) -> PyTree:
        """Mean of x under q."""
        return self.x


class _Known:
    """The moments and weights of an approximation, from draws."""

    def __init__(self, approximation: Approximation, key, num: int, summary: Callable[[PyTree], Any]):
        log_p, log_q, kept, self.good = [], [], [], True
        total, square = None, None
        for i in range(-(-num // CHUNK)):
            *found, part = _looked_at(approximation, jax.random.fold_in(key, i), min(CHUNK, num - i * CHUNK), summary)
            p, q, centre, *moments, good = jax.tree.map(lambda a: np.asarray(a, float), found)
            kept.append(jax.tree.map(np.asarray, part))
            log_p.append(p)
            log_q.append(q)
            self.good &= bool(good.all())
            total = moments[0] if total is None else jax.tree.map(np.add, total, moments[0])
            square = moments[1] if square is None else jax.tree.map(np.add, square, moments[1])
        count = 2 * num
        dtype = approximation.target.dtype
        shift = jax.tree.map(lambda s: s / count, total)
        self.mean = jax.tree.map(lambda c, s: (c + s).astype(dtype), centre, shift)
        self.std = jax.tree.map(lambda q, s: np.sqrt(np.maximum(q / count - s**2, 0)), square, shift)
        weights = np.concatenate(log_p) - np.concatenate(log_q)
        self.outside = int(np.isnan(weights).sum())
        self.weights = np.where(np.isnan(weights), -np.inf, weights)
        self.num = num
        self.kept = jax.tree.map(lambda *parts: np.concatenate(parts), *kept)

    @property
    def khat(self) -> float:
        """Of the weights; infinite where none is finite."""
        usable = np.isfinite(self.weights).any() and not np.isposinf(self.weights).any()
        return psis(self.weights).khat if usable else np.inf


def nothing(x: PyTree) -> None:
    """A summary of a draw that keeps nothing."""


def judged(
    kind: Callable[..., Any],
    post: Posterior,
    approximation: Approximation,
    key,
    num: int,
    status: Status,
    summary: Callable[[PyTree], Any] = nothing,
    **more: Any,
) -> Any:
    """A result of a kind (`Variational`, ...) with the mean and the quality of an approximation.

    A status that is not ok stays; one that is becomes `Status.NOT_RELIABLE` where k-hat is above its threshold.
    """
    known = _Known(approximation, key, num, summary)
    khat, threshold = known.khat, khat_threshold(num)
    failures = []
    if not khat < threshold:
        failures.append(f"k-hat {khat:.2f} of the importance weights is not below {threshold:.2f}")
    if not known.good:
        failures.append("not every draw of the approximation was solved to its tolerance")
    if known.outside:
        failures.append(f"{known.outside} of {num} draws lie where the posterior has no density")
    finite = np.isfinite(known.weights).all()
    shared = np.hypot(float(approximation.target.error), float(approximation.error))
    scatter = known.weights.std(ddof=1) / np.sqrt(num) if finite else np.inf
    x = more.pop("x", known.mean)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((x, known.std))):
        status = Status.NOT_FINITE
    if failures and status.ok:
        status = Status.NOT_RELIABLE
    single = isinstance(known.std, np.ndarray) and known.std.ndim == 2
    return kind(
        x=x, status=status, chi2=float(post.likelihood.chi2(x)), num_data=int(post.likelihood.num_data),
        image=np.asarray(x) if single else None, std=known.std if single else None,
        approximation=approximation, latent_std=known.std, std_error=1 / np.sqrt(2 * num),
        elbo=float(known.weights.mean()), elbo_error=float(np.hypot(scatter, shared)),
        normalized=is_normalized(post, approximation.target), khat=khat, threshold=threshold, num_draws=num,
        failures=tuple(failures), kept=known.kept, **more,
    )  # fmt: skip


__all__ = [
    "AbstractDistribution",
    "Approximate",
    "Approximation",
    "Draws",
    "TargetDensity",
    "Variational",
    "judged",
    "nothing",
]
