"""Posterior predictive checks whose distribution is known: the residuals of draws are white noise.

With the truth from the prior and the data from the truth, a draw x of the posterior and the data y have the joint
distribution of the model: given x, ``y ~ N(F(x), N)``. So the whitened residual ``r = N^-1/2 (y - F(x))`` of one draw
is exactly white noise of unit variance, whatever the prior, and not too small by the degrees of freedom of a fit. A
sampler that ignores the data, which the ranks do not notice, fails here.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.errors import CapabilityError, UsageError
from invprob.likelihoods import Gaussian
from invprob.posterior import Posterior


class Residuals(eqx.Module):
    """The checks of one case.

    Parameters
    ----------
    chi2
        Sum of r^2 for one draw: chi-square of ``num_data`` degrees of freedom.
    num_data
        Number of valid data.
    lag
        Sum of ``r_p r_q`` over neighbours p and q for one draw: mean zero, and variance ``num_pairs``.
    num_pairs
        Number of pairs of valid neighbours.
    scores
        By name, the mean over the draws of ``<r, d> / |d|`` for a direction d: mean zero. That of one draw is N(0, 1).
    """

    chi2: Float[Array, ""]
    num_data: Array | int
    lag: Float[Array, ""]
    num_pairs: Array
    scores: dict[str, Float[Array, ""]]


def gaussian(post: Posterior) -> Gaussian:
    """The likelihood of a posterior, which has to be Gaussian.

    Raises
    ------
    CapabilityError
        Where it is not.
    """
    if not isinstance(post.likelihood, Gaussian):
        raise CapabilityError(
            f"calibration needs a Gaussian likelihood, whose data can be replaced and whose residuals are white noise; "
            f"this one is {type(post.likelihood).__name__}"
        )
    return post.likelihood


def with_data(post: Posterior, data: Float[Array, ...]) -> Posterior:
    """The same posterior for other data.

    Parameters
    ----------
    post
        Posterior with a Gaussian likelihood.
    data
        Data of the same shape, zero where not valid, as `simulate` gives them.

    Raises
    ------
    CapabilityError
        When the likelihood is not Gaussian.
    UsageError
        When the shape differs.
    """
    given, needed = jnp.shape(data), gaussian(post).data.shape
    if given != needed:
        raise UsageError(f"data of shape {given} were given to a likelihood of data of shape {needed}: they must agree")
    return eqx.tree_at(lambda p: p.likelihood.data, post, data)


def residual_checks(post: Posterior, draws: PyTree) -> Residuals:
    """The checks for one set of data and its draws.

    Chi-square and the correlation of neighbours take the last draw. The scores are means over all draws, in which the
    scatter of the draws cancels: ``<r, d>`` is the derivative of ``log p(y | x)`` along d, and its mean over the
    posterior that of the evidence (Fisher's identity), the most powerful statistic for a small error of the forward
    model. Divided by the length of d it weights all cases alike, and is near to normal. A wrong noise variance or prior
    shifts the scores too: which error is the likely one is the most significant check.

    Parameters
    ----------
    post
        Posterior with the data.
    draws
        Draws of the latent pytree along a leading axis.
    """
    likelihood = gaussian(post)
    whiten = likelihood.noise.inv_sqrt

    def one(x):
        model = likelihood.operator(x)
        r = whiten(likelihood.data - model)
        scores = {name: _along(r, whiten(d)) for name, d in directions(model).items()}
        return r, scores

    residual, scores = jax.vmap(one)(draws)
    last = residual[-1]
    valid = jnp.ones(last.shape, bool) if likelihood.valid is None else likelihood.valid
    weight = valid.astype(last.dtype)
    means = {name: jnp.mean(values) for name, values in scores.items()}
    return Residuals(jnp.sum(last**2), likelihood.num_data, _neighbours(last), _neighbours(weight), means)


def directions(model: Float[Array, ...]) -> dict[str, Float[Array, ...]]:
    """How some errors of the forward model change its prediction, by name, to first order.

    A wider PSF blurs the prediction a little more, which changes it along its Laplacian (heat equation); a shift
    changes it along its gradient.

    Parameters
    ----------
    model
        Noiseless data; the last two axes are y and x. A vector has no PSF and no shift.
    """
    found = {"gain": model, "sky level": jnp.ones_like(model)}
    if model.ndim < 2:
        return found
    width = [(0, 0)] * (model.ndim - 2) + [(1, 1), (1, 1)]
    m = jnp.pad(model, width, mode="edge")
    up, down, left, right = m[..., :-2, 1:-1], m[..., 2:, 1:-1], m[..., 1:-1, :-2], m[..., 1:-1, 2:]
    found["PSF width"] = up + down + left + right - 4 * model
    found["shift y"], found["shift x"] = (down - up) / 2, (right - left) / 2
    return found


def _along(r: Float[Array, ...], d: Float[Array, ...]) -> Float[Array, ""]:
    length = jnp.sqrt(jnp.sum(d**2))
    return jnp.sum(r * d) / jnp.maximum(length, jnp.finfo(r.dtype).tiny)


def _neighbours(a: Float[Array, ...]) -> Float[Array, ""]:
    """Sum of the products of neighbours along the last two axes."""
    along = [jnp.sum(a[..., 1:] * a[..., :-1])] if a.ndim else []
    if a.ndim > 1:
        along.append(jnp.sum(a[..., 1:, :] * a[..., :-1, :]))
    return sum(along, jnp.zeros((), a.dtype))
