"""Coordinates in which a posterior is near to white noise, for samplers.

A circulant covariance fits the middle of the frame and nothing else: in the border around it, in holes of the mask and
wherever the noise differs, the data say less, and along those pixels the posterior is as wide as the prior. `Blend` is
stationary place by place. On the 64-pixel scene of the benchmarks it takes the condition number of the posterior from
1100 (whitened by the prior, or by a circulant covariance) to 10.
"""

from __future__ import annotations

from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob import likelihoods
from invprob.covariance import AbstractCovariance, Blocks, Diagonal, Stationary, white
from invprob.errors import CapabilityError
from invprob.operators import BlockDiagonal, Multiply
from invprob.operators.base import AbstractLinearOperator, Structure, compose, total
from invprob.operators.fourier import half_shape
from invprob.optimize.find_map import solve
from invprob.optimize.loop import iterate_pure
from invprob.optimize.solvers import NewtonCG
from invprob.posterior import Posterior
from invprob.priors.capabilities import (
    AbstractPrior,
    HasLogProb,
    HasPrecision,
    HasScore,
    HasTerms,
    HasTransform,
    require,
)

FLOOR = 1e-3  # of the information at which data and prior weigh the same: what is below it is the prior alone
PROBES = 64  # random vectors behind the diagonal of the Fisher matrix: good to a fifth, plenty for its logarithm
UNKNOWN = 1e-6  # of the information of the data: the precision of a prior of which nothing is known
RIDGE = 1e-2  # of the mean precision of a sparse prior, where it leaves modes free


class Blend(AbstractLinearOperator):
    """From white noise to an image: stationary fields, each seen through a window, ``x = sum_i d_i F^-1 r_i F c``.

    Parameters
    ----------
    windows
        The windows d, which add up to one everywhere.
    roots
        Square roots r of the power spectra on the rfft2 grid.
    """

    windows: Float[Array, "k y x"]
    roots: Float[Array, "k ky kx"]

    @property
    def in_structure(self):
        return Structure(self.windows.shape[1:])

    @property
    def out_structure(self):
        return Structure(self.windows.shape[1:])

    def apply(self, x):
        fields = jnp.fft.irfft2(self.roots * jnp.fft.rfft2(x), s=x.shape)
        return jnp.sum(self.windows * fields, axis=0)

    def adjoint(self, u):
        seen = jnp.fft.rfft2(self.windows * u)
        return jnp.fft.irfft2(jnp.sum(self.roots * seen, axis=0), s=u.shape)


def local_blend(
    power: Float[Array, "ky kx"],
    response: Float[Array, "ky kx"],
    level: Float[Array, ""],
    share: Float[Array, "y x"],
) -> Blend:
    """Root of the posterior covariance of a stationary field, with and without the data, by how much they say where.

    Parameters
    ----------
    power
        Power spectrum of the prior.
    response
        Power response of the forward operator, one at frequency zero.
    level
        Curvature of the likelihood along a constant, where the data are.
    share
        Information of the data at each pixel, as a share of the largest.

    Notes
    -----
    With s the share and ``s0 = FLOOR / (level max(power response))`` the window of the prior goes linearly in ``log s``
    from one at s0 to zero at one.
    """
    tiny = jnp.finfo(power.dtype).tiny
    low = jnp.clip(FLOOR / jnp.maximum(level * jnp.max(power * response), tiny), 1e-12, 0.5)
    seen = jnp.clip(1 - jnp.log(jnp.maximum(share, low)) / jnp.log(low), 0, 1)
    roots = jnp.stack([jnp.sqrt(power), jnp.sqrt(1 / (1 / power + level * response))])
    return Blend(jnp.stack([1 - seen, seen]), roots)


def information(operator: AbstractLinearOperator, weight: AbstractLinearOperator, dtype) -> PyTree:
    """The diagonal of ``A.T N^-1 A``, estimated with random signs (Bekas, Kokiopoulou & Saad 2007, APNUM 57, 1214)."""
    shape = operator.out_structure.shape

    def probe(key):
        signs = jax.random.rademacher(key, shape, dtype)
        return jax.tree.map(jnp.square, operator.adjoint(weight.apply(signs)))

    squares = jax.lax.map(probe, jax.random.split(jax.random.key(0), PROBES))
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), squares)


