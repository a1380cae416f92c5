"""Priors: what is known of the latent image before the data."""

from invprob.priors.capabilities import (
    AbstractPrior,
    HasColouredDenoiser,
    HasConditionalGaussian,
    HasDenoiser,
    HasLogProb,
    HasParts,
    HasPrecision,
    HasProx,
    HasSample,
    HasScore,
    HasSeparableProx,
    HasStrength,
    HasTerms,
    HasTransform,
    HasWhitening,
    capabilities,
    require,
)
from invprob.priors.constrained import LowerBound, Positive, positive
from invprob.priors.gaussian import Gaussian, GaussianField, PowerLaw, wide_gaussian
from invprob.priors.generator import GeneratorPrior
from invprob.priors.learned import Blurred, DenoiserPrior
from invprob.priors.lognormal import LogNormal
from invprob.priors.norms import Exponential, GroupNorm, L1Norm, Laplace, inverse_gaussian_scales
from invprob.priors.product import Product
from invprob.priors.regularized import GaussianRegularized
from invprob.priors.sparse import Analysis, StarletSparsity, TotalVariation, WaveletSparsity
from invprob.priors.tfp import FromTFP

__all__ = [
    "AbstractPrior",
    "Analysis",
    "Blurred",
    "DenoiserPrior",
    "Exponential",
    "FromTFP",
    "Gaussian",
    "GaussianField",
    "GaussianRegularized",
    "GeneratorPrior",
    "GroupNorm",
    "HasColouredDenoiser",
    "HasConditionalGaussian",
    "HasDenoiser",
    "HasLogProb",
    "HasParts",
    "HasPrecision",
    "HasProx",
    "HasSample",
    "HasScore",
    "HasSeparableProx",
    "HasStrength",
    "HasTerms",
    "HasTransform",
    "HasWhitening",
    "L1Norm",
    "Laplace",
    "LogNormal",
    "LowerBound",
    "Positive",
    "PowerLaw",
    "Product",
    "StarletSparsity",
    "TotalVariation",
    "WaveletSparsity",
    "capabilities",
    "inverse_gaussian_scales",
    "positive",
    "require",
    "wide_gaussian",
]
