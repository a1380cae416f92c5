"""The learned prior of galaxies that comes with the package."""

from __future__ import annotations

from invprob.recipes.learned import ShippedRecipe


class GalaxiesRecipe(ShippedRecipe):
    """A denoiser that was trained on simulated galaxies."""

    name = "galaxies"
    summary = "galaxies as a space telescope sees them, learned from simulated ones; for --refine"


__all__ = ["GalaxiesRecipe"]
