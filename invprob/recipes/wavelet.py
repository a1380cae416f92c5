"""Sparsity in an orthogonal wavelet."""

from __future__ import annotations

from jaxtyping import Array, Float

from invprob import priors
from invprob.operators import Identity
from invprob.posterior import Problem
from invprob.recipes.strength import StrengthRecipe


class WaveletRecipe(StrengthRecipe):
    """Few coefficients of an orthogonal wavelet."""

    name = "wavelet"
    summary = "Few coefficients of an orthogonal wavelet (Daubechies 4)"

    def prior(self, problem: Problem, strength: Float[Array, ""]) -> priors.WaveletSparsity:
        return priors.WaveletSparsity(problem.shape, strength * problem.score_noise(Identity(problem.shape)))


__all__ = ["WaveletRecipe"]
