"""Total variation."""

from __future__ import annotations

from jaxtyping import Array, Float

from invprob import priors
from invprob.operators import Identity
from invprob.posterior import Problem
from invprob.recipes.strength import StrengthRecipe


class TotalVariationRecipe(StrengthRecipe):
    """Few edges."""

    name = "tv"
    summary = "Few edges: flat regions with sharp borders"
    strength = 1.0

    def prior(self, problem: Problem, strength: Float[Array, ""]) -> priors.TotalVariation:
        # a step between two pixels is to outweigh the noise of one
        return priors.TotalVariation(problem.shape, strength * problem.score_noise(Identity(problem.shape)))


__all__ = ["TotalVariationRecipe"]
