"""Sparse pixels."""

from __future__ import annotations

from jaxtyping import Array, Float

from invprob import priors
from invprob.operators import Identity
from invprob.posterior import Problem
from invprob.recipes.strength import StrengthRecipe


class LaplaceRecipe(StrengthRecipe):
    """Few bright pixels."""

    name = "laplace"
    summary = "Few bright pixels: point sources on an empty sky"

    def prior(self, problem: Problem, strength: Float[Array, ""]) -> priors.Laplace:
        return priors.Laplace(1 / (strength * problem.score_noise(Identity(problem.shape))), problem.shape)


__all__ = ["LaplaceRecipe"]
