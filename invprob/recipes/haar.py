"""Sparsity in the Haar wavelet."""

from __future__ import annotations

from jaxtyping import Array, Float

from invprob import priors
from invprob.operators import Identity
from invprob.posterior import Problem
from invprob.recipes.strength import StrengthRecipe


class HaarRecipe(StrengthRecipe):
    """Few coefficients of the Haar wavelet."""

    name = "haar"
    summary = "Few coefficients of the Haar wavelet: blocks of constant brightness"

    def prior(self, problem: Problem, strength: Float[Array, ""]) -> priors.WaveletSparsity:
        return priors.WaveletSparsity(problem.shape, strength * problem.score_noise(Identity(problem.shape)), "haar")


__all__ = ["HaarRecipe"]
