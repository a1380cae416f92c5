"""The marginal likelihood of a linear-Gaussian posterior, and the hyperparameters that maximize it.

Data ``y = A u + n`` have the covariance ``C = A S A.T + N``. For a stationary prior seen through an operator that
treats all positions alike (convolution, binning, shift, a sky level) ``A S A.T`` depends on the distance of two data
alone: one table of covariances by lag holds all of it, and costs two applications of ``A S A.T``. Up to
`EXACT_LIMIT` valid data the evidence is exact, by a Cholesky factor of C with mask and variances as they are; beyond,
it is the debiased Whittle likelihood (Sykulski et al. 2019, Biometrika 106, 251) of the tapered data less their mean,
with mask, frame and taper exact in the expectation of the periodogram.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.signal
import scipy.signal.windows
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from scipy.linalg.lapack import dpotri  # type: ignore[attr-defined]

from invprob.covariance import Diagonal, dense_operator, has_levels, without_constants
from invprob.errors import CapabilityError
from invprob.operators.base import Adjoint, compose
from invprob.posterior import Hierarchy, LinearGaussian, Posterior

EXACT_LIMIT = 3000
PROBE_TOLERANCE = 1e-3
FAILED = 1e100  # stands for an evidence that could not be computed
TAPER = 0.5  # part of each side over which the Whittle window falls to zero at the frame's edges


@dataclass(frozen=True)
class Evidence:
    """The hyperparameters under which the data are most probable.

    Parameters
    ----------
    theta
        Hyperparameters, a pytree like the start of the hierarchy.
    log_evidence
        Logarithm of the marginal likelihood there; for the Whittle method an approximation of it.
    method
        ``"exact"`` or ``"whittle"``.
    evaluations
        Evaluations taken.
    at_bounds
        Paths of the entries of theta that ended at a bound.
    """

    theta: PyTree
    log_evidence: float
    method: str
    evaluations: int
    at_bounds: tuple[str, ...] = ()


def _system(post: Posterior) -> LinearGaussian:
    system = post.linear_gaussian()
    if system is None:
        raise CapabilityError("the evidence is known for a linear operator, Gaussian noise and a Gaussian prior only")
    if not isinstance(system.noise, Diagonal):
        raise CapabilityError(f"the evidence needs Diagonal noise, not {type(system.noise).__name__}")
    return system


def lag_covariance(system: LinearGaussian) -> Float[Array, "y lags"]:
    """Covariance of two noiseless data by their lag: entry ``[dy, dx + nx - 1]``, ``dy >= 0``.

    Taken from the responses of two corners. It is the covariance of all pairs if `is_stationary`.
    """
    ny, nx = system.data.shape
    signal = compose(system.operator, system.covariance.operator, Adjoint(system.operator))
    zero = jnp.zeros((ny, nx), system.data.dtype)
    right = signal(zero.at[0, 0].set(1))
    left = signal(zero.at[0, nx - 1].set(1))
    return jnp.concatenate([left[:, :-1], right], axis=1)


def is_stationary(system: LinearGaussian) -> bool:
    """Whether the covariance of the noiseless data depends on their lag alone, tried on a random image."""
    if len(system.data.shape) != 2:
        return False
    # a level's covariance is the same for all pairs, and would hide the rest
    system = eqx.tree_at(lambda s: s.covariance, system, without_constants(system.covariance))
    table = np.asarray(lag_covariance(system))
    ny, nx = system.data.shape
    v = np.random.default_rng(0).standard_normal((ny, nx))
    signal = compose(system.operator, system.covariance.operator, Adjoint(system.operator))
    exact = np.asarray(signal(jnp.asarray(v, system.data.dtype)))
    full = np.concatenate([table[:0:-1, ::-1], table])
    product = scipy.signal.fftconvolve(v, full)[ny - 1 : 2 * ny - 1, nx - 1 : 2 * nx - 1]
    return bool(np.abs(product - exact).max() <= PROBE_TOLERANCE * np.abs(exact).max())


def signal_covariance(system: LinearGaussian) -> Float[np.ndarray, "n n"]:
    """The dense covariance ``A S A.T`` of all data, from the lags where that is exact, else column by column."""
    if is_stationary(system):
        ny, nx = system.data.shape
        every = np.arange(ny * nx)
        return np.asarray(lag_covariance(system))[_lags(every, every, nx)]
    signal = compose(system.operator, system.covariance.operator, Adjoint(system.operator))
    return np.asarray(dense_operator(signal, system.data.dtype))


def _lags(rows, columns, nx):
    """Index into the table of `lag_covariance` for each pair of flat pixel numbers."""
    dy = rows[:, None] // nx - columns[None] // nx
    dx = rows[:, None] % nx - columns[None] % nx
    flip = np.where(dy < 0, -1, 1)
    return dy * flip, dx * flip + nx - 1


def log_evidence(post: Posterior) -> float:
    """The exact log marginal likelihood of the valid data, ``log N(y; A m, A S A.T + N)``.

    Computed in double precision with a dense matrix of the valid data: meant for up to a few thousand.
    """
    with jax.enable_x64(True):
        system = _system(_double(post))
        good = _good(system)
        signal = signal_covariance(system)[np.ix_(good, good)]
        variance = np.asarray(system.noise.variance).ravel()[good]  # type: ignore[attr-defined]
        value, _, _ = _density(signal, variance, np.asarray(system.centred).ravel()[good])
        return value


def _double(tree: PyTree) -> PyTree:
    """The arrays of a pytree in double precision (within ``enable_x64``)."""

    def cast(a):
        if not eqx.is_inexact_array(a):
            return a
        return jnp.asarray(np.asarray(a), jnp.complex128 if jnp.iscomplexobj(a) else jnp.float64)

    return jax.tree.map(cast, tree)


def _good(system: LinearGaussian) -> np.ndarray:
    valid = system.noise.valid  # type: ignore[attr-defined]
    return np.arange(system.data.size) if valid is None else np.flatnonzero(np.asarray(valid).ravel())


def _density(signal, variance, y):
    """Log-density of ``N(y; 0, signal + diag(variance))``, the factor and ``C^-1 y``."""
    matrix = signal.copy()
    matrix[np.diag_indices_from(matrix)] += variance
    factor = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    alpha = scipy.linalg.cho_solve((factor, True), y, check_finite=False)
    half_logdet = np.log(np.diag(factor)).sum()
    return -0.5 * y @ alpha - half_logdet - 0.5 * len(y) * np.log(2 * np.pi), factor, alpha


def _parts(hierarchy: Hierarchy, t, without_level: bool = False):
    """Lag covariance, noise variance and data at flat theta."""
    unravel = ravel_pytree(hierarchy.start)[1]
    system = _system(hierarchy.build(unravel(t)))
    if without_level:
        system = eqx.tree_at(lambda s: s.covariance, system, without_constants(system.covariance))
    return lag_covariance(system), system.noise.variance, system.centred  # type: ignore[attr-defined]


@eqx.filter_jit
def _parts_and_slopes(hierarchy: Hierarchy, t):
    return _parts(hierarchy, t), jax.jacfwd(lambda at: _parts(hierarchy, at))(t)


def expected_periodogram(table, variance, window, pairs, *, without_mean: bool) -> Float[Array, "ky kx"]:
    """Expectation of ``|rfft2(window * y)|^2`` for data of the lag covariance and noise variance given.

    Parameters
    ----------
    table
        `lag_covariance` of the noiseless data.
    variance
        Variance of the noise, zero where the window is.
    window
        Window w, zero where data are not valid.
    pairs
        Autocorrelation of the window, for each lag.
    without_mean
        Whether the mean ``sum(w y) / sum(w)`` is taken off y first, as for an unknown level.
    """
    ny, nx = window.shape
    full = jnp.concatenate([table[:0:-1, ::-1], table])
    folded = jnp.zeros((ny, nx)).at[_wrapped(ny)[:, None], _wrapped(nx)[None]].add(full * pairs)
    expected = jnp.fft.rfft2(folded).real + jnp.sum(window**2 * variance)
    if not without_mean:
        return expected
    # F - W F0 / S: the mean is correlated with every coefficient, through C w
    sides = (3 * ny - 2, 3 * nx - 2)
    spectrum = jnp.fft.rfft2(full, s=sides) * jnp.fft.rfft2(window, s=sides)
    smoothed = jnp.fft.irfft2(spectrum, s=sides)[ny - 1 : 2 * ny - 1, nx - 1 : 2 * nx - 1]
    cross = jnp.fft.rfft2(window * (smoothed + variance * window))
    of_window, total = jnp.fft.rfft2(window), jnp.sum(window)
    product = jnp.real(jnp.conj(of_window) * cross)
    return expected - 2 * product / total + jnp.abs(of_window) ** 2 * expected[0, 0] / total**2


@eqx.filter_jit
def _whittle(hierarchy: Hierarchy, window, pairs, t):
    """Debiased Whittle log-likelihood and its gradient."""
    ny, nx = window.shape

    def value(at):
        table, variance, y = _parts(hierarchy, at, without_level=True)
        variance, y = (jnp.where(window > 0, a, 0) for a in (variance, y))
        levels = has_levels(hierarchy.build(hierarchy.start).linear_gaussian().covariance)  # type: ignore[union-attr]
        expected = expected_periodogram(table, variance, window, pairs, without_mean=levels)
        if levels:
            y = y - jnp.sum(window * y) / jnp.sum(window)
        observed = jnp.abs(jnp.fft.rfft2(window * y)) ** 2
        columns = np.full(nx // 2 + 1, 1.0)
        columns[1 : (nx + 1) // 2] = 2.0
        counted = np.broadcast_to(columns, (ny, nx // 2 + 1)).copy()
        if levels:
            counted[0, 0] = 0.0  # the mean was taken off
        expected = jnp.maximum(expected, 1e-12 * jnp.max(expected))
        terms = jnp.log(2 * jnp.pi * expected / jnp.sum(window**2)) + observed / expected
        return -0.5 * jnp.sum(counted * terms)

    return jax.value_and_grad(value)(t)


class _Exact:
    """The exact evidence and its gradient as a function of flat theta."""

    name = "exact"

    def __init__(self, hierarchy: Hierarchy, system: LinearGaussian):
        self.hierarchy = hierarchy
        self.good = _good(system)
        nx = system.data.shape[1]
        dy, dx = _lags(self.good, self.good, nx)
        self.flat = dy * (2 * nx - 1) + dx

    def __call__(self, t):
        both = jax.tree.map(np.asarray, _parts_and_slopes(self.hierarchy, jnp.asarray(t)))
        (table, variance, y), (d_table, d_variance, d_y) = both
        n = len(t)
        variance, y = variance.ravel()[self.good], y.ravel()[self.good]
        value, factor, alpha = _density(table.ravel()[self.flat], variance, y)
        inverse, info = dpotri(factor, lower=1, overwrite_c=1)
        if info:
            raise np.linalg.LinAlgError("dpotri failed")
        # d log p = tr((alpha alpha.T - C^-1) dC) / 2 - alpha.dy, the trace summed by lag first
        lower = np.tril(np.outer(alpha, alpha) - inverse)
        diagonal = np.diag(lower).copy()
        lower[np.diag_indices_from(lower)] *= 0.5
        by_lag = np.bincount(self.flat.ravel(), lower.ravel(), minlength=table.size)
        gradient = by_lag @ d_table.reshape(-1, n)
        gradient += 0.5 * diagonal @ d_variance.reshape(-1, n)[self.good]
        gradient -= alpha @ d_y.reshape(-1, n)[self.good]
        return value, gradient


class _Whittle:
    """The debiased Whittle likelihood and its gradient as a function of flat theta."""

    name = "whittle"

    def __init__(self, hierarchy: Hierarchy, system: LinearGaussian):
        valid = np.zeros(system.data.size)
        valid[_good(system)] = 1
        window = valid.reshape(system.data.shape) * _taper(system.data.shape)
        self.hierarchy, self.window = hierarchy, jnp.asarray(window)
        self.pairs = _autocorrelation(window)

    def __call__(self, t):
        value, gradient = _whittle(self.hierarchy, self.window, self.pairs, jnp.asarray(t))
        return float(value), np.asarray(gradient)


def _taper(shape):
    """A window that falls to zero at the frame's edge, so that a cut there does not leak into all frequencies."""
    rows, columns = (scipy.signal.windows.tukey(n + 2, TAPER)[1:-1] for n in shape)
    return rows[:, None] * columns[None]


