"""The posterior: a likelihood and a prior, its changes of coordinates, and its hyperparameters."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob import likelihoods
from invprob.covariance import AbstractCovariance
from invprob.errors import UsageError
from invprob.likelihoods.base import AbstractLikelihood
from invprob.operators.base import (
    AbstractLinearOperator,
    AbstractOperator,
    Structure,
    compose,
    vdot,
)
from invprob.priors.capabilities import AbstractPrior, HasLogProb, HasPrecision, HasScore, HasTransform, require


class Posterior(eqx.Module):
    """``p(x | data) ∝ p(data | F(x)) p(x)``.

    Parameters
    ----------
    likelihood
        Likelihood with its forward operator and data.
    prior
        Prior on the latent pytree that the operator takes.
    """

    likelihood: AbstractLikelihood
    prior: AbstractPrior

    def __check_init__(self):
        takes, has = self.likelihood.operator.in_structure, self.prior.structure
        if not takes.matches(has):
            raise ValueError(f"the forward operator takes {takes}, the prior describes {has}: the shapes must agree")

    @property
    def structure(self) -> Structure:
        """Structure of the latent pytree."""
        return self.prior.structure

    def log_prob(self, x: PyTree) -> Float[Array, ""]:
        """Log-density at x, up to the evidence (and the prior's constant where it is not normalized)."""
        return self.likelihood.log_prob(x) + require(self.prior, HasLogProb, "densities of a posterior").log_prob(x)

    def score(self, x: PyTree) -> PyTree:
        """Gradient of the log-density at x."""
        score = require(self.prior, HasScore, "scores of a posterior").score
        return jax.tree.map(jnp.add, jax.grad(self.likelihood.log_prob)(x), score(x))

    def chi2(self, x: PyTree) -> Float[Array, ""]:
        """Sum of the squared residuals in sigmas over the valid data."""
        return self.likelihood.chi2(x)

    def precision(self, x: PyTree, at: PyTree = None) -> PyTree:
        """``(J.T N^-1 J + S^-1) x``: the precision of a Gaussian prior after the data.

        Parameters
        ----------
        x
            Direction.
        at
            Where a non-linear operator is linearized; not needed for a linear one.
        """
        gaussian = require(self.prior, HasPrecision, "constant precisions")
        if at is None and not isinstance(self.likelihood.operator, AbstractLinearOperator):
            raise UsageError("the precision of a non-linear operator depends on the point: give `at`")
        fisher = self.likelihood.fisher(x if at is None else at)
        return jax.tree.map(jnp.add, fisher(x), gaussian.covariance.inv(x))

    def linear_gaussian(self) -> LinearGaussian | None:
        """The linear-Gaussian system of this posterior, None where it is not one."""
        gaussian, like = self.prior.find(HasPrecision), self.likelihood
        if gaussian is None or not isinstance(like, likelihoods.Gaussian):
            return None
        if not isinstance(like.operator, AbstractLinearOperator):
            return None
        return LinearGaussian(like.operator, like.data, like.noise, gaussian.offset, gaussian.covariance)

    def pullback(self, T: AbstractOperator) -> Pullback:
        """The posterior in coordinates c, ``x = T(c)``; for a linear T the density only changes by a constant."""
        return Pullback(self, T)

    def whiten(self) -> Whitened:
        """The posterior in the coordinates in which the prior is N(0, I)."""
        return Whitened(self, require(self.prior, HasTransform, "white coordinates").transform)


class Pullback(eqx.Module):
    """A posterior as a function of other coordinates.

    The Jacobian of T is left out: for a T that is not affine this is to be maximized, not sampled.
    """

    posterior: Posterior
    T: AbstractOperator

    @property
    def structure(self) -> Structure:
        """Structure of the coordinates."""
        return self.T.in_structure

    def log_prob(self, c: PyTree) -> Float[Array, ""]:
        """Log-density of ``T(c)`` under the posterior, as a function of c."""
        return self.posterior.log_prob(self.T(c))


class Whitened(eqx.Module):
    """A posterior as the density of white coordinates xi, ``x = T(xi)``, ``xi ~ N(0, I)`` under the prior.

    ``log p(xi | data) = log p(data | F(T(xi))) - |xi|^2 / 2 - n/2 log 2 pi`` up to the evidence, exact for every T. Its
    maximum is not that of the density of x where T is not affine.

    Parameters
    ----------
    posterior
        Posterior of x.
    T
        From white noise to the prior.
    """

    posterior: Posterior
    T: AbstractOperator

    @property
    def structure(self) -> Structure:
        """Structure of the coordinates."""
        return self.T.in_structure

    def latent(self, xi: PyTree) -> PyTree:
        """``x = T(xi)``."""
        return self.T(xi)

    def log_prob(self, xi: PyTree) -> Float[Array, ""]:
        """Log-density at xi, up to the evidence."""
        n = sum(a.size for a in jax.tree.leaves(xi))
        return self.posterior.likelihood.log_prob(self.T(xi)) - 0.5 * (vdot(xi, xi) + n * jnp.log(2 * jnp.pi))


class LinearGaussian(eqx.Module):
    """Data ``y = A u + n`` with Gaussian n and u, for the deviation ``u = x - mean`` from the prior's mean.

    Parameters
    ----------
    operator
        Linear forward operator A.
    data
        Data, zero where not valid.
    noise, covariance
        Covariances N of the noise and S of u.
    mean
        Mean of the prior, None for zero.
    """

    operator: AbstractLinearOperator
    data: Array
    noise: AbstractCovariance
    mean: PyTree | None
    covariance: AbstractCovariance

    @property
    def centred(self) -> Array:
        """y, the data less the prediction of the prior's mean."""
        return self.data if self.mean is None else self.data - self.operator.apply(self.mean)

    def shifted(self, u: PyTree) -> PyTree:
        """``x = mean + u``."""
        return u if self.mean is None else jax.tree.map(jnp.add, self.mean, u)

    @property
    def precision(self) -> Precision:
        """``A.T N^-1 A + S^-1`` as an operator, with the inverses computed once."""
        return Precision(self.operator, self.noise.inv, self.covariance.inv)

    def right_hand_side(self) -> PyTree:
        """``A.T N^-1 y``."""
        return self.operator.adjoint(self.noise.inv(self.centred))

    def null_objective(self) -> Float[Array, ""]:
        """``y.T N^-1 y / 2``, the objective at u = 0."""
        y = self.centred
        return 0.5 * vdot(y, self.noise.inv(y))

    def circulant(self) -> AbstractCovariance:
        """The posterior covariance approximated within the class of the prior's: the solver's preconditioner.

        A stationary prior gives the circulant matrix nearest to it for data that look alike everywhere (T. Chan 1988,
        SIAM J. Sci. Stat. Comput. 9, 766): one data pixel's response, at the mean weight of the frame.
        """
        weight = self.noise.inv
        out = self.operator.out_structure.shape
        middle = tuple(n // 2 for n in out)
        dtype = self.data.dtype
        row = self.operator.adjoint(jnp.zeros(out, dtype).at[middle].set(1))
        leaves, treedef = jax.tree.flatten(row)
        curvature = []
        for i in range(len(leaves)):
            ones = [jnp.full_like(leaf, float(i == j)) for j, leaf in enumerate(leaves)]
            seen = self.operator.adjoint(weight(self.operator.apply(treedef.unflatten(ones))))
            curvature.append(jax.tree.leaves(seen)[i])
        return self.covariance.updated(row, treedef.unflatten(curvature))

    def pulled_back(self, T: AbstractLinearOperator) -> LinearGaussian:
        """The system of c, ``u = T c``: the same data, centred."""
        operator = compose(self.operator, T)
        return LinearGaussian(operator, self.centred, self.noise, None, self.covariance.pulled_back(T))


class Precision(AbstractLinearOperator):
    """``A.T N^-1 A + S^-1``."""

    operator: AbstractLinearOperator
    noise_inv: AbstractLinearOperator
    prior_inv: AbstractLinearOperator

    @property
    def in_structure(self):
        return self.operator.in_structure

    @property
    def out_structure(self):
        return self.operator.in_structure

    def apply(self, x):
        data = self.operator.adjoint(self.noise_inv.apply(self.operator.apply(x)))
        return jax.tree.map(jnp.add, data, self.prior_inv.apply(x))

    def adjoint(self, u):
        return self.apply(u)


class Hierarchy(eqx.Module):
    """A posterior that depends on hyperparameters: ``theta -> Posterior``, with a hyperprior on theta.

    Choosing a strength and sampling it together with the image are two uses of this one object.

    Parameters
    ----------
    build
        From theta to the posterior given theta; a pytree (an `equinox.Module` with ``__call__``) or a function.
    start
        Pytree of the theta to begin with, in coordinates in which steps of one are natural (logarithms).
    lower, upper
        Bounds of theta, pytrees like ``start``; the hyperprior is flat between them.
    """

    build: Callable[[PyTree], Posterior]
    start: PyTree
    lower: PyTree
    upper: PyTree

    @property
    def likelihood(self) -> AbstractLikelihood:
        """The likelihood at the theta to begin with."""
        return self.build(self.start).likelihood

    @property
    def structure(self) -> Structure:
        """Structure of ``{"theta": theta, "x": x}``, what is sampled."""
        return Structure({"theta": self.start, "x": self.build(self.start).structure.tree})

    def chi2(self, latent: PyTree) -> Float[Array, ""]:
        """Sum of the squared residuals in sigmas over the valid data, at ``{"theta": theta, "x": x}``."""
        return self.build(latent["theta"]).chi2(latent["x"])

    def log_hyperprior(self, theta: PyTree) -> Float[Array, ""]:
        """Zero within the bounds, minus infinity outside."""
        inside = jax.tree.map(lambda t, a, b: (t >= a) & (t <= b), theta, self.lower, self.upper)
        return jnp.where(jnp.all(jnp.stack(jax.tree.leaves(inside))), 0.0, -jnp.inf)


__all__ = ["Hierarchy", "LinearGaussian", "Posterior", "Precision", "Pullback", "Whitened"]
