"""A linear problem with sparse terms, taken apart for splitting methods.

``y = R C (x_1 + ... + x_n) + levels + noise``, C a circular convolution on the latent grid and R with disjoint rows
(border, mask, block sums, units), and ``-log p(x) = sum_j g_j(W_j x)``. Everything that a PSF, a mask and a block sum
do is then a product in Fourier space or a product of data: nothing is solved iteratively inside a step.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PyTree

from invprob import likelihoods
from invprob.covariance import Diagonal
from invprob.errors import CapabilityError
from invprob.operators import (
    AbstractLinearOperator,
    BlockDiagonal,
    Broadcast,
    Part,
    Sum,
    compose,
    split_convolution,
)
from invprob.operators.base import LinearComposition, Structure
from invprob.optimize.solvers.terms import picked, planes_of
from invprob.posterior import Posterior
from invprob.priors.capabilities import AbstractPrior, HasParts, HasPrecision, HasProx, HasTerms, require

EDGE = 0.15
"""Share of the mean of a term's spectrum that is added to it where the term is not circulant (the starlet with zeros
outside the grid): at the border its low frequencies answer more strongly than in the middle."""


class Levels(eqx.Module):
    """Numbers added to all data, such as a sky level, with Gaussian priors.

    Parameters
    ----------
    keys
        Their names in the latent dictionary.
    mean, variance
        Of their priors, one row each.
    """

    keys: tuple[str, ...] = eqx.field(static=True)
    mean: Float[Array, " n"]
    variance: Float[Array, " n"]

    def best(self, residual: Float[Array, ...], weight: Float[Array, ...]) -> Float[Array, ""]:
        """The sum of the levels that minimizes ``weight (residual - sum)^2 / 2`` and their priors."""
        # several levels only differ by their priors: the sum has the summed means and variances
        mean, variance = jnp.sum(self.mean), jnp.sum(self.variance)
        return (jnp.sum(weight * residual) * variance + mean) / (jnp.sum(weight) * variance + 1)

    def shares(self, level: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
        """The sum divided among the levels, each in proportion to its prior variance."""
        parts = self.mean + (level - jnp.sum(self.mean)) * self.variance / jnp.sum(self.variance)
        return dict(zip(self.keys, parts, strict=True))


class DataTerm(eqx.Module):
    """``g(u) = 1/2 (y - R u - level).T N^-1 (y - R u - level)``, minimized over the level, with its exact prox.

    Parameters
    ----------
    R
        From the convolved image to the data; its rows are disjoint.
    data
        Data y, zero where not valid.
    weight
        Inverse variance, zero where not valid.
    gram
        The diagonal of ``R R.T``.
    levels
        None where there are none.
    """

    R: AbstractLinearOperator
    data: Float[Array, ...]
    weight: Float[Array, ...]
    gram: Float[Array, ...]
    levels: Levels | None

    def prox(self, z: Float[Array, "y x"], rho: Float[Array, ""]) -> Float[Array, "y x"]:
        """``argmin_u g(u) + rho |u - z|^2 / 2``, exact for a mask (w = 0), any variance, border and block sums.

        With the multipliers ``lambda = N^-1 (y - R u)`` it is ``u = z + R.T lambda / rho``, and since ``R R.T`` is
        diagonal ``lambda = w' (y - R z)`` with ``w' = w rho / (rho + w diag(R R.T))``.
        """
        residual, weight = self._residual(z, rho)
        return z + self.R.adjoint((weight / rho) * residual)

    def level(self, z: Float[Array, "y x"], rho: Float[Array, ""]) -> Float[Array, ""]:
        """The sum of the levels at the prox of z; zero where there are none."""
        if self.levels is None:
            return jnp.zeros((), z.dtype)
        return self.levels.best(self.data - self.R.apply(z), self._weight(rho))

    def pull(self, u: Float[Array, "y x"]) -> Float[Array, "y x"]:
        """``R.T N^-1 (y - R u)``, minus the gradient, at the best level for u."""
        residual = self.data - self.R.apply(u)
        level = 0 if self.levels is None else self.levels.best(residual, self.weight)
        return self.R.adjoint(self.weight * (residual - level))

    def _weight(self, rho):
        return self.weight * (rho / (rho + self.weight * self.gram))

    def _residual(self, z, rho):
        residual, weight = self.data - self.R.apply(z), self._weight(rho)
        return residual if self.levels is None else residual - self.levels.best(residual, weight), weight


class Term(eqx.Module):
    """One ``g(W x)`` with the spectrum of ``W.T W``.

    Parameters
    ----------
    W, g
        Linear map of the images, and a prior with a prox.
    spectrum
        Diagonal of ``W.T W`` in Fourier space for each image, planes first where each plane has its own penalty.
    exact
        Whether ``W.T W`` is circulant, so that the spectrum stands for it.
    planes
        Whether the planes of the output have a penalty each; only a separable g allows it.
    leaf
        Which image W is, unchanged: then the split variable is that image, with its exact zeros. Else None.
    """

    W: AbstractLinearOperator
    g: HasProx
    spectrum: tuple[Float[Array, "p ky kx"], ...]
    exact: bool = eqx.field(static=True)
    planes: int = eqx.field(static=True)
    leaf: int | None = eqx.field(static=True)

    def spread(self, rho: Float[Array, " p"]) -> Float[Array, ...]:
        """Penalties as a factor of the output."""
        return rho[:, None, None] if self.planes > 1 else rho[0]

    def norms(self, u: Array) -> Float[Array, " p"]:
        """Sum of squares over each plane."""
        return jnp.sum(u**2, axis=(-2, -1)) if self.planes > 1 else jnp.sum(u**2)[None]


class Split(eqx.Module):
    """A linear posterior with sparse terms, taken apart.

    Parameters
    ----------
    data
        The likelihood as a function of the convolved image.
    otf
        Transfer function of the convolution.
    terms
        The prior.
    images
        Structure of the images, all of one shape.
    shape
        Shape of an image.
    key
        Name of the images in the latent dictionary; None where the latent is the images alone.
    """

    data: DataTerm
    otf: Complex[Array, "ky kx"]
    terms: tuple[Term, ...]
    images: Structure
    shape: tuple[int, int] = eqx.field(static=True)
    key: str | None = eqx.field(static=True)

    @property
    def power(self) -> Float[Array, "ky kx"]:
        """``|otf|^2``."""
        return jnp.real(self.otf) ** 2 + jnp.imag(self.otf) ** 2

    def convolved(self, X: PyTree) -> Float[Array, "y x"]:
        """The convolved sum of images given in Fourier space."""
        first, *rest = jax.tree.leaves(X)
        return jnp.fft.irfft2(self.otf * sum(rest, start=first), s=self.shape)

    @property
    def curvature(self) -> Float[Array, ""]:
        """Mean curvature of the likelihood in a pixel of the convolved image, over the pixels that are seen."""
        seen = jnp.sum(self.data.weight > 0)
        return jnp.sum(self.data.weight) / jnp.maximum(seen, 1)

    def latent(self, images: PyTree, level: Float[Array, ""]) -> PyTree:
        """The latent pytree of images and the sum of the levels."""
        if self.key is None:
            return images
        assert self.data.levels is not None
        return {self.key: images, **self.data.levels.shares(level)}

    def images_of(self, x: PyTree) -> PyTree:
        """The images of a latent pytree."""
        return x if self.key is None else x[self.key]


class SeparatedConvolution(eqx.Module):
    """A linear posterior with the convolution apart from the rest of the forward operator.

    Parameters
    ----------
    data
        The likelihood as a function of the convolved image.
    otf
        Transfer function of the convolution.
    prior
        Prior of the images.
    images
        Structure of the images, all of one shape.
    shape
        Shape of an image.
    key
        Name of the images in the latent dictionary; None where the latent is the images alone.
    """

    data: DataTerm
    otf: Complex[Array, "ky kx"]
    prior: AbstractPrior
    images: Structure
    shape: tuple[int, int] = eqx.field(static=True)
    key: str | None = eqx.field(static=True)


def separate_convolution(post: Posterior, needed_by: str, instead: str) -> SeparatedConvolution:
    """The convolution of a posterior apart from the border, mask, block sums and levels behind it.

    Raises
    ------
    CapabilityError
        When the forward operator or the noise is not of that form: says what the algorithm ``needed_by`` needs, and
        what to take ``instead``.
    """
    like = post.likelihood
    if not isinstance(like, likelihoods.Gaussian) or not isinstance(like.noise, Diagonal):
        raise CapabilityError(f"{needed_by} needs Gaussian noise with a Diagonal covariance; {instead}")
    operator, prior, key, levels = _without_levels(like.operator, post.prior)
    *left, last = operator.operators if isinstance(operator, LinearComposition) else (operator,)
    images = operator.in_structure
    if isinstance(last, Sum) and left:
        operator = compose(*left)
    found = split_convolution(operator) if isinstance(operator, AbstractLinearOperator) else None
    if found is None:
        raise CapabilityError(f"{needed_by} needs a convolution behind a mask, a border or block sums; {instead}")
    R, circular = found
    weight = like.noise.inv(jnp.ones_like(like.data))
    gram = R.apply(R.adjoint(jnp.ones_like(like.data)))
    return SeparatedConvolution(
        DataTerm(R, like.data, weight, gram, levels), circular.otf, prior, images, circular.shape, key
    )


def split(post: Posterior) -> Split:
    """A posterior taken apart.

    Raises
    ------
    CapabilityError
        When the forward operator, the noise or the prior is not of the form above; says which.
    """
    found = separate_convolution(post, "ADMM", "primal-dual steps (pdhg) take any linear operator and noise")
    terms = require(found.prior, HasTerms, "splits of ADMM").terms
    dtype = found.data.data.dtype
    made = tuple(_term(W, g, found.images, found.shape, dtype) for W, g in terms)
    return Split(found.data, found.otf, made, found.images, found.shape, found.key)


def _without_levels(operator: Any, prior: AbstractPrior) -> tuple[Any, AbstractPrior, str | None, Levels | None]:
    """Operator and prior of the images alone, their key, and the levels."""
    parts = operator.operators if isinstance(operator, LinearComposition) else (operator,)
    if len(parts) != 2 or not isinstance(parts[0], Sum) or not isinstance(parts[1], BlockDiagonal):
        return operator, prior, None, None
    each = parts[1].operators
    whole = prior.find(HasParts)
    named = None if whole is None else whole.parts
    if not isinstance(each, dict) or not isinstance(named, dict):
        return operator, prior, None, None
    keys = tuple(name for name, part in each.items() if isinstance(part, Broadcast))
    others = [name for name in each if name not in keys]
    gaussians = [named[name].find(HasPrecision) for name in keys]
    if len(others) != 1 or not keys or any(g is None or not isinstance(g.covariance, Diagonal) for g in gaussians):
        return operator, prior, None, None
    mean = jnp.stack([g.mean for g in gaussians])
    variance = jnp.stack([g.covariance.variance for g in gaussians])
    return each[others[0]], named[others[0]], others[0], Levels(keys, mean, variance)


def _term(W: AbstractLinearOperator, g: HasProx, images: Structure, shape: tuple[int, int], dtype) -> Term:
    planes = planes_of(W, g)
    leaves = [jnp.zeros(shape, dtype) for _ in images.leaves]
    leaf = picked(W)
    if isinstance(leaf, int):
        one = tuple(jnp.full((1, 1, 1), float(i == leaf), dtype) for i in range(len(leaves)))
        return Term(W, g, one, True, 1, leaf)
    spectrum = []
    for i in range(len(leaves)):
        impulse = leaves[i].at[shape[0] // 2, shape[1] // 2].set(1)
        seen = W.apply(images.treedef.unflatten([*leaves[:i], impulse, *leaves[i + 1 :]]))
        if planes == 1:
            spectrum.append(_symbol(jax.tree.leaves(W.adjoint(seen))[i])[None])
            continue

        def of_plane(p, i=i, seen=seen):
            only = jnp.where((jnp.arange(planes) == p)[:, None, None], seen, 0)
            return _symbol(jax.tree.leaves(W.adjoint(only))[i])

        spectrum.append(jax.lax.map(of_plane, jnp.arange(planes)))  # a loop: unrolled it takes seconds to compile
    exact = _of_part(W).normal_is_circulant
    if not exact:
        spectrum = [s + EDGE * jnp.mean(s, axis=(-2, -1), keepdims=True) for s in spectrum]
    return Term(W, g, tuple(spectrum), exact, planes, None)


def _of_part(W: AbstractLinearOperator) -> AbstractLinearOperator:
    """W without the choice of an image that it begins with."""
    parts = W.operators if isinstance(W, LinearComposition) else (W,)
    rest = [part for part in parts if not isinstance(part, Part)]
    return compose(*rest) if rest else W


def _symbol(response: Float[Array, "y x"]) -> Float[Array, "ky kx"]:
    """Spectrum of a symmetric response to an impulse in the middle of the grid; rounding may not make it negative."""
    middle = tuple(-(n // 2) for n in response.shape)
    return jnp.maximum(jnp.real(jnp.fft.rfft2(jnp.roll(response, middle, (0, 1)))), 0)


__all__ = ["DataTerm", "Levels", "SeparatedConvolution", "Split", "Term", "separate_convolution", "split"]
