"""Sparse priors: few large coefficients of a linear map of the image."""

import math
from abc import abstractmethod
from typing import ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.covariance import inexact
from invprob.operators.analysis import Gradient, Starlet, StarletDetails, Wavelet, starlet_norms
from invprob.operators.base import AbstractLinearOperator
from invprob.priors.capabilities import AbstractPrior, HasLogProb, HasProx, HasStrength, HasTerms, require
from invprob.priors.norms import AbstractNorm, GroupNorm, L1Norm, Laplace


class Analysis(HasLogProb, HasTerms):
    """A prior on a linear map of the image, ``p(x) ∝ prior(W x)``.

    Parameters
    ----------
    prior
        Prior of W x, with a log-density and a proximal map.
    W
        Linear operator from the image to what the prior describes.

    Notes
    -----
    The constant is that of the prior of W x, and so not the one that normalizes x.
    """

    prior: AbstractPrior
    W: AbstractLinearOperator
    normalized: ClassVar[bool] = False

    def __check_init__(self):
        for capability in (HasLogProb, HasProx):
            require(self.prior, capability, "priors on a linear map")
        if not self.prior.structure.matches(self.W.out_structure):
            raise ValueError(
                f"the prior describes {self.prior.structure}, {type(self.W).__name__} gives {self.W.out_structure}: "
                "they must agree"
            )

    @property
    def structure(self):
        return self.W.in_structure

    @property
    def terms(self):
        return [(self.W, require(self.prior, HasProx, "priors on a linear map"))]

    def log_prob(self, x):
        return require(self.prior, HasLogProb, "priors on a linear map").log_prob(self.W(x))

    def barrier(self, x, kappa):
        return require(self.prior, HasLogProb, "priors on a linear map").barrier(self.W(x), kappa)


class AbstractSparsity(HasLogProb, HasTerms, HasStrength):
    """``-log p(x) = |W x|`` without a constant, for a norm and a linear operator W."""

    W: eqx.AbstractVar[AbstractLinearOperator]
    norm: eqx.AbstractVar[AbstractNorm]
    normalized: ClassVar[bool] = False

    @property
    def structure(self):
        return self.W.in_structure

    @property
    def terms(self):
        return [(self.W, self.norm)]

    @property
    @abstractmethod
    def rank(self) -> Float[Array, ""] | int:
        """Rank of W, numbers without a weight left out: ``|f W x|`` has the constant f to this power as a density."""

    def rescaled(self, factor: Float[Array, ""]) -> Self:
        """The prior of a strength that is so many times this one."""
        return eqx.tree_at(lambda prior: prior.norm, self, self.norm.rescaled(factor))

    def cost(self, x):
        return self.norm.cost(self.W(x))

    def log_prob(self, x):
        return -self.cost(x)

    def barrier(self, x, kappa):
        return self.norm.barrier(self.W(x), kappa)


class TotalVariation(AbstractSparsity):
    """Few edges: ``-log p(x) = strength sum_i |grad x|_i``, the Euclidean length of the gradient in each pixel.

    Parameters
    ----------
    shape
        Shape of the image, ``(y, x)``.
    strength
        Strength in the inverse unit of x; positive, traced.
    isotropic
        False for the sum of the absolute differences along the two axes instead, which prefers edges along them.

    Notes
    -----
    Forward differences on a periodic grid. A constant image costs nothing, so that the density is improper.

    References
    ----------
    Rudin, Osher & Fatemi 1992, Physica D 60, 259.
    """

    W: Gradient
    norm: GroupNorm | Laplace

    def __init__(self, shape: tuple[int, int], strength, isotropic: bool = True):
        self.W = Gradient(shape)
        kind = GroupNorm if isotropic else Laplace
        self.norm = kind(1 / inexact(strength), self.W.out_structure.shape)

    @property
    def rank(self):
        return math.prod(self.structure.shape) - 1  # constants are free

    @property
    def strength(self) -> Float[Array, "..."]:
        """Strength in the inverse unit of x."""
        return 1 / self.norm.scale


class StarletSparsity(AbstractSparsity):
    """Few starlet coefficients: ``-log p(x) = strength sum_j weights_j |w_j(x)|_1`` over the detail scales.

    Parameters
    ----------
    shape
        Shape of the image, ``(y, x)``.
    strength
        Strength in the inverse unit of x; positive, traced.
    scales
        Number of detail scales; default: that of the weights, else that of `Starlet`.
    weights
        One weight for each scale, finest first. Default: the standard deviation of white noise of unit variance in
        that scale, so that a coefficient counts by its height above white noise.
    mode
        "constant" for zeros outside the image at each scale, "wrap" for a periodic image.

    Notes
    -----
    The coarse scale is free; in the periodic mode a constant image costs nothing.

    References
    ----------
    Starck, Fadili & Murtagh 2007, IEEE Trans. Image Processing 16, 297.
    """

    W: StarletDetails
    norm: Laplace

    def __init__(self, shape: tuple[int, int], strength, scales: int | None = None, weights=None, mode="constant"):
        strength = inexact(strength)
        if weights is None:
            weights = jnp.asarray(starlet_norms(Starlet(shape, scales).scales), strength.dtype)
        weights = inexact(weights)
        if scales is not None and weights.shape != (scales,):
            raise ValueError(f"{scales} scales take {scales} weights, not an array of {weights.shape}")
        self.W = StarletDetails(weights, shape, mode)
        self.norm = Laplace(1 / strength, self.W.out_structure.shape)

    @property
    def rank(self):
        # an image without details is its own smooth version: a constant, and zero where it is zero outside
        return math.prod(self.structure.shape) - (self.W.mode == "wrap")

    @property
    def strength(self) -> Float[Array, "..."]:
        """Strength in the inverse unit of x."""
        return 1 / self.norm.scale


class WaveletSparsity(AbstractSparsity, HasProx):
    """Few wavelet coefficients: ``-log p(x) = strength sum |details of W x|``, the coarse block free.

    The transform is orthogonal, so that the proximal map of x is one soft threshold between it and its adjoint.

    Parameters
    ----------
    shape
        Shape of the image, ``(y, x)``.
    strength
        Strength in the inverse unit of x; positive, traced.
    name
        Orthogonal wavelet of PyWavelets.
    levels
        Number of levels; default: that of `Wavelet`.

    References
    ----------
    Donoho & Johnstone 1994, Biometrika 81, 425.
    """

    W: Wavelet
    norm: L1Norm

    def __init__(self, shape: tuple[int, int], strength, name: str = "db4", levels: int | None = None):
        self.W = Wavelet(shape, name, levels)
        self.norm = L1Norm(jnp.where(self.W.is_detail, inexact(strength), 0), self.W.shape)

    @property
    def rank(self):
        return self.norm.rank

    def prox(self, v, step):
        return self.W.adjoint(self.norm.prox(self.W(v), step))


__all__ = ["AbstractSparsity", "Analysis", "StarletSparsity", "TotalVariation", "WaveletSparsity"]
