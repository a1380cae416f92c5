"""Which algorithm, and why: from what the forward operator, the noise and the prior can do."""

from __future__ import annotations

import numpy as np
from jax.core import Tracer

from invprob import likelihoods
from invprob.covariance import AbstractCovariance, Diagonal, Stationary
from invprob.errors import CapabilityError
from invprob.infer.solvers import AbstractSolver, ConjugateGradient, Optax, TwoGrid, Wiener
from invprob.operators import CircularConvolve, Identity
from invprob.operators.base import AbstractLinearOperator
from invprob.posterior import Posterior
from invprob.priors.base import HasLogProb, capabilities


def _uniform(noise: AbstractCovariance) -> bool:
    if isinstance(noise, Stationary):
        return True
    if not isinstance(noise, Diagonal) or isinstance(noise.variance, Tracer):
        return False
    variance = np.asarray(noise.variance)
    everywhere = noise.valid is None or bool(np.all(noise.valid))
    return everywhere and bool(np.all(variance == variance.flat[0]))


def choose_solver(post: Posterior, rtol: float) -> tuple[AbstractSolver, str]:
    """The solver for a posterior, and the reason in words.

    Raises
    ------
    CapabilityError
        When the prior offers nothing that a solver here can use.
    """
    operator = post.likelihood.operator
    linear = isinstance(operator, AbstractLinearOperator)
    gaussian = post.prior.as_gaussian()
    if linear and gaussian is not None and isinstance(post.likelihood, likelihoods.Gaussian):
        circulant = isinstance(operator, CircularConvolve | Identity)
        if circulant and isinstance(gaussian.covariance, Stationary) and _uniform(post.likelihood.noise):
            return Wiener(rtol=rtol), "circulant operator, stationary noise and prior: closed form, one FFT pair"
        if (two := TwoGrid.fitting(post, rtol)) is not None:
            return two, (
                "convolution and mask, Gaussian noise and stationary prior: conjugate gradients on a grid of "
                f"{two.coarse[0]} x {two.coarse[1]}, corrected on the fine one"
            )
        return (
            ConjugateGradient(rtol=rtol),
            "linear operator, Gaussian noise and prior: conjugate gradients in circulant posterior coordinates",
        )
    if isinstance(post.prior, HasLogProb):
        kind = "linear" if linear else "non-linear"
        where = "whitened coordinates" if gaussian is not None else "the latent's own coordinates"
        return (
            Optax(rtol=rtol),
            f"{kind} operator, {type(post.prior).__name__} prior with a log-density: L-BFGS in {where}",
        )
    can = ", ".join(capabilities(post.prior)) or "nothing"
    raise CapabilityError(
        f"no solver for a {type(post.prior).__name__} prior: it offers {can}; a solver needs HasLogProb or HasPrecision"
    )
