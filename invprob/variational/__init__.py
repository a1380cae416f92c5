"""Approximations of a posterior: `fit_variational` and its families."""

from invprob.variational.base import Approximation, Variational
from invprob.variational.circulant import CirculantGaussian
from invprob.variational.family import AbstractFamily
from invprob.variational.fit import FAMILIES, as_family, fit_variational
from invprob.variational.flow import Flow
from invprob.variational.low_rank import LowRank
from invprob.variational.mean_field import MeanField
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
