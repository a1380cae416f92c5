"""ADMM for a convolution, Gaussian noise and sparse terms: one division in Fourier space in each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, PyTree

from invprob.operators.fourier import isometry
from invprob.optimize.solvers.base import (
    DONE,
    NOT_FINITE,
    RESIDUAL,
    RUNNING,
    STALLED,
    AbstractSolver,
    Metrics,
    State,
    first_metrics,
)
from invprob.optimize.solvers.splitting import Split, Term, split
from invprob.posterior import Posterior

ROUND = 10  # steps between two looks at the residuals
ADAPT = 300  # steps in which the penalties may change; convergence needs that they settle
CLIP, BAND = 4.0, 2.0  # most that a penalty changes at once, and the least that is worth a change
SAFETY = 1.05  # of the bound on the terms that are not circulant
POWER = 15  # power iterations for the first bound; later steps correct it
START = 0.1  # penalty of a term of unit spectrum, of that of the data
PROXIMAL = 1e-2  # proximal term of each of several images, in the penalty of the data
PATIENCE = 60  # looks without a smaller residual after which a run has stalled


class Iterate(eqx.Module):
    """The state between two steps.

    Parameters
    ----------
    data, terms
        ``z = v + q / rho`` for the data and each term: the split variable ``v = prox(z)`` and its multipliers q in one.
    seen
        ``W_j x`` of the terms whose image update is only bounded, None for the others.
    X
        The images in Fourier space where a term is only bounded or there are several, else None.
    """

    data: Float[Array, "y x"]
    terms: tuple[Array, ...]
    seen: tuple[Array | None, ...]
    X: PyTree


class Penalty(eqx.Module):
    """The penalties: of the data, of each plane of each term, and the factor on spectra that are only bounds."""

    data: Float[Array, ""]
    terms: tuple[Float[Array, " p"], ...]
    bound: Float[Array, ""]


class Update(eqx.Module):
    """What the penalties make of the image update, in Fourier space.

    Parameters
    ----------
    data
        ``rho |C|^2``.
    loose, diagonal
        For each image: the part of ``sum_j rho_j |W_j|^2`` that is only a bound (None without such terms), and all of
        it.
    inverse
        ``1 / (diagonal + data)``, all that is needed for one image.
    """

    data: Float[Array, "ky kx"]
    loose: tuple[Float[Array, "ky kx"], ...] | None
    diagonal: tuple[Float[Array, "ky kx"], ...]
    inverse: Float[Array, "ky kx"]

    def solve(self, right: list[Complex[Array, "ky kx"]]) -> list[Complex[Array, "ky kx"]]:
        """``(diag(D) + rho |C|^2 1 1.T)^-1 b`` for each frequency, by the Sherman-Morrison formula."""
        if len(right) == 1:
            return [self.inverse * right[0]]
        each = [b / d for b, d in zip(right, self.diagonal, strict=True)]
        shared = self.data * sum(each) / (1 + self.data * sum(1 / d for d in self.diagonal))
        return [s - shared / d for s, d in zip(each, self.diagonal, strict=True)]


class Carry(eqx.Module):
    """Iterate, penalties, and the smallest residual with its age in looks."""

    iterate: Iterate
    penalty: Penalty
    best: Float[Array, ""]
    age: Int[Array, ""]


class ADMM(AbstractSolver):
    """Alternating direction method of multipliers, split at the convolution's output and at each ``W_j x``.

    The image update divides in Fourier space; mask, variance, border and block sums are exact in the other updates. A
    step costs two FFT pairs of the latent grid (the image and the convolved image, there and back) and each W_j and its
    adjoint once. Terms whose ``W.T W`` is not circulant enter by a circulant bound (a proximal term on x), which
    is enlarged when a step shows that it was too small.

    Penalties balance the relative residuals of each block (each scale of the starlet), so that nothing needs to be
    tuned; they are frozen after 300 steps. Steps come in rounds of ten, each ending with a look at the residuals.

    Parameters
    ----------
    rtol
        Relative primal and dual residual, in the norm of the penalties, at which to stop.
    relaxation
        Over-relaxation, between 1 and 2.

    References
    ----------
    Eckstein & Bertsekas 1992, Math. Programming 55, 293 (the form in one variable, over-relaxation); Boyd et al. 2011,
    Found. Trends Machine Learning 3, 1 (residuals); Almeida & Figueiredo 2013, IEEE Trans. Image Processing 22, 3074
    (mask and border); Wohlberg 2017, arXiv:1704.06209 (relative residuals).
    """

    rtol: float = 3e-4
    relaxation: float = 1.9
    name: ClassVar[str] = "admm"
    measure: ClassVar[str] = RESIDUAL

    def prepare(self, post: Posterior) -> Split:
        return split(post)

    def init(self, problem: Split, x0: PyTree | None) -> State:
        dtype = problem.data.data.dtype
        curvature = problem.curvature.astype(dtype)
        terms = tuple(_first_penalty(term, curvature) for term in problem.terms)
        penalty = Penalty(curvature, terms, _first_bound(problem, terms, dtype))
        if x0 is None:
            images = jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), problem.images.like(dtype))
        else:
            images = jax.tree.map(lambda a: jnp.asarray(a, dtype), problem.images_of(x0))
        X = jax.tree.map(jnp.fft.rfft2, images)
        convolved = problem.convolved(X)
        if x0 is not None:  # the multipliers of the data are then known as well
            convolved = convolved - problem.data.pull(convolved) / curvature
        values = tuple(term.W.apply(images) for term in problem.terms)
        seen = tuple(None if term.exact else value for term, value in zip(problem.terms, values, strict=True))
        proximal = len(problem.images.leaves) > 1 or any(s is not None for s in seen)
        iterate = Iterate(convolved, values, seen, X if proximal else None)
        carry = Carry(iterate, penalty, jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
        return State(images, carry, first_metrics(dtype))

    def step(self, problem: Split, state: State) -> State:
        carry, rho = state.carry, state.carry.penalty
        update = _update(problem, rho)

        def one(_, iterate):
            return self._iterate(problem, rho, update, iterate)[0]

        old = jax.lax.fori_loop(0, ROUND - 1, one, carry.iterate)
        new, images, seen = self._iterate(problem, rho, update, old)
        after, metrics = self._look(problem, carry, old, new, seen, state.metrics.step + ROUND)
        return State(images, after, metrics)

    def _iterate(self, problem: Split, rho: Penalty, update: Update, old: Iterate) -> tuple[Iterate, PyTree, list]:
        """The next iterate, its images, and ``C x`` and each ``W_j x``."""
        splits = _splits(problem, rho, old)
        X = _image_update(problem, rho, update, old, splits)
        x = jax.tree.map(lambda s: jnp.fft.irfft2(s, s=problem.shape), X)
        seen = [problem.convolved(X), *(term.W.apply(x) for term in problem.terms)]
        zs = [old.data, *old.terms]
        data, *terms = (z + self.relaxation * (s - v) for z, s, v in zip(zs, seen, splits, strict=True))
        kept = tuple(None if term.exact else s for term, s in zip(problem.terms, seen[1:], strict=True))
        return Iterate(data, tuple(terms), kept, None if old.X is None else X), x, seen

    def _look(self, problem: Split, carry: Carry, old: Iterate, new: Iterate, seen: list[Array], count):
        """Residuals, the penalties of the next round, and whether to stop."""
        rho = carry.penalty
        weights = [rho.data[None], *rho.terms]
        norms = [lambda u: jnp.sum(u**2)[None], *(term.norms for term in problem.terms)]
        before, after, zs = _splits(problem, rho, old), _splits(problem, rho, new), [new.data, *new.terms]
        parts = [_residuals(*block) for block in zip(seen, before, after, zs, norms, strict=True)]
        primal, size, dual, force = (
            jnp.stack([jnp.sum(w * part[i]) for w, part in zip(weights, parts, strict=True)]).sum() for i in range(4)
        )
        needed, modelled, moved = _bounded(problem, rho, old, new)
        dual += rho.bound * modelled - needed + moved  # the proximal terms are missing in the dual equation as well
        tiny = jnp.finfo(primal.dtype).tiny
        residual = jnp.sqrt(jnp.maximum(primal / jnp.maximum(size, tiny), dual / jnp.maximum(force, tiny)))
        factors = [jnp.where(count > ADAPT, 1, _balance(part)) for part in parts]
        penalty = Penalty(
            rho.data * factors[0][0],
            tuple(r * f for r, f in zip(rho.terms, factors[1:], strict=True)),
            jnp.maximum(rho.bound, SAFETY * needed / jnp.maximum(modelled, tiny)),
        )
        # v and the multipliers stay, and z is made anew of them
        data = after[0] + (zs[0] - after[0]) / factors[0][0]
        terms = tuple(
            v + (z - v) / term.spread(f)
            for term, z, v, f in zip(problem.terms, new.terms, after[1:], factors[1:], strict=True)
        )
        better = residual < carry.best
        best, age = jnp.minimum(residual, carry.best), jnp.where(better, 0, carry.age + 1)
        code = jnp.where(age > PATIENCE, STALLED, RUNNING)
        code = jnp.where(residual <= self.rtol, DONE, code)
        code = jnp.where(jnp.isfinite(primal + dual), code, NOT_FINITE).astype(jnp.int32)
        return Carry(Iterate(data, terms, new.seen, new.X), penalty, best, age), Metrics(count, residual, code)

    def latent(self, problem: Split, state: State) -> PyTree:
        iterate, rho = state.carry.iterate, state.carry.penalty
        images, treedef = jax.tree.flatten(state.x)
        for term, z, r in zip(problem.terms, iterate.terms, rho.terms, strict=True):
            if term.leaf is not None:
                images[term.leaf] = term.g.prox(z, 1 / term.spread(r))
        return problem.latent(treedef.unflatten(images), problem.data.level(iterate.data, rho.data))


def _first_penalty(term: Term, curvature: Float[Array, ""]) -> Float[Array, " p"]:
    """Of each plane by the root of its mean spectrum per number of the output, in the unit of the term's largest."""
    numbers = sum(math.prod(shape) for shape, _ in term.W.out_structure.leaves)
    pixels = math.prod(term.W.in_structure.leaves[0][0])
    mean = jnp.stack([jnp.mean(s, axis=(-2, -1)) for s in term.spectrum]).sum(0) * term.planes * pixels / numbers
    size = jnp.sqrt(mean)
    return START * curvature / (size * jnp.max(size))


