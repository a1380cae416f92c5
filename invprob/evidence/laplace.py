"""The Laplace approximation: the Gaussian with the curvature at the maximum, and the evidence that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from invprob.covariance import white
from invprob.diagnostics.importance import MIN_WEIGHTS
from invprob.errors import CapabilityError, UsageError
from invprob.operators.base import AbstractLinearOperator, Identity
from invprob.operators.function import Function, Jacobian
from invprob.optimize.find_map import solve
from invprob.optimize.loop import STATUS
from invprob.optimize.solvers import Optax
from invprob.posterior import Posterior
from invprob.priors.capabilities import (
    AbstractPrior,
    HasLogProb,
    HasParts,
    HasPrecision,
    HasTransform,
    leaves_of,
    offers,
)
from invprob.results import Status
from invprob.sampling.coordinates import Coordinates
from invprob.variational.base import (
    AbstractDistribution,
    Approximate,
    Approximation,
    Draws,
    TargetDensity,
    judged,
    nothing,
)
from invprob.variational.lanczos import flat_product, inverse_root, log_determinant
from invprob.variational.local_gaussian import likelihood_dtype, local_gaussian, most_probable, whitened

ROOT_STEPS = 100  # of the Lanczos iteration of a draw
ROOT_CHANGE = 1e-2  # most that the last third of them may change a draw, relative
MAX_STEPS, NEWTON_STEPS = 5000, 200  # most of the search for the maximum, in x and in white coordinates


@dataclass(frozen=True, eq=False)
class Laplace(Approximate):
    """What `laplace` gives: ``x`` is the maximum, ``latent_std`` (and ``std``) the deviation under the local Gaussian.

    Parameters
    ----------
    log_evidence, log_evidence_error
        Laplace approximation of the log evidence, and the standard error of its log-determinant; the error of the
        approximation itself is not in it. Where `normalized` is False the prior's constant is missing.
    """

    log_evidence: float = np.nan
    log_evidence_error: float = np.nan


class _Descent(eqx.Module):
    """``-grad log p(x | data)``."""

    posterior: Posterior

    def __call__(self, x):
        return jax.tree.map(jnp.negative, self.posterior.score(x))


class _Plain(eqx.Module):
    """A posterior as the density of x itself; what is no number is no density."""

    posterior: Posterior

    def latent(self, z: PyTree) -> PyTree:
        """x."""
        return z

    def log_prob(self, z: PyTree) -> Float[Array, ""]:
        """Log-density of x."""
        return self.posterior.log_prob(z)


class CurvedGaussian(AbstractDistribution):
    """``q = N(0, H^-1)`` of deviations from the maximum, H the Hessian; draws by the Lanczos iteration.

    Parameters
    ----------
    hessian
        H.
    logdet
        ``log det H``.
    """

    hessian: AbstractLinearOperator
    logdet: Float[Array, ""]

    def log_prob(self, c):
        squared = c @ flat_product(self.hessian, c.dtype)(c)
        return 0.5 * (self.logdet - squared - c.size * jnp.log(2 * jnp.pi))

    def draws(self, key, num):
        flat, _ = ravel_pytree(self.hessian.point)  # type: ignore[attr-defined]
        apply = flat_product(self.hessian, flat.dtype)
        steps = min(ROOT_STEPS, flat.size)

        def one(key):
            noise = jax.random.normal(key, flat.shape, flat.dtype)
            return inverse_root(apply, noise, steps)

        c, change = jax.lax.map(one, jax.random.split(key, num))
        return Draws(c, -c, (change < ROOT_CHANGE) | (steps == flat.size))


def sharp_part(prior: AbstractPrior, dtype) -> str:
    """Name of the part of a prior whose density has kinks or ends at a bound in all coordinates; empty for none."""
    whole = prior.find(HasParts)
    if whole is not None:
        return next((name for part in leaves_of(whole.parts) if (name := sharp_part(part, dtype))), "")
    pushed, density = prior.find(HasTransform), prior.find(HasLogProb)
    if prior.find(HasPrecision) is not None or (pushed is not None and pushed.is_smooth):
        return ""
    sharp = prior.is_sharp or (density is not None and _is_piecewise_linear(density, dtype))
    return type(prior).__name__ if sharp else ""


def _is_piecewise_linear(prior: HasLogProb, dtype) -> bool:
    """Whether a log-density has a slope but no curvature, at a random point."""
    v = white(jax.random.key(0), prior.structure, dtype)
    score, bend = jax.jvp(prior.score, (prior.constrain(v),), (v,))
    steep, curved = (max(float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(t)) for t in (score, bend))
    return steep > 0 and curved == 0


def why_no_laplace(post: Posterior) -> str:
    """What keeps a posterior from a Laplace approximation, as far as is known before its maximum; empty for nothing."""
    if name := sharp_part(post.prior, likelihood_dtype(post)):
        return (
            f"no Laplace approximation under a {name} prior: its density has kinks or bounds, the maximum lies on "
            "them, and there is no curvature there"
        )
    if post.prior.find(HasTransform) is None and post.prior.find(HasLogProb) is None:
        return (
            "no Laplace approximation: it needs a prior with HasLogProb or HasTransform, and "
            f"{type(post.prior).__name__} offers {offers(post.prior)}"
        )
    return ""


def laplace(
    post: Posterior,
    key,
    num_probes: int = 64,
    num_samples: int = 1000,
    *,
    max_steps: int | None = None,
    summary: Callable[[PyTree], Any] = nothing,
) -> Laplace:
    """The Laplace approximation around the maximum of a posterior with curvature.

    ``log p(data) = log p(data, z*) + n/2 log 2 pi - 1/2 log det H`` with the maximum z* and the curvature H there.

    Parameters
    ----------
    post
        Posterior.
    key
        Random key.
    num_probes
        Random vectors behind the log-determinant; where the latent has fewer numbers than they would take products
        (48 each) it is exact.
    num_samples
        Exact draws of the local Gaussian behind the standard deviation and k-hat.
    max_steps
        Most steps of the search for the maximum; default: 200 Newton steps, or 5000 of L-BFGS where there is no
        transform from white noise.
    summary
        From the x of a draw to what is to be kept of it, in `Laplace.kept`; default: nothing.

    Returns
    -------
    Laplace
        With ``x``, the standard deviation map and its relative Monte-Carlo error ``std_error``, the log evidence, and
        k-hat, which says whether the Gaussian fits: above its threshold the status is `Status.NOT_RELIABLE`.

    Raises
    ------
    CapabilityError
        For a prior whose density has kinks (total variation, starlet, Laplace) or ends at a bound, and where the
        density has no curvature at the point that was found.

    Notes
    -----
    A prior that is white noise pushed through a map (Gaussian, `LogNormal`, ...) is approximated in the coordinates xi
    of that noise, in which it is N(0, I): H is the Fisher metric ``J.T N^-1 J + 1``, the exact Hessian where
    ``F(T(xi))`` is linear, and a draw is one solve. Any other smooth log-density is approximated in x, with the exact
    Hessian. The two differ, as a Gaussian of xi is not one of x.

    References
    ----------
    Tierney & Kadane 1986, JASA 81, 82; Papandreou & Yuille 2010, NIPS 23 (the draws); Ubaru, Chen & Saad 2017, SIAM
    J. Matrix Anal. Appl. 38, 1075 (the log-determinant).
    """
    if num_probes < 2 or num_samples < MIN_WEIGHTS:
        raise UsageError(
            f"laplace takes num_probes of at least 2 and num_samples of at least {MIN_WEIGHTS}, not {num_probes} and "
            f"{num_samples}"
        )
    if why := why_no_laplace(post):
        raise CapabilityError(f"{why}; draw from the posterior instead: invprob.sample(post, key)")
    volume_key, judge_key = jax.random.split(key)
    if post.prior.find(HasTransform) is not None:
        approximation, status = _in_white(post, volume_key, num_probes, max_steps or NEWTON_STEPS)
        reason = f"{type(post.prior).__name__} prior: Fisher metric in white coordinates"
    else:
        approximation, status = _in_x(post, volume_key, num_probes, max_steps or MAX_STEPS)
        reason = f"{type(post.prior).__name__} prior with a smooth log-density: Hessian in x"
    target, q = approximation.target, approximation.q
    none = jnp.zeros(target.size, target.dtype)
    value = float(target.log_joint(none)) - float(q.log_prob(none))
    return judged(
        Laplace, post, approximation, judge_key, num_samples, status, summary,
        x=jax.tree.map(np.asarray, target.latent(none)), solver="laplace", reason=reason, steps=0, log_evidence=value,
        log_evidence_error=float(approximation.error),
    )  # fmt: skip


def _in_white(post: Posterior, key, num_probes: int, max_steps: int) -> tuple[Approximation, Status]:
    problem = whitened(post, "laplace")
    xi, code = most_probable(problem, max_steps)
    return local_gaussian(problem, xi, key, num_probes), STATUS[int(code)]


def _in_x(post: Posterior, key, num_probes: int, max_steps: int) -> tuple[Approximation, Status]:
    dtype = likelihood_dtype(post)
    found = eqx.filter_jit(solve)(post, Optax(), max_steps=max_steps)
    x = found.x
    hessian = Jacobian(Function(_Descent(post), post.structure), x)
    determinant = log_determinant(hessian, key, num_probes, dtype)
    if not determinant.lowest > 0:
        raise CapabilityError(
            f"no Laplace approximation: the curvature at the point found is {determinant.lowest:.3g} along some "
            "direction, where a maximum has a positive one; draw from the posterior instead: invprob.sample(post, key)"
        )
    none = jnp.zeros((), dtype)
    where = Coordinates(_Plain(post), Identity(post.structure), x)
    q = CurvedGaussian(hessian, jnp.asarray(determinant.value, dtype))
    approximation = Approximation(TargetDensity(where, none, none), q, jnp.asarray(determinant.error / 2, dtype))
    return approximation, STATUS[int(found.code)]


__all__ = ["Laplace", "laplace", "sharp_part", "why_no_laplace"]
