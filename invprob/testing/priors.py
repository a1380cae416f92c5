"""The contract of a prior."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from invprob import priors
from invprob.covariance import dense, white
from invprob.operators import Structure
from invprob.operators.base import precision_of, vdot
from invprob.testing.base import (
    NUM_DRAWS,
    close,
    combine,
    directional,
    finite_step,
    first,
    require,
    tolerance,
)

NUM_DIRECTIONS = 200


def check_prior(prior: priors.AbstractPrior, shape: PyTree = None, key: Any = None) -> None:
    """Check every capability that a prior has, by its own `invprob.priors.AbstractPrior.find`, and no other.

    Score against central differences of ``log_prob``; the constant against the dense normal density or, for
    one or two numbers, by quadrature (give a prior of one or two pixels to have it checked); ``prox`` against
    a minimizer and against steps along each coordinate and along random directions, which decide it for a convex
    objective, sharp or not; the sum of ``terms`` against ``log_prob`` and the ``prox`` of each term;
    ``unconstrain`` and ``log_jacobian`` against ``constrain``; the moments of ``transform`` and ``sample``;
    ``whitened`` against ``transform``; ``rescaled`` against ``cost``; the moments of the scales of a mixture; jit and
    vmap.

    Parameters
    ----------
    prior
        Prior of a few dozen numbers.
    shape
        Shape or pytree of the latent; default: the prior's own structure.
    key
        Random key.
    """
    key = jax.random.key(0) if key is None else key
    structure = Structure(prior.structure.tree if shape is None else shape)
    dtype = precision_of(eqx.filter(prior, eqx.is_inexact_array))
    inside = prior.constrain(white(key, structure, dtype))
    sampled = prior.find(priors.HasSample)
    x = inside if sampled is None else sampled.sample(key)
    d = white(jax.random.fold_in(key, 1), structure, dtype)
    require(prior.structure.matches(structure), prior, "structure", f"{prior.structure}, not {structure}")
    tol = tolerance(1e-10, dtype)
    close(prior.constrain(prior.unconstrain(inside)), inside, 10 * tol, prior, "unconstrain inverts constrain")
    _check_coordinates(prior, white(key, structure, dtype))
    scored, density = prior.find(priors.HasScore), prior.find(priors.HasLogProb)
    if scored is not None:
        score = scored.score(x)
        require(Structure(score).matches(structure), prior, "structure of the score")
        close(eqx.filter_jit(lambda p: p.score(x))(scored), score, tol, prior, "jit of the score")
        batched = jax.jit(jax.vmap(lambda v: scored.score(v)))(jax.tree.map(lambda a: jnp.stack([a, 2 * a]), x))
        close(first(batched), score, tol, prior, "vmap of the score")
    if density is not None:
        value = density.log_prob(x)
        require(jnp.shape(value) == (), prior, "log_prob is a scalar")
        close(eqx.filter_jit(lambda p: p.log_prob(x))(density), value, tol, prior, "jit of log_prob")
        log_prob = jax.jit(lambda v: density.log_prob(v))
        directional(log_prob, x, d, prior, "gradient of log_prob", dtype)
        h, allowed = finite_step(dtype)
        ends = [float(log_prob(combine(1, x, s * h, d))) for s in (1, -1)]
        difference, along = (ends[0] - ends[1]) / (2 * h), float(vdot(density.score(x), d))
        near = abs(along - difference) <= allowed * (abs(difference) + abs(float(value)))
        require(near, prior, "score against log_prob", f"{along:.9g} against {difference:.9g}")
        if density.normalized:
            _check_normalized(density, x)
    if (proximal := prior.find(priors.HasProx)) is not None:
        _check_prox(proximal, x, d, dtype)
    if prior.find(priors.HasTerms) is not None:
        _check_terms(prior, x, d, dtype)
    _check_scales(prior, key)
    _check_strength(prior, d, dtype)
    keys = jax.random.split(key, NUM_DRAWS)
    if (from_white := prior.find(priors.HasTransform)) is not None:
        T = from_white.transform
        pushed = jax.vmap(lambda k: ravel_pytree(T(white(k, T.in_structure, dtype)))[0])(keys)
        _check_moments(prior, pushed, keys, "transform")
    if (invertible := prior.find(priors.HasWhitening)) is not None:
        xi = white(key, invertible.transform.in_structure, dtype)
        back = invertible.whitened(invertible.transform(xi))
        close(back, xi, tolerance(1e-6, dtype), prior, "whitened inverts the transform")
    if sampled is not None:
        require(Structure(x).matches(structure), prior, "structure of a sample")
        close(sampled.sample(key), x, 0.0, prior, "the same key gives the same sample")
        if prior.find(priors.HasPrecision) is not None:
            _check_moments(prior, jax.vmap(lambda k: ravel_pytree(sampled.sample(k))[0])(keys), keys, "sample")
    if (denoiser := prior.find(priors.HasDenoiser)) is not None:
        require(Structure(denoiser.denoise(x, jnp.ones(()))).matches(structure), prior, "structure of the denoised")


def _check_coordinates(prior, c) -> None:
    """The volume of `constrain` against its derivatives, bent over another unit as well."""
    flat, unravel = ravel_pytree(c)
    for unit in (1.0, 0.3):
        jacobian = jax.jacfwd(lambda at, unit=unit: ravel_pytree(prior.constrain(unravel(at), unit))[0])(flat)
        wanted, got = float(jnp.linalg.slogdet(jacobian)[1]), float(prior.log_jacobian(c, unit))
        allowed = tolerance(1e-9, flat.dtype) * (flat.size + abs(wanted))
        require(abs(got - wanted) <= allowed, prior, "log_jacobian", f"{got:.9g}, dense {wanted:.9g}")


def _check_normalized(prior, x) -> None:
    flat, unravel = ravel_pytree(x)
    gaussian = prior.find(priors.HasPrecision)
    if gaussian is not None:
        matrix = np.asarray(dense(gaussian.covariance))
        u = np.asarray(flat) - np.asarray(ravel_pytree(gaussian.mean)[0])
        logdet = np.linalg.slogdet(2 * np.pi * matrix)[1]
        wanted, got = -0.5 * (u @ np.linalg.solve(matrix, u) + logdet), float(prior.log_prob(x))
        allowed = tolerance(1e-9, matrix.dtype) * (abs(wanted) + abs(logdet))
        require(abs(got - wanted) <= allowed, prior, "normal density", f"{got:.12g}, dense {wanted:.12g}")
    elif flat.size <= 2:
        # x = constrain(sinh t): within the support, fine in the middle, far out in the tails
        t = np.linspace(-14, 14, 6001 if flat.size == 1 else 801)
        nodes = np.stack(np.meshgrid(*[np.sinh(t)] * flat.size, indexing="ij"), -1).reshape(-1, flat.size)
        weights = np.prod(np.cosh(np.arcsinh(nodes)), -1) * (t[1] - t[0]) ** flat.size

        def constrained(c):
            return ravel_pytree(prior.constrain(unravel(c)))[0]

        def density(c):
            volume = jnp.abs(jnp.linalg.det(jax.jacfwd(constrained)(c)))
            value = jnp.exp(prior.log_prob(unravel(constrained(c)))) * volume
            return jnp.where(jnp.isfinite(volume), value, 0)  # where exp(c) overflows

        values = jax.lax.map(density, jnp.asarray(nodes, flat.dtype), batch_size=4096)
        total = float((weights * np.asarray(values)).sum())
        require(abs(total - 1) < 1e-3, prior, "normalization", f"the density integrates to {total:.6f}")


def _check_prox(prior, x, d, dtype) -> None:
    """The proximal map at x + d, for x in the support."""
    v, step = combine(1, x, 1, d), jnp.asarray(0.7, dtype)
    best = prior.prox(v, step)
    close(eqx.filter_jit(lambda p: p.prox(v, step))(prior), best, tolerance(1e-9, dtype), prior, "jit of prox")
    density = prior.find(priors.HasLogProb)
    if density is None:
        return
    flat, unravel = ravel_pytree(v)

    @jax.jit
    def objective(a):
        return -density.log_prob(unravel(a)) + jnp.sum((a - flat) ** 2) / (2 * step)

    def within(c):
        return objective(ravel_pytree(prior.constrain(unravel(c)))[0])

    point = ravel_pytree(best)[0]
    reached = float(objective(point))
    allowed = 1e-6 + tolerance(0, dtype) * abs(reached)
    function = jax.jit(jax.value_and_grad(within))
    start = ravel_pytree(prior.unconstrain(x))[0]
    found = scipy.optimize.minimize(lambda a: tuple(map(np.asarray, function(jnp.asarray(a, dtype)))), start, jac=True)
    lowest = min(float(found.fun), _lowest_around(objective, point))
    excess = reached - lowest
    require(excess <= allowed, prior, "prox against brute force", f"its objective is larger by {excess:.3g}")


def _lowest_around(objective, point) -> float:
    """The least value on lines through a point; where a convex function is sharp, a gradient would not tell."""
    n = point.size
    random = jax.random.normal(jax.random.key(3), (NUM_DIRECTIONS, n), point.dtype)
    random = random / jnp.linalg.norm(random, axis=1, keepdims=True)
    lines = jnp.concatenate([jnp.eye(n, dtype=point.dtype), random, point[None]])
    lengths = jnp.asarray([s * 10.0**-k for k in range(6) for s in (1, -1)], point.dtype)
    along = jax.jit(jax.vmap(lambda line: jnp.min(jax.vmap(lambda h: objective(point + h * line))(lengths))))
    return float(jnp.nanmin(along(lines)))


def _check_terms(prior, x, d, dtype) -> None:
    terms = prior.find(priors.HasTerms).terms
    for W, g in terms:
        require(W.in_structure.matches(prior.structure), prior, "each W_j takes x", f"it takes {W.in_structure}")
        fits = g.structure.matches(W.out_structure)
        require(fits, prior, "each g_j describes W_j x", f"{g.structure}, not {W.out_structure}")
        if g is not prior:
            _check_prox(g, W(x), W(d), dtype)
    density, simple = prior.find(priors.HasLogProb), [(W, g.find(priors.HasLogProb)) for W, g in terms]
    if density is None or any(g is None for _, g in simple):
        return
    other = prior.constrain(d)
    one, two = (float(density.log_prob(p) - sum(g.log_prob(W(p)) for W, g in simple)) for p in (x, other))
    allowed = tolerance(1e-9, dtype) * (abs(one) + sum(abs(float(density.log_prob(p))) for p in (x, other)))
    require(abs(one - two) <= allowed, prior, "the terms add up to log_prob", f"{one:.9g} at one point, {two:.9g}")


def _check_scales(prior, key) -> None:
    """The mean of ``1 / tau^2`` given u, which for every scale mixture of Gaussians is ``-score(u) / u``."""
    mixture, density = prior.find(priors.HasConditionalGaussian), prior.find(priors.HasLogProb)
    if mixture is None or density is None:
        return
    dtype = precision_of(eqx.filter(prior, eqx.is_inexact_array))
    u = 1 + jnp.abs(white(key, prior.structure, dtype))
    keys = jax.random.split(jax.random.fold_in(key, 3), NUM_DRAWS)
    draws = jax.vmap(lambda k: jnp.broadcast_to(mixture.inverse_scales(k, u), u.shape))(keys)
    off = jnp.abs(jnp.mean(draws, 0) + density.score(u) / u)
    error = jnp.std(draws, 0) / len(keys) ** 0.5 + tolerance(1e-9, dtype)
    worst = float(jnp.max(off / error))
    require(worst < 6, prior, "inverse_scales against the score", f"off by {worst:.1f} Monte-Carlo standard errors")


def _check_strength(prior, x, dtype) -> None:
    """The cost of another strength, and the slope of ``log p`` in it."""
    found, density = prior.find(priors.HasStrength), prior.find(priors.HasLogProb)
    if found is None:
        return
    factor = jnp.asarray(1.7, dtype)
    other = priors.require(found.rescaled(factor), priors.HasStrength, "rescaled priors")
    tol = tolerance(1e-9, dtype)
    close(other.cost(x), factor * found.cost(x), 10 * tol, prior, "the cost of a rescaled prior")
    close(found.cost(jax.tree.map(lambda a: 3 * a, x)), 3 * found.cost(x), 10 * tol, prior, "the cost is homogeneous")
    if density is not None and prior.find(priors.HasParts) is None:
        zero = jax.tree.map(jnp.zeros_like, x)
        close(density.log_prob(zero) - density.log_prob(x), found.cost(x), 100 * tol, prior, "cost against log_prob")


def _check_moments(prior, draws, keys, what) -> None:
    """Mean and covariance of draws against a Gaussian's; otherwise the first two moments against samples."""
    draws = np.asarray(draws)
    gaussian = prior.find(priors.HasPrecision)
    if gaussian is not None:
        u = draws - np.asarray(ravel_pytree(gaussian.mean)[0])
        half = np.linalg.inv(np.linalg.cholesky(np.asarray(dense(gaussian.covariance))))
        z = u @ half.T
        n = z.shape[1]
        pull = (z.T @ z / len(z) - np.eye(n)) * np.sqrt(len(z)) / np.sqrt(1 + np.eye(n))
        worst = max(np.abs(pull).max(), np.abs(z.mean(0)).max() * np.sqrt(len(z)))
        require(worst < 6, prior, f"moments of {what}", f"off by {worst:.1f} Monte-Carlo standard errors")
    elif what == "transform" and (sampled := prior.find(priors.HasSample)) is not None:
        fresh = np.asarray(jax.vmap(lambda k: ravel_pytree(sampled.sample(jax.random.fold_in(k, 7)))[0])(keys))
        for power in (1, 2):
            a, b = draws**power, fresh**power
            error = np.sqrt((a.var(0) + b.var(0)) / len(keys))
            worst = (np.abs(a.mean(0) - b.mean(0)) / error).max()
            require(worst < 6, prior, "transform against sample", f"moment {power} off by {worst:.1f} errors")
