"""Likelihood and prior together, with and without hyperparameters."""

from invprob.posterior.hierarchies import field_hierarchy, strength_hierarchy, with_noise_scale, with_psf_width
from invprob.posterior.posterior import Hierarchy, LinearGaussian, Posterior, Precision, Pullback, Whitened
from invprob.posterior.problem import Exposure, Problem
from invprob.posterior.whitening import in_white_coordinates

__all__ = [
    "Exposure",
    "Hierarchy",
    "LinearGaussian",
    "Posterior",
    "Precision",
    "Problem",
    "Pullback",
    "Whitened",
    "field_hierarchy",
    "in_white_coordinates",
    "strength_hierarchy",
    "with_noise_scale",
    "with_psf_width",
]
