"""Fields with a power spectrum, whose amplitude, scale and slope maximize their evidence: the base of two recipes."""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invprob import priors
from invprob.config import Config
from invprob.errors import UsageError
from invprob.evidence.marginal import Evidence, maximize_evidence
from invprob.posterior import Hierarchy, Problem
from invprob.posterior.hierarchies import field_hierarchy
from invprob.progress import Listener
from invprob.recipes.base import PriorRecipe
from invprob.results.report import Report

SPECTRUM = {"log_amplitude": "prior_amplitude", "log_scale": "prior_break", "log_slope": "prior_slope"}
"""Hyperparameters of the power spectrum, and their records."""


class FieldRecipe(PriorRecipe, abc.ABC):
    """A prior made of a Gaussian field of spectrum ``A (1 + (k/k0)^2)^(-a/2)``."""

    def check(self, config: Config) -> None:
        super().check(config)
        if config.strength == "fission":
            raise UsageError(
                "strength 'fission' is for priors of one strength; amplitude, scale and slope of a field come from "
                "evidence"
            )

    def gaussian_hierarchy(self, problem: Problem) -> Hierarchy:
        """The hierarchy of the Gaussian field itself."""
        return field_hierarchy(problem.likelihood, problem.shape, dict(problem.nuisances) or None)

    def field(self, problem: Problem, theta: dict[str, Any]) -> priors.GaussianField:
        """The Gaussian field at logarithms of amplitude, scale and slope."""
        power = priors.PowerLaw(*(jnp.exp(theta[name]) for name in SPECTRUM))
        return priors.GaussianField(problem.shape, power)

    def choose_spectrum(
        self, problem: Problem, hierarchy: Hierarchy, config: Config, listener: Listener
    ) -> tuple[dict[str, Any], Report]:
        """Logarithms of amplitude, scale and slope, and what is said of them."""
        by_hand = (config.amplitude, config.scale, config.slope)
        if all(value is not None for value in by_hand):
            given = {n: jnp.log(jnp.asarray(v, problem.dtype)) for n, v in zip(SPECTRUM, by_hand, strict=True)}
            evidence, how = Evidence(given, float("nan"), "by hand", 0), "set by hand"
        else:
            listener.note("choosing the prior's amplitude, scale and slope by their evidence")
            evidence = maximize_evidence(hierarchy, note=listener.note)
            how = f"marginal likelihood, {evidence.method}"
            if evidence.at_bounds:
                how += f"; at its bound: {', '.join(n.removeprefix('log_') for n in evidence.at_bounds)}"
        theta = jax.tree.map(lambda t: jnp.asarray(t, problem.dtype), evidence.theta)
        if isinstance(config.strength, float):
            theta["log_amplitude"] = theta["log_amplitude"] - jnp.log(config.strength)
            how += f", inverse amplitude times {config.strength:g}"
        said = Report.of(**{SPECTRUM[name]: float(np.exp(float(value))) for name, value in theta.items()})
        said |= Report.of(strength_choice=how)
        if np.isfinite(evidence.log_evidence):
            said |= Report.of(log_evidence=evidence.log_evidence)
        return theta, said


__all__ = ["FieldRecipe"]
