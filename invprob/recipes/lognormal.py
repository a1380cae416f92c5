"""The exponential of a Gaussian field."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from invprob import priors
from invprob.config import Config
from invprob.covariance import Stationary
from invprob.errors import InputError
from invprob.posterior import Hierarchy, Problem
from invprob.progress import SILENT, Listener
from invprob.recipes.base import FittedPrior, fixed
from invprob.recipes.field import FieldRecipe
from invprob.results.report import Report


class LogNormalRecipe(FieldRecipe):
    """The log-normal field with the mean of the data and the second moments of the best Gaussian field."""

    name = "lognormal"
    summary = "exponential of a Gaussian field: positive, with structure on all scales"

    def build(self, problem: Problem, config: Config) -> Hierarchy:
        mean = problem.mean_image()
        if not mean > 0:
            raise InputError(
                f"the lognormal prior needs an image of positive mean, this one has {mean:.3g}: subtract the sky with "
                "--sky, or take another prior"
            )
        start = self.gaussian_hierarchy(problem).start

        def build(theta):
            prior = priors.LogNormal(self.logarithm(problem, mean, theta))
            return self.finish(problem, config, prior)

        return fixed(build, start)

    def fit(self, problem: Problem, hierarchy: Hierarchy, config: Config, listener: Listener = SILENT) -> FittedPrior:
        theta, said = self.choose_spectrum(problem, self.gaussian_hierarchy(problem), config, listener)
        mean = self.logarithm(problem, problem.mean_image(), theta).mean
        said |= Report.of(prior_log_mean=float(mean[0, 0]))
        return FittedPrior(hierarchy, theta, self.records(problem, config, said))

    def logarithm(self, problem: Problem, mean: float, theta: dict[str, Any]) -> priors.Gaussian:
        """The field of the logarithm.

        With M the mean and C(r) = E[x(0) x(r)] of the image, it has the covariance log(C(r) / M^2).
        """
        spectrum = self.field(problem, theta).covariance.power
        second = jnp.fft.irfft2(spectrum, s=problem.shape)
        log_covariance = jnp.log(jnp.maximum(second / mean**2, 1))
        power = jnp.real(jnp.fft.rfft2(log_covariance))
        power = jnp.maximum(power, 1e-8 * jnp.max(power))
        level = jnp.full(problem.shape, jnp.log(mean) - 0.5 * log_covariance[0, 0], problem.dtype)
        return priors.Gaussian(level, Stationary(power.astype(problem.dtype), problem.shape))


__all__ = ["LogNormalRecipe"]