def _autocorrelation(window):
    return jnp.asarray(scipy.signal.fftconvolve(window, window[::-1, ::-1]))


def _wrapped(n):
    return np.arange(-(n - 1), n) % n


def maximize_evidence(
    hierarchy: Hierarchy,
    *,
    exact_limit: int = EXACT_LIMIT,
    starts: int = 2,
    note: Callable[[str], Any] | None = None,
) -> Evidence:
    """The hyperparameters that maximize the marginal likelihood within their bounds.

    Parameters
    ----------
    hierarchy
        Posterior as a function of theta; linear-Gaussian for each theta.
    exact_limit
        Most valid data for which the exact evidence is used.
    starts
        The local searches of the Whittle likelihood start from so many and one more, the best of the hierarchy's start
        and a coarse random design between the bounds. The exact evidence is searched from the best of their ends.
    note
        Called with a line after the search of the exact evidence.

    Raises
    ------
    CapabilityError
        When the posterior is not linear-Gaussian, or too large for the exact evidence and not stationary.
    """
    given = jax.tree.map(jnp.asarray, hierarchy.start)
    with jax.enable_x64(True):
        hierarchy = _double(hierarchy)
        start, unravel = ravel_pytree(hierarchy.start)
        lower, upper = (np.asarray(ravel_pytree(t)[0]) for t in (hierarchy.lower, hierarchy.upper))
        system = _system(hierarchy.build(hierarchy.start))
        if not is_stationary(system):
            raise CapabilityError(
                "the evidence is maximized for operators that treat all positions alike and stationary priors only; "
                "give the strength by hand"
            )

        whittle = _Whittle(hierarchy, system)
        use_exact = len(_good(system)) <= exact_limit
        objective = _Exact(hierarchy, system) if use_exact else whittle
        best, count = _search(objective, whittle, np.asarray(start), lower, upper, starts, note)
        if best.fun >= FAILED:
            raise CapabilityError(
                "no evidence could be computed at any strength: check the variance and the PSF, or give the strength"
            )
        theta = unravel(jnp.asarray(best.x))
    theta = jax.tree.map(lambda t, like: jnp.asarray(np.asarray(t), like.dtype), theta, given)
    close = 1e-6 * (upper - lower)
    at = (best.x <= lower + close) | (best.x >= upper - close)
    names = [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(theta)]
    at_bounds = tuple(name for name, is_at in zip(names, at, strict=True) if is_at) if len(names) == len(at) else ()
    return Evidence(theta, -float(best.fun), objective.name, count, at_bounds)


