"""Priors: what is known of the latent image before the data."""

from invprob.priors.base import (
    AbstractPrior,
    HasDenoiser,
    HasLogProb,
    HasPrecision,
    HasProx,
    HasSample,
    HasScore,
    HasTerms,
    HasTransform,
    capabilities,
)
from invprob.priors.gaussian import Gaussian, GaussianField, PowerLaw, flat
from invprob.priors.product import Product
from invprob.priors.tfp import FromTFP

__all__ = [
    "AbstractPrior",
    "FromTFP",
    "Gaussian",
    "GaussianField",
    "HasDenoiser",
    "HasLogProb",
    "HasPrecision",
    "HasProx",
    "HasSample",
    "HasScore",
    "HasTerms",
    "HasTransform",
    "PowerLaw",
    "Product",
    "capabilities",
    "flat",
]
