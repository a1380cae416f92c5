"""Hierarchies: the spectrum of the field prior, the scale of the noise and the width of the PSF as hyperparameters."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invprob import likelihoods, priors
from invprob.covariance import Diagonal, without_constants
from invprob.errors import CapabilityError, UsageError
from invprob.operators import Convolve
from invprob.operators.base import Adjoint, compose
from invprob.operators.convolve import dilated_transfer_function
from invprob.posterior.posterior import Hierarchy, Posterior
from invprob.priors.capabilities import HasStrength, require


class FieldModel(eqx.Module):
    """theta -> posterior with a `GaussianField` of spectrum theta on the image.

    Parameters
    ----------
    likelihood
        Gaussian likelihood; its operator takes an image, or a dictionary with ``"image"``.
    shape
        Shape of the latent image.
    others
        Priors of the other entries of the dictionary; None where the latent is the image alone.
    """

    likelihood: likelihoods.Gaussian
    shape: tuple[int, int] = eqx.field(static=True)
    others: dict[str, priors.AbstractPrior] | None = None

    def __call__(self, theta: PyTree) -> Posterior:
        power = priors.PowerLaw(*(jnp.exp(theta[name]) for name in ("log_amplitude", "log_scale", "log_slope")))
        field = priors.GaussianField(self.shape, power)
        prior = field if self.others is None else priors.Product({"image": field, **self.others})
        return Posterior(self.likelihood, prior)


def field_hierarchy(
    likelihood: likelihoods.Gaussian,
    shape: tuple[int, int],
    others: dict[str, priors.AbstractPrior] | None = None,
) -> Hierarchy:
    """The hierarchy of the power spectrum's (amplitude, scale, slope), with a start and bounds from the data.

    The break lies between a tenth of the grid's lowest frequency and one cycle per pixel, the slope between 0.5 and 20;
    the amplitude begins where the prior predicts the scatter of the data and may move by a factor of a million.
    """
    model = FieldModel(likelihood, shape, others)
    scale, slope = 2.0 / max(shape), 3.0
    theta = {"log_amplitude": 0.0, "log_scale": float(np.log(scale)), "log_slope": float(np.log(slope))}
    start = {name: jnp.asarray(value, likelihood.data.dtype) for name, value in theta.items()}
    variance = _predicted_variance(model(start), likelihood)
    amplitude = jnp.log(jnp.maximum(_scatter(likelihood), 1e-300) / variance)
    start["log_amplitude"] = amplitude.astype(likelihood.data.dtype)
    wide = float(np.log(1e6))
    lower = {
        "log_amplitude": start["log_amplitude"] - wide,
        "log_scale": jnp.log(jnp.asarray(0.1 / max(shape), likelihood.data.dtype)),
        "log_slope": jnp.log(jnp.asarray(0.5, likelihood.data.dtype)),
    }
    upper = {
        "log_amplitude": start["log_amplitude"] + wide,
        "log_scale": jnp.zeros((), likelihood.data.dtype),
        "log_slope": jnp.log(jnp.asarray(20.0, likelihood.data.dtype)),
    }
    return Hierarchy(model, start, lower, upper)


class StrengthModel(eqx.Module):
    """theta -> posterior whose norms are ``exp(theta["log_strength"])`` times those of a given one.

    Parameters
    ----------
    post
        Posterior with a sparse prior (`TotalVariation`, `StarletSparsity`, ...) or a norm on the image, or a product
        with such parts; Gaussian parts stay as they are.
    """

    post: Posterior

    def __call__(self, theta: PyTree) -> Posterior:
        prior = self.post.prior.find(HasStrength)
        if prior is None:
            return self.post
        return Posterior(self.post.likelihood, prior.rescaled(jnp.exp(theta["log_strength"])))

    @property
    def rank(self) -> Float[Array, ""] | int:
        """Power of the factor in the constant of the density; zero under a prior without a strength."""
        prior = self.post.prior.find(HasStrength)
        return 0 if prior is None else prior.rank


def strength_hierarchy(post: Posterior, factor: float = 1e3) -> Hierarchy:
    """The hierarchy of the strength of a sparse prior.

    The norms are homogeneous, so that the density of an image under a strength s has the constant ``s^rank``, whatever
    the norm: what has no closed form for a sum of two of them is not needed. What a norm leaves free (a constant, under
    total variation) has no density and takes no part.

    Parameters
    ----------
    post
        Posterior with a sparse prior, a norm on the image, or a product of these and Gaussians.
    factor
        The strength is at most so many times that of the prior, and at least that divided by the factor, a priori flat
        in its logarithm.

    Returns
    -------
    Hierarchy
        With ``theta = {"log_strength": ...}``, the logarithm of the factor of the strength, zero to begin with.

    Raises
    ------
    CapabilityError
        When the prior is of another kind.
    """
    if not factor > 1:
        raise UsageError(f"the factor of the strength is above one, not {factor:g}")
    require(post.prior, HasStrength, "hierarchies of the strength")
    zero = jnp.zeros((), post.likelihood.data.dtype)  # type: ignore[attr-defined]
    wide = jnp.log(zero + factor)
    start, lower, upper = ({"log_strength": value} for value in (zero, -wide, wide))
    return Hierarchy(StrengthModel(post), start, lower, upper)


class NoiseScaleModel(eqx.Module):
    """theta -> posterior with the noise's standard deviation times ``exp(theta["log_noise"])``."""

    build: Callable[[PyTree], Posterior]

    def __call__(self, theta: PyTree) -> Posterior:
        rest = {name: value for name, value in theta.items() if name != "log_noise"}
        post = self.build(rest)
        variance = jnp.exp(2 * theta["log_noise"])
        return eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: v * variance)