def _splits(problem: Split, rho: Penalty, iterate: Iterate) -> list[Array]:
    """``v = prox(z)`` of the data and of each term."""
    terms = zip(problem.terms, iterate.terms, rho.terms, strict=True)
    return [problem.data.prox(iterate.data, rho.data), *(t.g.prox(z, 1 / t.spread(r)) for t, z, r in terms)]


def _update(problem: Split, rho: Penalty) -> Update:
    """``sum_j rho_j |W_j|^2`` for each image."""

    def spectrum(i: int, chosen: list[tuple[Term, Array]]):
        return sum((jnp.tensordot(r, term.spectrum[i], 1) for term, r in chosen), start=jnp.zeros((), r0.dtype))

    r0, pairs = rho.data, list(zip(problem.terms, rho.terms, strict=True))
    exact = [pair for pair in pairs if pair[0].exact]
    others = [pair for pair in pairs if not pair[0].exact]
    images = range(len(problem.images.leaves))
    # a floor keeps frequencies finite that neither the PSF nor a term sees
    power, floor = problem.power, jnp.finfo(r0.dtype).eps * r0
    diagonal = tuple(spectrum(i, exact) + floor for i in images)
    loose = None
    if others or len(images) > 1:
        # of several images one may be free where the others are not: the Sherman-Morrison formula needs a part of each
        share = PROXIMAL * r0 if len(images) > 1 else 0 * r0
        loose = tuple(rho.bound * spectrum(i, others) + share for i in images)
    if loose is not None:
        diagonal = tuple(d + e for d, e in zip(diagonal, loose, strict=True))
    return Update(r0 * power, loose, diagonal, 1 / (r0 * power + diagonal[0]))


