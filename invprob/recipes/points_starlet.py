"""Point sources and diffuse light, as two images."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob import priors
from invprob.posterior import Problem
from invprob.recipes.starlet import starlet
from invprob.recipes.strength import StrengthRecipe

POINTS = 0.7  # price of a unit of flux in a point, of what the same point costs the starlet


class PointsAndStarletRecipe(StrengthRecipe):
    """Few bright pixels in one image, few starlet coefficients in another."""

    name = "points+starlet"
    summary = "Point sources (few bright pixels) plus diffuse light (starlet), as two images"
    strength = 2.5

    def prior(self, problem: Problem, strength: Float[Array, ""]) -> priors.Product:
        diffuse = starlet(problem, strength)
        # light is a point where the starlet would pay more for it: points of this cost are taken where they fit better
        rows, columns = problem.shape
        delta = jnp.zeros(problem.shape, problem.noise_unit.dtype).at[rows // 2, columns // 2].set(1)
        price = POINTS * diffuse.norm.cost(diffuse.W.apply(delta))
        return priors.Product({"diffuse": diffuse, "points": priors.Laplace(1 / price, problem.shape)})


__all__ = ["PointsAndStarletRecipe"]
