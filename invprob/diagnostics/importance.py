"""Pareto-smoothed importance sampling: whether draws of one distribution may stand for another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from invprob.errors import InputError

MIN_WEIGHTS, MIN_TAIL = 25, 5
EQUAL = 1e-10  # log-weights this close differ by rounding
PRIOR_SHAPE, PRIOR_WEIGHT = 0.5, 10  # the fitted shape is drawn to 1/2 as if by 10 more draws


@dataclass(frozen=True, eq=False)
class ParetoSmoothed:
    """Smoothed importance weights, with the diagnostic that says whether they are good for anything.

    Parameters
    ----------
    log_weights
        Logarithms of the smoothed weights, whose sum is one.
    khat
        Estimated shape of the generalized Pareto tail of the weights, which have ``1 / k`` finite moments. Minus
        infinity where all weights are equal, infinity where the tail cannot be fitted.
    threshold
        The largest k-hat at which a mean over so many draws can be relied on, ``min(1 - 1 / log10(S), 0.7)``.
    """

    log_weights: Float[np.ndarray, " draw"]
    khat: float
    threshold: float

    @property
    def reliable(self) -> bool:
        """Whether k-hat is below its threshold."""
        return self.khat < self.threshold

    @property
    def ess(self) -> float:
        """``1 / sum w^2``, the effective number of draws for a mean; not to be relied on above the threshold."""
        return float(1 / np.sum(np.exp(2 * self.log_weights)))


def psis(log_weights: Float[np.ndarray, " draw"], relative_efficiency: float = 1.0) -> ParetoSmoothed:
    """Importance weights with their largest ones replaced by the quantiles of a generalized Pareto distribution.

    The distribution is fitted to the largest ``M = min(S / 5, 3 sqrt(S / r))`` of S weights, and the j-th of them
    becomes its quantile ``(j - 1/2) / M``, no larger than the largest weight.

    Parameters
    ----------
    log_weights
        ``log p(x_s) - log q(x_s)`` for draws x_s of q, up to a constant; at least 25. Minus infinity is a weight of
        zero.
    relative_efficiency
        Effective sample size over the number of draws, r; 1 for independent draws.

    Raises
    ------
    InputError
        For too few weights, and for weights that are not a number or infinite.

    Notes
    -----
    M is rounded down. Where fewer than 5 of the largest M weights differ from the next one there is no tail to fit, and
    the weights stay as they are.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao & Gabry 2024, J. Machine Learning Research 25 (72); Zhang & Stephens
    2009, Technometrics 51, 316.
    """
    weights = np.array(log_weights, float)
    size = weights.size
    if weights.ndim != 1 or size < MIN_WEIGHTS:
        raise InputError(
            f"Pareto smoothing needs at least {MIN_WEIGHTS} log-weights along one axis, got the shape {weights.shape}"
        )
    bad = np.isnan(weights) | (weights == np.inf)
    if bad.any():
        raise InputError(f"{bad.sum()} of {size} log-weights are not a number or infinite: check the two log-densities")
    if weights.max() == -np.inf:
        raise InputError("all importance weights are zero: the draws lie outside the support of the target")
    if not 0 < relative_efficiency < np.inf:
        raise InputError(f"the relative efficiency is ESS / draws, above 0; got {relative_efficiency}")
    weights -= weights.max()
    khat = _smooth(weights, relative_efficiency)
    return ParetoSmoothed(weights - special.logsumexp(weights), khat, khat_threshold(size))


def khat_threshold(size: int) -> float:
    """``min(1 - 1 / log10(S), 0.7)``: with a heavier tail S draws are too few (Vehtari et al. 2024)."""
    return min(1 - 1 / np.log10(size), 0.7)


def _smooth(weights: np.ndarray, relative_efficiency: float) -> float:
    """Replaces the tail of log-weights with maximum zero, in place, and gives k-hat."""
    if weights.min() > -EQUAL:
        return -np.inf
    size = weights.size
    length = int(min(size / 5, 3 * np.sqrt(size / relative_efficiency)))
    order = np.argsort(weights)
    tail, cutoff = order[size - length :], np.exp(weights[order[size - length - 1]])
    tail = tail[np.exp(weights[tail]) > cutoff]
    number = len(tail)
    if number < MIN_TAIL:
        return np.inf
    shape, scale = _pareto_fit(np.exp(weights[tail]) - cutoff)
    if not (np.isfinite(shape) and scale > 0):
        return np.inf
    quantiles = cutoff + _pareto_quantile((np.arange(number) + 0.5) / number, shape, scale)
    weights[tail] = np.minimum(np.log(quantiles), 0.0)
    return shape


def _pareto_fit(excess: np.ndarray) -> tuple[float, float]:
    """Shape k and scale sigma of the generalized Pareto distribution of sorted positive numbers.

    The mean of ``b = -k / sigma`` over its profile likelihood on a grid (Zhang & Stephens 2009), k then drawn to 1/2
    (Vehtari et al. 2024).
    """
    n = len(excess)
    number = 30 + int(np.sqrt(n))
    quartile = excess[max(int(n / 4 + 0.5), 1) - 1]
    b = 1 / excess[-1] + (1 - np.sqrt(number / (np.arange(1, number + 1) - 0.5))) / (3 * quartile)
    with np.errstate(all="ignore"):
        k = np.mean(np.log1p(-b[:, None] * excess), axis=1)
        profile = n * (np.log(-b / k) - k - 1)
        posterior = special.softmax(np.where(np.isnan(profile), -np.inf, profile))
        posterior[posterior < 10 * np.finfo(float).eps] = 0
        mean = np.sum(b * posterior) / np.sum(posterior)
        shape = np.mean(np.log1p(-mean * excess))
        scale = -shape / mean
    return float((n * shape + PRIOR_WEIGHT * PRIOR_SHAPE) / (n + PRIOR_WEIGHT)), float(scale)


def _pareto_quantile(probability: np.ndarray, shape: float, scale: float) -> np.ndarray:
    """``sigma ((1 - p)^-k - 1) / k``, and its limit at k = 0."""
    exponent = -np.log1p(-probability)
    return scale * (exponent if shape == 0 else np.expm1(shape * exponent) / shape)


__all__ = ["ParetoSmoothed", "khat_threshold", "psis"]