def _image_update(problem: Split, rho: Penalty, update: Update, old: Iterate, splits: list[Array]) -> PyTree:
    """``M X = F (rho C.T (2 v - z) + sum_j rho_j W_j.T (2 v_j - z_j))``, in Fourier space.

    A term that is only bounded, by B, adds ``B X - F rho_j W_j.T W_j x`` of the last image: a proximal step.
    """
    pulls = []
    for term, z, v, seen, r in zip(problem.terms, old.terms, splits[1:], old.seen, rho.terms, strict=True):
        pull = 2 * v - z
        pulls.append(term.W.adjoint(term.spread(r) * (pull if seen is None else pull - seen)))
    back = jax.tree.map(lambda *parts: jnp.fft.rfft2(sum(parts[1:], start=parts[0])), *pulls)
    data = jnp.conj(problem.otf) * jnp.fft.rfft2(rho.data * (2 * splits[0] - old.data))
    leaves, treedef = jax.tree.flatten(back)
    right = [b + data for b in leaves]
    if update.loose is not None:
        right = [b + e * s for b, e, s in zip(right, update.loose, jax.tree.leaves(old.X), strict=True)]
    return treedef.unflatten(update.solve(right))


def _residuals(seen: Array, before: Array, after: Array, z: Array, norms: Callable) -> tuple[Array, ...]:
    """Squares of ``W x - v`` and its scale, and of the change of v and its scale ``q / rho``."""
    return norms(seen - after), jnp.maximum(norms(seen), norms(after)), norms(after - before), norms(z - after)


