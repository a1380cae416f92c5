"""Sparsity in the isotropic wavelet, each scale measured in its own noise."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import priors
from invprob.operators import StarletDetails
from invprob.posterior import Problem
from invprob.recipes.strength import StrengthRecipe

SIGNIFICANCE = ((0.25, 4.0), (0.5, 2.0), (1.0, 1.2), (2.0, 1.0))
"""Strength of a starlet scale in units of the coarse ones, by the distance of its samples in data pixels: what is finer
than a data pixel is next to nothing but what sparsity itself makes up (measured, see the benchmarks)."""
LARGEST = 2.0  # data pixels between the samples of the last scale, where there are more than four


def starlet(problem: Problem, strength: Float[Array, ""]) -> priors.StarletSparsity:
    """The prior on the latent image, periodic, each scale in the noise of its coefficients."""
    factor = problem.frame.factor
    count = max(4, 1 + int(np.ceil(np.log2(LARGEST * factor))))
    count = min(count, int(np.log2(min(problem.shape))))
    steps, sizes = zip(*SIGNIFICANCE, strict=True)
    scales = np.interp(np.log2(2.0 ** np.arange(count) / factor), np.log2(steps), sizes)
    details = StarletDetails(jnp.asarray(scales, problem.noise_unit.dtype), problem.shape, "wrap")
    return priors.StarletSparsity(problem.shape, strength, weights=problem.score_noise(details), mode="wrap")


class StarletRecipe(StrengthRecipe):
    """Few coefficients of the isotropic wavelet."""

    name = "starlet"
    summary = "Few coefficients of the isotropic wavelet: galaxies and stars on an empty sky"
    strength = 2.5

    def prior(self, problem: Problem, strength: Float[Array, ""]) -> priors.StarletSparsity:
        return starlet(problem, strength)


__all__ = ["StarletRecipe", "starlet"]
