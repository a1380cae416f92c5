"""Approximations of a posterior: `fit_variational` and its families."""

from invprob.variational.base import AbstractFamily, Approximation, Variational
from invprob.variational.circulant import CirculantGaussian
from invprob.variational.fit import FAMILIES, Flow, LowRank, MeanField, as_family, fit_variational
from invprob.variational.metric_gaussian import MetricGaussian

__all__ = [
    "FAMILIES",
    "AbstractFamily",
    "Approximation",
    "CirculantGaussian",
    "Flow",
    "LowRank",
    "MeanField",
    "MetricGaussian",
    "Variational",
    "as_family",
    "fit_variational",
]