def posterior_root(
    operator: AbstractLinearOperator, noise: AbstractCovariance, precisions: PyTree, dtype
) -> AbstractLinearOperator:
    """A root of the posterior covariance, approximately: one operator for each array of the latent pytree.

    Parameters
    ----------
    operator
        Linear (or linearized) forward operator.
    noise
        Covariance of the noise.
    precisions
        Prior precision of each array: on the rfft2 grid for an image, else one for each number.
    """
    structure = operator.in_structure
    middle = tuple(n // 2 for n in operator.out_structure.shape)
    datum = jnp.zeros(operator.out_structure.shape, dtype).at[middle].set(1)
    rows = jax.tree.leaves(operator.adjoint(datum))
    known = jax.tree.leaves(information(operator, noise.inv_sqrt, dtype))
    roots = []
    for i, prior in enumerate(jax.tree.leaves(precisions)):
        prior = jnp.maximum(prior, UNKNOWN * jnp.max(known[i]))
        if rows[i].ndim != 2:
            roots.append(Multiply(jax.lax.rsqrt(prior + known[i])))
            continue
        ones = [jnp.full_like(row, float(i == j)) for j, row in enumerate(rows)]
        seen = operator.adjoint(noise.inv.apply(operator.apply(structure.treedef.unflatten(ones))))
        curvature = jnp.maximum(jax.tree.leaves(seen)[i], 0)
        level = jnp.sum(curvature**2) / jnp.maximum(jnp.sum(curvature), jnp.finfo(dtype).tiny)
        response = jnp.abs(jnp.fft.rfft2(rows[i])) ** 2
        share = known[i] / jnp.maximum(jnp.max(known[i]), jnp.finfo(dtype).tiny)
        roots.append(local_blend(1 / prior, response / response[0, 0], level, share))
    if len(roots) == 1 and structure.treedef == jax.tree.structure(0):
        return roots[0]
    return BlockDiagonal(structure.treedef.unflatten(roots))


def prior_precisions(prior: AbstractPrior, dtype) -> PyTree:
    """The precision of a prior for each array of its latent, as `posterior_root` takes it; of a sparse one a stand-in.

    A norm with the scale b has the Fisher information ``1 / b^2`` along each coefficient, wherever it is not zero. A
    Gaussian of that precision on the same coefficients has the right scale at each frequency, which is all that
    coordinates need.

    Raises
    ------
    CapabilityError
        When the prior is neither Gaussian nor a sum of terms.
    """
    gaussian = prior.find(HasPrecision)
    if gaussian is not None:
        return _of_covariance(gaussian.covariance)
    terms = require(prior, HasTerms, "coordinates of what is not Gaussian").terms
    shapes = [shape for shape, _ in prior.structure.leaves]
    leaves = [jnp.zeros(shape, dtype) for shape in shapes]
    found = []
    for i, shape in enumerate(shapes):
        middle = tuple(n // 2 for n in shape)
        impulse = prior.structure.treedef.unflatten([*leaves[:i], leaves[i].at[middle].set(1), *leaves[i + 1 :]])
        row = total([jax.tree.leaves(W.adjoint(g.stiffness(W.apply(impulse))))[i] for W, g in terms])
        if len(shape) == 2:
            spectrum = jnp.abs(jnp.real(jnp.fft.rfft2(jnp.roll(row, tuple(-m for m in middle), (0, 1)))))
            found.append(spectrum + RIDGE * jnp.mean(spectrum))
        else:
            found.append(jnp.full(shape, row[middle]))
    return prior.structure.treedef.unflatten(found)


def score_precisions(prior: HasScore, x: PyTree) -> PyTree:
    """The precision of a prior that is known by its score, for each array of its latent, as `posterior_root` takes it.

    The curvature of the density at x along each Fourier mode, or each number, estimated with random vectors. Where the
    density is not log-concave it is taken by its size.
    """
    leaves, treedef = jax.tree.flatten(x)

    def probe(key):
        v = white(key, prior.structure, leaves[0].dtype)
        bent = jax.jvp(prior.score, (x,), (v,))[1]
        return [
            -jnp.real(jnp.conj(jnp.fft.rfft2(a)) * jnp.fft.rfft2(b)) / a.size if a.ndim == 2 else -a * b
            for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(bent), strict=True)
        ]

    found = [jnp.abs(jnp.mean(a, axis=0)) for a in jax.lax.map(probe, jax.random.split(jax.random.key(0), PROBES))]
    return treedef.unflatten([_smooth(a) if leaf.ndim == 2 else a for a, leaf in zip(found, leaves, strict=True)])


def _smooth(spectrum: Array) -> Array:
    """Mean over the neighbours of each frequency, which have much the same."""
    wide = jnp.pad(spectrum, 1, mode="edge")
    ny, nx = spectrum.shape
    return total([wide[i : i + ny, j : j + nx] for i in range(3) for j in range(3)]) / 9


def _of_covariance(covariance: AbstractCovariance) -> PyTree:
    if isinstance(covariance, Blocks):
        return jax.tree.map(_of_covariance, covariance.parts, is_leaf=lambda n: isinstance(n, AbstractCovariance))
    if isinstance(covariance, Stationary):
        return 1 / covariance.power
    assert isinstance(covariance, Diagonal)
    shape = covariance.structure.shape
    if len(shape) != 2:
        return 1 / covariance.variance
    return jnp.full(half_shape(shape), jnp.mean(1 / covariance.variance))  # type: ignore[arg-type]


class Unconstrained(eqx.Module):
    """A posterior as the density of unbounded coordinates u, ``x = constrain(u)``, with the Jacobian.

    Parameters
    ----------
    posterior
        Posterior of x.
    unit
        Distance from the bounds within which the coordinates bend, in the unit of x.
    """

    posterior: Posterior
    unit: Float[Array, ""]

    def latent(self, z: PyTree) -> PyTree:
        """x."""
        return self.posterior.prior.constrain(z, self.unit)

    def log_prob(self, z: PyTree) -> Float[Array, ""]:
        """Log-density of u."""
        return self.posterior.log_prob(self.latent(z)) + self.posterior.prior.log_jacobian(z, self.unit)


class Density(Protocol):
    """A posterior as the density of some z."""

    def latent(self, z: PyTree, /) -> PyTree:
        """x."""
        ...

    def log_prob(self, z: PyTree, /) -> Float[Array, ""]:
        """Log-density of z."""
        ...


class Coordinates(eqx.Module):
    """A posterior in coordinates c that are near to white noise: ``z = origin + T c``, and x from z.

    Parameters
    ----------
    density
        Density of z, with ``log_prob`` and ``latent``.
    T, origin
        The linear map, and where c is zero.
    """

    density: Density
    T: AbstractLinearOperator
    origin: PyTree

    def latent(self, c: PyTree) -> PyTree:
        """x."""
        return self.density.latent(self._z(c))

    def log_prob(self, c: PyTree) -> Float[Array, ""]:
        """Log-density of c, up to a constant."""
        return self.density.log_prob(self._z(c))

    def _z(self, c):
        return jax.tree.map(jnp.add, self.origin, self.T.apply(c))


def coordinates(post: Posterior, max_steps: int = 2000) -> Coordinates:
    """The coordinates for a posterior with a log-density, around its maximum.

    A prior that is Gaussian or a sum of terms is sampled in x, unbounded where it has bounds; one that is pushed from
    white noise, in that noise.

    Raises
    ------
    CapabilityError
        When the prior has no log-density, or the likelihood is not Gaussian.
    """
    like, prior = post.likelihood, post.prior
    require(prior, HasLogProb, "proposals")
    if not isinstance(like, likelihoods.Gaussian):
        raise CapabilityError(f"these coordinates need a Gaussian likelihood, not {type(like).__name__}")
    dtype = like.data.dtype
    operator = like.operator
    if isinstance(operator, AbstractLinearOperator) and (
        prior.find(HasPrecision) is not None or prior.find(HasTerms) is not None
    ):
        x = solve(post, max_steps=max_steps).x
        T = posterior_root(operator, like.noise, prior_precisions(prior, dtype), dtype)
        unit = _typical(T, dtype)
        return Coordinates(Unconstrained(post, unit), T, prior.unconstrain(x, unit))
    require(prior, HasTransform, "coordinates of what is neither Gaussian nor a sum of terms")
    newton = NewtonCG()
    whitened = newton.prepare(post)
    state = iterate_pure(newton, whitened, newton.init(whitened, None), max_steps)
    seen = compose(operator, whitened.T).linearize(state.x)
    structure = whitened.structure.like(dtype)
    flat = jax.tree.map(lambda s: jnp.ones(half_shape(s.shape) if len(s.shape) == 2 else s.shape, dtype), structure)
    return Coordinates(whitened, posterior_root(seen, like.noise, flat, dtype), state.x)


def _typical(T: AbstractLinearOperator, dtype) -> Float[Array, ""]:
    """Standard deviation of the elements of T c, c white; of the first array."""
    c = white(jax.random.key(1), T.in_structure, dtype)
    return jnp.sqrt(jnp.mean(jnp.square(jax.tree.leaves(T.apply(c))[0])))
