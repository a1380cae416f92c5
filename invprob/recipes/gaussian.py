"""The Gaussian field with a broken power law."""

from __future__ import annotations

from invprob.config import Config
from invprob.posterior import Hierarchy, Problem
from invprob.progress import SILENT, Listener
from invprob.recipes.base import FittedPrior, fixed, with_data_hyperparameters
from invprob.recipes.field import SPECTRUM, FieldRecipe
from invprob.results.report import Report


class GaussianRecipe(FieldRecipe):
    """Gaussian field whose spectrum maximizes the marginal likelihood."""

    name = "gaussian"
    summary = "Gaussian field with a broken power law; its errors come with the best image (the default)"
    is_gaussian = True
    hyperparameters = SPECTRUM
    has_uncertain_psf = True

    def build(self, problem: Problem, config: Config) -> Hierarchy:
        hierarchy = self.gaussian_hierarchy(problem)
        if config.samples_hyper:
            return with_data_hyperparameters(hierarchy, problem, config)
        if config.positive:
            start = hierarchy.start
            return fixed(lambda theta: self.finish(problem, config, self.field(problem, theta)), start)
        return hierarchy

    def fit(self, problem: Problem, hierarchy: Hierarchy, config: Config, listener: Listener = SILENT) -> FittedPrior:
        field = hierarchy
        if config.samples_hyper or config.positive:
            field = self.gaussian_hierarchy(problem)
        theta, said = self.choose_spectrum(problem, field, config, listener)
        if config.samples_hyper:
            said |= Report.of(strength_choice="sampled with the image, from the largest marginal likelihood")
            theta = {**hierarchy.start, **theta}
        return FittedPrior(hierarchy, theta, self.records(problem, config, said), config.samples_hyper)


__all__ = ["GaussianRecipe"]