def _balance(part: tuple[Array, ...]) -> Array:
    """Factor on a penalty that balances the relative residuals."""
    primal, size, dual, force = part
    ratio = (primal * force) / jnp.maximum(size * dual, jnp.finfo(primal.dtype).tiny)
    factor = jnp.clip(ratio**0.25, 1 / CLIP, CLIP)
    known = (primal > 0) & (dual > 0) & (force > 0) & jnp.isfinite(ratio)
    return jnp.where(known & ((factor > BAND) | (factor < 1 / BAND)), factor, 1)


def _bounded(problem: Split, rho: Penalty, old: Iterate, new: Iterate) -> tuple[Array, Array, Array]:
    """``sum_j rho_j |W_j dx|^2`` of the terms that are only bounded, for the last step, its circulant model, and the
    proximal term of several images."""
    needed, modelled, moved = (jnp.zeros_like(rho.bound) for _ in range(3))
    if old.X is None:
        return needed, modelled, moved
    weight = isometry(problem.shape, rho.bound.dtype) ** 2
    change = jax.tree.leaves(jax.tree.map(jnp.subtract, new.X, old.X))
    for term, r, was, now in zip(problem.terms, rho.terms, old.seen, new.seen, strict=True):
        if was is not None and now is not None:
            needed += jnp.sum(r * term.norms(now - was))
            for spectrum, d in zip(term.spectrum, change, strict=True):
                modelled += jnp.sum(weight * jnp.tensordot(r, spectrum, 1) * jnp.abs(d) ** 2)
    if len(change) > 1:
        moved = PROXIMAL * rho.data * jnp.stack([jnp.sum(weight * jnp.abs(d) ** 2) for d in change]).sum()
    return needed, modelled, moved


def _first_bound(problem: Split, rho: tuple[Array, ...], dtype) -> Float[Array, ""]:
    """The bound for the first penalties, by power iterations for the largest ``|W x|^2`` over its circulant model."""
    pairs = [pair for pair in zip(problem.terms, rho, strict=True) if not pair[0].exact]
    if not pairs:
        return jnp.asarray(SAFETY, dtype)
    images = range(len(problem.images.leaves))
    model = [sum(jnp.tensordot(r, term.spectrum[i], 1) for term, r in pairs) for i in images]
    model = [m + jnp.finfo(dtype).eps * jnp.max(m) for m in model]

    def applied(x):
        parts = [term.W.adjoint(term.spread(r) * term.W.apply(x)) for term, r in pairs]
        total, treedef = jax.tree.flatten(jax.tree.map(lambda *p: sum(p[1:], start=p[0]), *parts))
        spectra = [jnp.fft.rfft2(a) / m for a, m in zip(total, model, strict=True)]
        return treedef.unflatten([jnp.fft.irfft2(s, s=problem.shape) for s in spectra])

    def body(_, state):
        x, _ = state
        y = applied(x)
        size = jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(y)))
        return jax.tree.map(lambda a: a / size, y), size

    keys = iter(jax.random.split(jax.random.key(0), len(images)))
    x = jax.tree.map(lambda s: jax.random.normal(next(keys), s.shape, s.dtype), problem.images.like(dtype))
    x = jax.tree.map(lambda a: a / jnp.sqrt(sum(b.size for b in jax.tree.leaves(x))), x)
    _, size = jax.lax.fori_loop(0, POWER, body, (x, jnp.ones((), dtype)))
    return SAFETY * jnp.maximum(size, 1).astype(dtype)