def _search(objective, cheap, start, lower, upper, starts, note):
    """Local searches from the best points of a design that the cheap objective has sorted."""
    count = 0

    def negative(function):
        def call(t):
            nonlocal count
            count += 1
            try:
                value, gradient = function(t)
            except np.linalg.LinAlgError:
                return FAILED, np.zeros_like(t)
            return (-value, -gradient) if np.isfinite(value) else (FAILED, np.zeros_like(t))

        return call

    rng = np.random.default_rng(0)
    design = np.concatenate([start[None], rng.uniform(lower, upper, (40, len(start)))])
    scores = [negative(cheap)(t)[0] for t in design]
    bounds = list(zip(lower, upper, strict=True))

    def descend(function, t):
        return scipy.optimize.minimize(negative(function), t, jac=True, method="L-BFGS-B", bounds=bounds)

    best = np.argsort(scores)[: starts + 1]
    rough = sorted((descend(cheap, design[i]) for i in best), key=lambda r: r.fun)
    if objective is cheap:
        return rough[0], count
    first = min((r.x for r in rough), key=lambda t: negative(objective)(t)[0])
    result = descend(objective, first)
    if note is not None:
        note(f"evidence search from {np.round(first, 2)}: log evidence {-result.fun:.2f}")
    return result, count
