"""Likelihoods: how probable the data are, given the noiseless prediction of the forward operator."""

from invprob.likelihoods.base import AbstractLikelihood
from invprob.likelihoods.gaussian import Gaussian

__all__ = ["AbstractLikelihood", "Gaussian"]
