"""Conjugate gradients on a coarse grid, corrected by residuals of the fine one.

Where the PSF leaves nothing of a frequency the whitened system of `cg` is the identity: only the low frequencies are
left to iterate on, and those fit on a coarser grid. The normal operator there takes the weights cut in Fourier space;
clipping or averaging them in space would give weight to the border, whose modes are the slow ones. A residual on the
fine grid after each coarse solve makes the result exact (defect correction; Stetter 1978, Numer. Math. 29, 425).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PyTree

from invprob.covariance import Diagonal, Stationary
from invprob.errors import CapabilityError
from invprob.operators import CircularConvolve
from invprob.operators.base import AbstractLinearOperator, Adjoint, vdot
from invprob.operators.convolve import split_circulant
from invprob.operators.fourier import half_shape
from invprob.optimize.solvers.base import (
    DONE,
    FACTOR,
    NOT_FINITE,
    ROUNDING,
    RUNNING,
    STALLED,
    WINDOW,
    AbstractSolver,
    State,
    first_metrics,
)
from invprob.posterior import LinearGaussian, Posterior

CONTRACTION = 0.05  # of the error that the coarse grid makes, by one stage, at worst (measured: 0.02)
FIRST = 1e-4  # relative error of the first coarse solution, however well it is solved for
NEGLIGIBLE = 3e-3  # signal to noise (power) of the frequencies that are left out of the coarse grid
SPLIT = 100  # from this side on, two real images are faster than a complex one


class Level(eqx.Module):
    """``1 + g rfft2(w irfft2(h .))`` on one grid: the whitened normal operator with its mean weight taken off."""

    weight: Float[Array, "y x"]
    h: Float[Array, "y half"]
    g: Float[Array, "y half"]

    def normal(self, c):
        """The operator on complex coefficients, or on their real and imaginary parts along a first axis of two."""
        hc = self.h * c
        spectrum = hc if jnp.iscomplexobj(c) else jax.lax.complex(hc[0], hc[1])
        u = jnp.fft.rfft2(self.weight * jnp.fft.irfft2(spectrum, s=self.weight.shape))
        return c + self.g * (u if jnp.iscomplexobj(c) else jnp.stack([u.real, u.imag]))


class Problem(eqx.Module):
    """The whitened system on both grids.

    Parameters
    ----------
    fine, coarse
        Its operator.
    right, null
        Right-hand side, and objective at zero.
    synthesis
        From the coordinates to the spectrum of the latent image.
    mean
        Mean of the prior, None for zero.
    weight, spread
        Inverse covariance of the noise, and from the data to the convolved image.
    """

    fine: Level
    coarse: Level
    right: Complex[Array, "y half"]
    null: Float[Array, ""]
    synthesis: Complex[Array, "y half"]
    mean: PyTree
    weight: AbstractLinearOperator
    spread: AbstractLinearOperator

    @property
    def is_split(self) -> bool:
        """Whether coarse coefficients are kept as two real images."""
        return max(self.coarse.weight.shape) > SPLIT

    def with_data(self, y: Array) -> Problem:
        """The problem of other data y and a prior of mean zero."""
        weighted = self.weight.apply(y)
        right = self.fine.g * jnp.fft.rfft2(self.spread.apply(weighted))
        return replace(self, right=right, null=0.5 * vdot(y, weighted), mean=None)


class Carry(eqx.Module):
    """Fine residual and objective, and conjugate gradients for the correction on the coarse grid."""

    residual: Array
    objective: Float[Array, ""]
    correction: Array
    inner: Array
    direction: Array
    squared: Float[Array, ""]
    falls: Float[Array, " window"]
    fallen: Float[Array, ""]
    before: Float[Array, ""]
    stage: Array


def _dot(a, b):
    return jnp.sum(a.real * b.real + a.imag * b.imag) if jnp.iscomplexobj(a) else jnp.sum(a * b)


def crop(spectrum: Array, shape: tuple[int, int]) -> Array:
    """The lowest coefficients of an ``rfft2``, those of an image of a smaller even shape."""
    half, width = shape[0] // 2, shape[1] // 2 + 1
    return jnp.concatenate([spectrum[:half, :width], spectrum[spectrum.shape[0] - half :, :width]])


def paste(spectrum: Array, low: Array) -> Array:
    """A spectrum with its lowest coefficients replaced."""
    half, width = low.shape[0] // 2, low.shape[1]
    out = spectrum.at[:half, :width].set(low[:half])
    return out.at[out.shape[0] - half :, :width].set(low[half:])


def _columns(nx: int) -> np.ndarray:
    column = np.full(nx // 2 + 1, np.sqrt(2.0))
    column[[0, -1]] = 1.0
    return column


def _parts(system: LinearGaussian | None) -> tuple[AbstractLinearOperator, CircularConvolve] | None:
    """The pixelwise and the circulant factor of a system that this solver can take."""
    if system is None or not isinstance(system.noise, Diagonal) or not isinstance(system.covariance, Stationary):
        return None
    if any(n % 2 for n in system.covariance.shape):
        return None
    return split_circulant(system.operator)


def _weights(system: LinearGaussian, rest: AbstractLinearOperator):
    ones = jnp.ones(rest.in_structure.shape, system.data.dtype)
    weight = rest.adjoint(system.noise.inv.apply(rest.apply(ones)))
    return weight, jnp.sum(weight**2) / jnp.maximum(jnp.sum(weight), jnp.finfo(weight.dtype).tiny)


def _reach(post: Posterior):
    """Highest row and column frequency, in modes, at which the signal is not negligible."""
    system = post.linear_gaussian()
    assert system is not None
    parts = _parts(system)
    assert parts is not None
    rest, circular = parts
    _, mean = _weights(system, rest)
    seen = mean * jnp.abs(circular.otf) ** 2 * system.covariance.power > NEGLIGIBLE  # type: ignore[attr-defined]
    ny, nx = circular.shape
    rows, columns = np.abs(np.fft.fftfreq(ny) * ny), np.arange(nx // 2 + 1)
    return jnp.max(jnp.where(seen, rows[:, None], 0)), jnp.max(jnp.where(seen, columns[None], 0))


_reach_of_one = eqx.filter_jit(_reach)
_reach_of_many = eqx.filter_jit(eqx.filter_vmap(_reach))


def _even_fast(n: int) -> int:
    from scipy.fft import next_fast_len

    return 2 * int(next_fast_len(-(-n // 2), real=True))  # type: ignore[arg-type]


class TwoGrid(AbstractSolver):
    """Conjugate gradients on a coarse grid with fine residuals, for circular convolution and diagonal noise.

    It takes forward operators that are a pixelwise operator after a circulant one (convolution and mask, without
    binning), diagonal noise and a stationary prior. One step costs one FFT pair of the coarse grid; each stage, of
    which two or three do, one of the fine grid.

    Parameters
    ----------
    coarse
        Shape of the coarse grid, even; `TwoGrid.fitting` finds it.
    rtol
        Relative gap at which to stop. The error of a coarse solve is bounded by its last decreases; that of the coarse
        grid itself by a twentieth of what the last stage gained.
    """

    coarse: tuple[int, int] = eqx.field(static=True)
    rtol: float
    name: ClassVar[str] = "twogrid"

    def __init__(self, coarse: tuple[int, int], rtol: float = 1e-7):
        self.coarse, self.rtol = coarse, rtol

    @classmethod
    def fitting(cls, post: Posterior, rtol: float = 1e-7, *, stacked: bool = False) -> TwoGrid | None:
        """The solver for a posterior, None where it cannot take it or the coarse grid would not be much coarser.

        Parameters
        ----------
        post
            Posterior with concrete arrays; with ``stacked`` a batch of them along a leading axis.
        rtol
            Relative gap at which to stop.
        """
        single = jax.tree.map(lambda a: a[0], post) if stacked else post
        system = single.linear_gaussian()
        parts = _parts(system)
        if parts is None:
            return None
        shape = parts[1].shape
        reach = [int(np.max(k)) for k in (_reach_of_many if stacked else _reach_of_one)(post)]
        coarse = (_even_fast(2 * reach[0] + 2), _even_fast(2 * reach[1] + 2))
        too_fine = any(few >= many for few, many in zip(coarse, shape, strict=True))
        if too_fine or coarse[0] * coarse[1] > 0.5 * shape[0] * shape[1]:
            return None
        return cls(coarse, rtol)

    def prepare(self, post: Posterior) -> Problem:
        system = post.linear_gaussian()
        parts = _parts(system)
        if system is None or parts is None:
            raise CapabilityError(
                "two grids need a convolution with a mask (no binning), Diagonal noise and a stationary Gaussian prior"
            )
        rest, circular = parts
        shape, dtype = circular.shape, system.data.dtype
        weight, mean = _weights(system, rest)
        otf = circular.otf
        square = jnp.real(otf) ** 2 + jnp.imag(otf) ** 2
        inverse = jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(dtype).tiny))
        column, size = jnp.asarray(_columns(shape[1]), dtype), float(np.sqrt(shape[0] * shape[1]))
        scale = size / column * jax.lax.rsqrt(mean * square + 1 / system.covariance.power)  # type: ignore[attr-defined]
        h = jnp.sqrt(square) * scale
        fine = Level(weight - mean, h, h * (column / size) ** 2)
        synthesis = jnp.conj(otf * inverse) * scale
        none = jnp.zeros_like(system.data[0, 0])
        empty = Problem(fine, self._coarse(fine, shape), fine.g, none, synthesis, None, system.noise.inv, Adjoint(rest))
        return replace(empty.with_data(system.centred), mean=system.mean)

    def _coarse(self, fine: Level, shape: tuple[int, int]) -> Level:
        ny, nx = self.coarse
        inner = np.ones(half_shape(self.coarse))
        inner[ny // 2], inner[:, -1] = 0, 0  # the Nyquist frequency of the coarse grid has no partner
        ratio = ny * nx / (shape[0] * shape[1])
        weight = ratio * jnp.fft.irfft2(crop(jnp.fft.rfft2(fine.weight), self.coarse), s=self.coarse)
        inner = jnp.asarray(inner, fine.h.dtype)
        return Level(weight, crop(fine.h, self.coarse) * inner, crop(fine.g, self.coarse) * inner)

    def init(self, problem: Problem, x0: PyTree | None) -> State:
        c, r = jnp.zeros_like(problem.right), problem.right
        if x0 is not None:
            u = jnp.fft.rfft2(x0 if problem.mean is None else x0 - problem.mean)
            seen = problem.synthesis != 0  # where the PSF leaves nothing the coordinates have no phase
            c = jnp.where(seen, u / jnp.where(seen, problem.synthesis, 1), 0)
            r = problem.right - problem.fine.normal(c)
        never = jnp.asarray(jnp.inf, problem.null.dtype)
        carry = self._stage(problem, c, r, never, jnp.zeros((), jnp.int32))
        return State(c, carry, first_metrics(problem.null.dtype))

    def _stage(self, problem: Problem, c: Array, r: Array, before: Array, stage: Array) -> Carry:
        """Conjugate gradients for the correction of c, from zero; r is its fine residual."""
        objective = problem.null - 0.5 * _dot(problem.right + r, c)
        low = crop(r, self.coarse)
        if problem.is_split:
            low = jnp.stack([low.real, low.imag])
        start = jnp.full((WINDOW,), jnp.inf, objective.dtype)
        zero = jnp.zeros_like(objective)
        return Carry(r, objective, jnp.zeros_like(low), low, low, _dot(low, low), start, zero, before, stage)

    def _corrected(self, problem: Problem, state: State) -> Array:
        e = state.carry.correction
        low = jax.lax.complex(e[0], e[1]) if problem.is_split else e
        return state.x + paste(state.carry.residual, low)  # where the system is the identity, r is the correction

    def step(self, problem: Problem, state: State) -> State:
        s = state.carry
        # an early stage need not be better than what the next will find in any case
        first = max(FIRST, min(10 * self.rtol, 1e-3))
        aim = jnp.maximum(self.rtol, first * 0.1 ** s.stage.astype(s.objective.dtype))
        finished = FACTOR * jnp.sum(s.falls) <= aim * (s.objective - s.fallen)
        return jax.lax.cond(finished, self._outer, self._inner, problem, state)

    def _outer(self, problem: Problem, state: State) -> State:
        s = state.carry
        c = self._corrected(problem, state)
        new = self._stage(problem, c, problem.right - problem.fine.normal(c), s.fallen, s.stage + 1)
        rounding = ROUNDING * jnp.finfo(new.objective.dtype).eps * problem.null
        worse = (s.stage > 0) & ((new.objective > s.objective + rounding) | (s.fallen > 0.5 * s.before))
        code = jnp.where(worse, STALLED, RUNNING)
        code = jnp.where(jnp.isfinite(new.objective), code, NOT_FINITE).astype(jnp.int32)
        return State(c, new, eqx.tree_at(lambda m: m.code, state.metrics, code))

    def _inner(self, problem: Problem, state: State) -> State:
        s = state.carry
        q = problem.coarse.normal(s.direction)
        curvature = _dot(s.direction, q)
        alpha = jnp.where(curvature > 0, s.squared / curvature, 0)
        inner = s.inner - alpha * q
        squared = _dot(inner, inner)
        direction = inner + jnp.where(s.squared > 0, squared / s.squared, 0) * s.direction
        fall = 0.5 * alpha * s.squared
        falls = jnp.roll(s.falls, 1).at[0].set(fall)
        fallen = s.fallen + fall
        objective = s.objective - fallen
        coarse = jnp.where(s.stage > 0, CONTRACTION * fallen / objective, FIRST)
        gap = jnp.maximum(FACTOR * jnp.sum(falls) / objective, coarse)
        gap = jnp.where(objective == 0, 0.0, gap)  # no data, or data that are the prior's mean
        code = jnp.where(gap <= self.rtol, DONE, RUNNING)
        lost = objective <= ROUNDING * jnp.finfo(objective.dtype).eps * problem.null
        code = jnp.where(((curvature <= 0) | lost) & (s.squared > 0), STALLED, code)
        code = jnp.where(jnp.isfinite(squared), code, NOT_FINITE).astype(jnp.int32)
        metrics = eqx.tree_at(
            lambda m: (m.step, m.gap, m.code), state.metrics, (state.metrics.step + 1, gap.astype(fall.dtype), code)
        )
        carry = Carry(
            s.residual,
            s.objective,
            s.correction + alpha * s.direction,
            inner,
            direction,
            squared,
            falls,
            fallen,
            s.before,
            s.stage,
        )
        return State(state.x, carry, metrics)

    def latent(self, problem: Problem, state: State) -> PyTree:
        c = self._corrected(problem, state)
        u = jnp.fft.irfft2(problem.synthesis * c, s=problem.fine.weight.shape)
        return u if problem.mean is None else problem.mean + u
