"""Priors with one strength, in units in which one number serves every image: the base of their recipes."""

from __future__ import annotations

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.config import Config
from invprob.errors import CapabilityError, UsageError
from invprob.evidence.fission import RTOL, strength_by_fission
from invprob.optimize.find_map import as_solver
from invprob.posterior import Hierarchy, Posterior, Problem
from invprob.posterior.hierarchies import strength_hierarchy
from invprob.priors.capabilities import AbstractPrior
from invprob.progress import SILENT, Listener
from invprob.recipes.base import FittedPrior, PriorRecipe, fixed, with_data_hyperparameters
from invprob.results.report import Report

REACH = 20  # least border of a periodic sparse prior, latent pixels: opposite sides are to see nothing of each other


class StrengthRecipe(PriorRecipe, abc.ABC):
    """A prior with one strength, larger for smoother, measured in the noise of the data.

    It is ``strength`` where that is known to serve every image, and otherwise found by data fission.
    """

    hyperparameters = {"log_strength": "prior_strength"}
    least_border = REACH

    @abc.abstractmethod
    def prior(self, problem: Problem, strength: Float[Array, ""]) -> AbstractPrior:
        """The prior of the image, or of several images that add up to it, at a strength above zero.

        ``problem.shape`` is the shape of the latent image, ``problem.noise_unit`` the noise of one of its pixels, and
        ``problem.score_noise(W)`` the scatter of the gradient of the likelihood in the coefficients of W: what a
        coefficient has to outweigh.
        """

    def build(self, problem: Problem, config: Config) -> Hierarchy:
        if not config.samples_hyper:
            return fixed(
                lambda theta: self.at_strength(problem, config, theta["strength"]),
                {"strength": jnp.ones((), problem.dtype)},
            )
        try:
            hierarchy = strength_hierarchy(problem.posterior(self._checked(problem, jnp.ones((), problem.dtype))))
        except CapabilityError as error:
            raise UsageError(f"strength 'sample' does not go with prior {self.name!r}: {error}") from None
        return with_data_hyperparameters(hierarchy, problem, config)

    def fit(self, problem: Problem, hierarchy: Hierarchy, config: Config, listener: Listener = SILENT) -> FittedPrior:
        strength, how = self._choose(problem, config, listener)
        said = self.records(problem, config, Report.of(prior_strength=strength, strength_choice=how))
        value = jnp.asarray(strength, problem.dtype)
        theta: dict[str, Any] = {"strength": value}
        if config.samples_hyper:
            theta = {**hierarchy.start, "log_strength": jnp.log(value)}
        return FittedPrior(hierarchy, theta, said, config.samples_hyper)

    def at_strength(self, problem: Problem, config: Config, strength: Float[Array, ""]) -> Posterior:
        """The posterior at a strength."""
        return self.finish(problem, config, self._checked(problem, strength))

    def _choose(self, problem: Problem, config: Config, listener: Listener) -> tuple[float, str]:
        """The strength, and in words how it was chosen."""
        if isinstance(config.strength, float):
            return config.strength, "set by hand"
        if config.strength in ("auto", "sample") and self.strength is not None:
            if config.strength == "sample":
                return self.strength, "sampled with the image"
            return self.strength, "universal: in units of the noise"
        listener.note("choosing the prior's strength by data fission")

        def build(likelihood, strength):
            # in units of the noise of all data, as the strength that is found will be
            prior = self._checked(problem, strength)
            return self.finish(problem.with_likelihood(likelihood), config, prior)

        def solver_of(post):
            return as_solver(config.solver, post, RTOL)[0]

        whole = problem.exposure.likelihood
        fission = strength_by_fission(build, whole, solver_of, seed=config.seed, note=listener.note)
        return fission.strength, "data fission" + ("; at the end of what is tried" if fission.at_bound else "")

    def _checked(self, problem: Problem, strength: Float[Array, ""]) -> AbstractPrior:
        """The prior, checked where another package makes it."""
        try:
            prior = self.prior(problem, strength)
        except Exception as error:  # whatever another package does
            if self.provider == "invprob":
                raise
            raise UsageError(
                f"prior {self.name!r} of {self.provider} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(prior, AbstractPrior):
            raise UsageError(f"prior {self.name!r} of {self.provider} gave a {type(prior).__name__}, not a prior")
        return prior


__all__ = ["StrengthRecipe"]
