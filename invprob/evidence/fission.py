"""A strength from the data alone, for any prior: data fission, a cross-validation that leaves no datum out.

With fresh noise ``n ~ N(0, N)`` the data are split into ``y + a n`` and ``y - n / a``, which are independent: the image
is found from the first, and the strength is the one whose image predicts the second best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from invprob import likelihoods
from invprob.covariance import Diagonal
from invprob.optimize.find_map import find_map
from invprob.optimize.solvers import AbstractSolver
from invprob.posterior import Posterior

SHARE = 0.7  # a: the first part has the noise 1 + a^2, the second 1 + 1/a^2
STRENGTHS = tuple(float(s) for s in np.geomspace(16, 1 / 16, 9))  # strong ones first: each begins from the last
RTOL, MAX_STEPS = 3e-3, 400


@dataclass(frozen=True)
class Fission:
    """The strength found, and the score (mean held-out chi-square per datum) of each that was tried."""

    strength: float
    scores: tuple[tuple[float, float], ...]

    @property
    def at_bound(self) -> bool:
        """Whether the best lies at an end of what was tried."""
        best = min(self.scores, key=lambda pair: pair[1])[0]
        return best in (self.scores[0][0], self.scores[-1][0])


def split_data(
    likelihood: likelihoods.Gaussian, key, share: float = SHARE
) -> tuple[likelihoods.Gaussian, likelihoods.Gaussian]:
    """Two likelihoods with independent data whose information adds up to that of the given one.

    Parameters
    ----------
    likelihood
        Gaussian likelihood with `Diagonal` noise.
    key
        Of the noise that is added.
    share
        The factor a; the first part keeps ``1 / (1 + a^2)`` of the information.

    References
    ----------
    Leiner, Duan, Wasserman & Ramdas 2023, J. American Statistical Association 120, 135.
    """
    noise = likelihood.noise
    assert isinstance(noise, Diagonal)
    n = noise.sample(key, likelihood.data.dtype)

    def part(data, factor):
        scaled = Diagonal(noise.variance * factor)
        return likelihoods.Gaussian(likelihood.operator, data, scaled, likelihood.valid)

    a = jnp.asarray(share, likelihood.data.dtype)
    return part(likelihood.data + a * n, 1 + a**2), part(likelihood.data - n / a, 1 + 1 / a**2)


def strength_by_fission(
    build: Callable[[likelihoods.Gaussian, jax.Array], Posterior],
    likelihood: likelihoods.Gaussian,
    solver_of: Callable[[Posterior], AbstractSolver],
    *,
    strengths: Sequence[float] = STRENGTHS,
    num_splits: int = 2,
    seed: int = 0,
    note: Callable[[str], object] = lambda text: None,
) -> Fission:
    """The strength whose image, found from one part of the data, predicts the other best.

    It costs two solves for each strength and split, each begun from the last.

    Parameters
    ----------
    build
        From a likelihood of these data and a strength to the posterior.
    likelihood
        Gaussian likelihood with `Diagonal` noise.
    solver_of
        From a posterior to its solver; a residual of `RTOL` is enough.
    strengths
        What to try, strongest first.
    num_splits
        Splits over which the score is averaged.
    seed
        Of the splits.
    note
        Told of each strength.
    """
    totals = np.zeros(len(strengths))
    count = max(float(likelihood.num_data), 1.0)
    for i in range(num_splits):
        first, second = split_data(likelihood, jax.random.fold_in(jax.random.key(seed), i))
        x = None
        for j, strength in enumerate(strengths):
            value = jnp.asarray(strength, likelihood.data.dtype)
            post = build(first, value)
            x = find_map(post, solver_of(post), x0=x, max_steps=MAX_STEPS).x
            held_out = likelihoods.Gaussian(post.likelihood.operator, second.data, second.noise)
            score = float(held_out.chi2(x)) / count
            totals[j] += score / num_splits
            note(f"strength {strength:.3g}: held-out chi-square {score:.4f}")
    scores = tuple(zip(map(float, strengths), map(float, totals), strict=True))
    return Fission(_minimum(scores), scores)


def _minimum(scores: Sequence[tuple[float, float]]) -> float:
    """Lowest point of the parabola through the best score and its neighbours, in the logarithm of the strength."""
    values = np.array([score for _, score in scores])
    logs = np.log([strength for strength, _ in scores])
    k = int(np.nanargmin(values))
    if k in (0, len(values) - 1):
        return float(np.exp(logs[k]))
    slope, curve = (values[k + 1] - values[k - 1]) / 2, values[k + 1] - 2 * values[k] + values[k - 1]
    shift = np.clip(-slope / curve, -0.5, 0.5) if curve > 0 else 0.0
    return float(np.exp(logs[k] + shift * (logs[k + 1] - logs[k])))


__all__ = ["Fission", "split_data", "strength_by_fission"]
