"""Which algorithm, and why: from what the forward operator, the noise and the prior can do."""

from __future__ import annotations

from typing import Any, Protocol

import equinox as eqx
import numpy as np
from jax.core import Tracer

from invprob import likelihoods
from invprob.covariance import AbstractCovariance, Diagonal, Stationary
from invprob.errors import CapabilityError
from invprob.operators import CircularConvolve, Identity
from invprob.operators.base import AbstractLinearOperator
from invprob.optimize.solvers import (
    ADMM,
    AbstractSolver,
    ConjugateGradient,
    NewtonCG,
    Optax,
    PlugAndPlay,
    PrimalDual,
    ProximalGradient,
    TwoGrid,
    Wiener,
)
from invprob.posterior import Hierarchy, Posterior
from invprob.priors.capabilities import HasLogProb, HasPrecision, HasTerms, HasTransform, offers


def _uniform(noise: AbstractCovariance) -> bool:
    if isinstance(noise, Stationary):
        return True
    if not isinstance(noise, Diagonal) or isinstance(noise.variance, Tracer):
        return False
    variance = np.asarray(noise.variance)
    everywhere = noise.valid is None or bool(np.all(noise.valid))
    return everywhere and bool(np.all(variance == variance.flat[0]))


class Prepares(Protocol):
    """A solver or a sampler."""

    def prepare(self, post: Any) -> Any:
        """The problem, or a `CapabilityError`."""


def fits(algorithm: Prepares, post: Posterior | Hierarchy) -> bool:
    """Whether a solver or a sampler takes the posterior; nothing is computed."""
    try:
        eqx.filter_eval_shape(algorithm.prepare, post)
    except CapabilityError:
        return False
    return True


def choose_solver(post: Posterior, **settings: Any) -> tuple[AbstractSolver, str]:
    """The solver for a posterior, with these settings (``rtol``), and the reason in words.

    Raises
    ------
    CapabilityError
        When the prior offers nothing that a solver here can use.
    """
    operator, prior = post.likelihood.operator, post.prior
    linear = isinstance(operator, AbstractLinearOperator)
    kind, name = "linear" if linear else "non-linear", type(prior).__name__
    if linear and isinstance(post.likelihood, likelihoods.Gaussian):
        if prior.find(HasPrecision) is not None:
            return _for_gaussian(post, settings)
        if prior.find(HasTerms) is not None:
            if fits(admm := ADMM(**settings), post):
                return admm, (
                    f"convolution, Gaussian noise and a {name} prior of terms with a prox: ADMM, one division in "
                    "Fourier space a step"
                )
            return PrimalDual(**settings), f"linear operator and a {name} prior of terms with a prox: primal-dual steps"
    if prior.find(HasTransform) is not None:
        return NewtonCG(**settings), (
            f"{kind} operator and a {name} prior that is transformed white noise: Newton steps on the Fisher metric"
        )
    if fits(proximal := ProximalGradient(**settings), post):
        return proximal, f"{kind} operator and a {name} prior with a prox: proximal gradients"
    if fits(plugplay := PlugAndPlay(**settings), post):
        return plugplay, (
            f"linear operator, Gaussian noise and a {name} with a denoiser: plug-and-play, annealed, with noise"
        )
    if prior.find(HasLogProb) is not None:
        return (
            Optax(**settings),
            f"{kind} operator, {name} prior with a log-density: L-BFGS in the latent's own coordinates",
        )
    raise CapabilityError(
        f"no solver for a {name} prior: it offers {offers(prior)}; a solver needs HasLogProb, HasProx, HasTerms, "
        "HasTransform, HasColouredDenoiser or HasPrecision"
    )


def is_circulant(post: Posterior) -> bool:
    """Whether operator, noise and prior, with concrete arrays, are all diagonal in Fourier space."""
    like, gaussian = post.likelihood, post.prior.find(HasPrecision)
    return (
        isinstance(like, likelihoods.Gaussian)
        and isinstance(like.operator, CircularConvolve | Identity)
        and gaussian is not None
        and isinstance(gaussian.covariance, Stationary)
        and _uniform(like.noise)
    )


def _for_gaussian(post: Posterior, settings: dict[str, Any]) -> tuple[AbstractSolver, str]:
    if is_circulant(post):
        return Wiener(**settings), "circulant operator, stationary noise and prior: closed form, one FFT pair"
    if (two := TwoGrid.fitting(post, **settings)) is not None:
        return two, (
            "convolution and mask, Gaussian noise and stationary prior: conjugate gradients on a grid of "
            f"{two.coarse[0]} x {two.coarse[1]}, corrected on the fine one"
        )
    return (
        ConjugateGradient(**settings),
        "linear operator, Gaussian noise and prior: conjugate gradients in circulant posterior coordinates",
    )