def with_noise_scale(hierarchy: Hierarchy, factor: float = 3.0) -> Hierarchy:
    """A hierarchy with the scale of the noise among its hyperparameters.

    Parameters
    ----------
    hierarchy
        Hierarchy whose theta is a dictionary and whose noise is `invprob.Diagonal`.
    factor
        The standard deviation of the noise is at most so many times that which is given, and at least that divided by
        the factor, a priori flat in its logarithm.

    Returns
    -------
    Hierarchy
        With ``theta["log_noise"]``, the logarithm of the factor of the standard deviation, zero to begin with.
    """
    noise = getattr(hierarchy.likelihood, "noise", None)
    if not isinstance(hierarchy.start, dict) or not isinstance(noise, Diagonal):
        raise CapabilityError("the scale of the noise needs a dictionary as theta and Diagonal noise")
    if not factor > 1:
        raise UsageError(f"the factor of the noise is above one, not {factor:g}")
    zero = jnp.zeros((), noise.variance.dtype)
    wide = jnp.log(zero + factor)
    return Hierarchy(
        NoiseScaleModel(hierarchy.build), {**hierarchy.start, "log_noise": zero},
        {**hierarchy.lower, "log_noise": -wide}, {**hierarchy.upper, "log_noise": wide},
    )  # fmt: skip


class PSFWidthModel(eqx.Module):
    """theta -> posterior with a PSF that is ``exp(theta["log_width"])`` times as wide as the kernel."""

    build: Callable[[PyTree], Posterior]
    kernel: Float[Array, "ky kx"]

    def __call__(self, theta: PyTree) -> Posterior:
        rest = {name: value for name, value in theta.items() if name != "log_width"}
        post = self.build(rest)
        (blur,) = _convolutions(post)
        otf = dilated_transfer_function(self.kernel, blur.circular.shape, jnp.exp(theta["log_width"]))
        return eqx.tree_at(lambda p: _convolutions(p)[0].circular.otf, post, otf)


def _convolutions(post: Posterior) -> list[Convolve]:
    every = jax.tree.leaves(post.likelihood.operator, is_leaf=lambda node: isinstance(node, Convolve))
    return [node for node in every if isinstance(node, Convolve)]


def with_psf_width(hierarchy: Hierarchy, kernel: Float[Array, "ky kx"], error: float) -> Hierarchy:
    """A hierarchy with the width of the PSF among its hyperparameters.

    Parameters
    ----------
    hierarchy
        Hierarchy whose theta is a dictionary, and whose forward operator has one `invprob.operators.Convolve`.
    kernel
        The PSF image of that convolution; with a FWHM of three pixels or more, since its samples are moved apart and a
        coarser one would gain a false response at high frequencies.
    error
        Standard deviation of the logarithm of the width, a priori flat within 1.73 times that.

    Returns
    -------
    Hierarchy
        With ``theta["log_width"]``, the logarithm of the factor of the width, zero to begin with.
    """
    if not isinstance(hierarchy.start, dict) or len(_convolutions(hierarchy.build(hierarchy.start))) != 1:
        raise CapabilityError(
            "the width of the PSF needs a dictionary as theta, and a forward operator with a Convolve"
        )
    if not 0 < error <= 0.5:
        raise UsageError(f"the error of the PSF's width is a fraction above 0 and at most 0.5, not {error:g}")
    kernel = jnp.asarray(kernel)
    zero = jnp.zeros((), kernel.dtype)
    wide = zero + 3**0.5 * error
    return Hierarchy(
        PSFWidthModel(hierarchy.build, kernel), {**hierarchy.start, "log_width": zero},
        {**hierarchy.lower, "log_width": -wide}, {**hierarchy.upper, "log_width": wide},
    )  # fmt: skip


def _predicted_variance(post: Posterior, likelihood: likelihoods.Gaussian) -> Float[Array, ""]:
    """Prior variance of a datum in the middle of the frame, for the image alone."""
    system = post.linear_gaussian()
    assert system is not None
    covariance = without_constants(system.covariance).operator
    signal = compose(system.operator, covariance, Adjoint(system.operator))
    shape = likelihood.data.shape
    middle = tuple(n // 2 for n in shape)
    return signal(jnp.zeros(shape, likelihood.data.dtype).at[middle].set(1))[middle]


def _scatter(likelihood: likelihoods.Gaussian) -> Float[Array, ""]:
    """Variance of the valid data beyond the noise, at least a tenth of it."""
    weight = jnp.ones_like(likelihood.data) if likelihood.valid is None else likelihood.valid
    n = jnp.sum(weight)
    mean = jnp.sum(weight * likelihood.data) / n
    noise = jnp.sum(weight * likelihood.noise.operator(jnp.ones_like(likelihood.data))) / n
    return jnp.maximum(jnp.sum(weight * (likelihood.data - mean) ** 2) / n - noise, 0.1 * noise)
