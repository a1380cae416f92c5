"""Linear maps in which images are sparse: differences, the starlet and orthogonal wavelets.

Their adjoints are written by hand: a sparse prior applies both at each iteration.
"""

from __future__ import annotations

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from invprob.operators.base import AbstractLinearOperator, Structure

B3 = (0.0625, 0.25, 0.375)  # half of [1 4 6 4 1] / 16, from the outside in
MODES = ("constant", "wrap")  # the paddings with which the smoothing is its own adjoint


class Gradient(AbstractLinearOperator):
    """Forward differences along y and x, ``(x[i + 1, j] - x[i, j], x[i, j + 1] - x[i, j])``.

    Parameters
    ----------
    shape
        Shape of the image, ``(y, x)``; the output has a leading axis of two.

    Notes
    -----
    Periodic: the neighbour of the last row is the first one.
    """

    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, shape: tuple[int, int]):
        self.shape = tuple(shape)  # type: ignore[assignment]

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure((2, *self.shape))

    @property
    def normal_is_circulant(self):
        return True

    def apply(self, x):
        return jnp.stack([jnp.roll(x, -1, axis) - x for axis in (0, 1)])

    def adjoint(self, u):
        return jnp.roll(u[0], 1, 0) - u[0] + jnp.roll(u[1], 1, 1) - u[1]


def _smooth(c: Float[Array, "y x"], scale: int, mode: str) -> Float[Array, "y x"]:
    """B3 smoothing along both axes with holes of ``2**scale``; its own adjoint in both modes."""
    hole = 2**scale
    for axis, n in enumerate(c.shape):
        width = [(0, 0), (0, 0)]
        width[axis] = (2 * hole, 2 * hole)
        # without the barrier XLA fuses the padding into each of the five slices, which is several times slower
        padded = jax.lax.optimization_barrier(jnp.pad(c, width, mode=mode))
        taps = [jax.lax.slice_in_dim(padded, i * hole, i * hole + n, axis=axis) for i in range(5)]
        c = B3[2] * taps[2] + B3[1] * (taps[1] + taps[3]) + B3[0] * (taps[0] + taps[4])
    return c


def _checked_scales(scales: int | None, shape: tuple[int, int]) -> int:
    most = max(1, int(np.log2(min(shape))))
    scales = max(1, most - 1) if scales is None else int(scales)
    if not 1 <= scales <= most:
        raise ValueError(
            f"{scales} starlet scales were asked for; an image of {shape} has 1 to {most}, "
            "since the filter of the last one may not reach beyond the image"
        )
    return scales


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"the starlet continues an image by zeros ('constant') or periodically ('wrap'), not {mode!r}")


@functools.cache
def starlet_norms(scales: int) -> Float[np.ndarray, " scales"]:
    """Standard deviation of the detail coefficients of white noise of unit variance, on an infinite grid."""
    lines = [np.ones(1)]
    for j in range(scales):
        kernel = np.zeros(4 * 2**j + 1)
        kernel[:: 2**j] = np.array([1, 4, 6, 4, 1]) / 16
        lines.append(np.convolve(lines[-1], kernel))

    def product(a, b):  # of two centred filters
        margin = (len(a) - len(b)) // 2
        return float(a[margin : margin + len(b)] @ b)

    # a smoothing is separable, so that inner products of images are squares of those of lines
    pairs = itertools.pairwise(lines)
    norms = np.sqrt([product(a, a) ** 2 - 2 * product(b, a) ** 2 + product(b, b) ** 2 for a, b in pairs])
    norms.setflags(write=False)
    return norms


class Starlet(AbstractLinearOperator):
    """The isotropic undecimated wavelet transform with the B3 spline ("a trous").

    ``c_0 = x``, ``c_{j+1} = S_j c_j``, ``w_j = c_j - c_{j+1}``, where S_j smooths each axis by [1 4 6 4 1] / 16 with
    holes of ``2**j`` pixels. The output is ``{"details": w, "coarse": c_J}``, and `reconstruct` adds it up to x.

    Parameters
    ----------
    shape
        Shape of the image, ``(y, x)``.
    scales
        Number J of detail scales; default: one less than the image allows.
    mode
        How an image is continued, at each scale, as in `jax.numpy.pad`: "constant" by zeros, "wrap" periodically.

    Notes
    -----
    Each S_j is symmetric in both modes, so that the adjoint is a recursion of the same cost.

    References
    ----------
    Starck, Fadili & Murtagh 2007, IEEE Trans. Image Processing 16, 297.
    """

    shape: tuple[int, int] = eqx.field(static=True)
    scales: int = eqx.field(static=True)
    mode: str = eqx.field(static=True)

    def __init__(self, shape: tuple[int, int], scales: int | None = None, mode: str = "constant"):
        _check_mode(mode)
        self.shape = tuple(shape)  # type: ignore[assignment]
        self.scales, self.mode = _checked_scales(scales, self.shape), mode

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure({"details": (self.scales, *self.shape), "coarse": self.shape})

    @property
    def normal_is_circulant(self):
        return self.mode == "wrap"

    def apply(self, x):
        details = []
        for j in range(self.scales):
            smoother = _smooth(x, j, self.mode)
            details.append(x - smoother)
            x = smoother
        return {"details": jnp.stack(details), "coarse": x}

    def adjoint(self, u):
        out = u["coarse"]
        for j in reversed(range(self.scales)):
            out = u["details"][j] + _smooth(out - u["details"][j], j, self.mode)
        return out

    def reconstruct(self, coefficients: dict[str, Float[Array, ...]]) -> Float[Array, "y x"]:
        """The image of these coefficients, their sum over all scales."""
        return coefficients["coarse"] + jnp.sum(coefficients["details"], axis=0)


class StarletDetails(AbstractLinearOperator):
    """The detail coefficients of `Starlet`, each scale times a number: what a sparse prior penalizes.

    Parameters
    ----------
    weights
        One number for each scale, finest first.
    shape
        Shape of the image, ``(y, x)``.
    mode
        "constant" for zeros outside the image, "wrap" for a periodic one.
    """

    weights: Float[Array, " scales"]
    shape: tuple[int, int] = eqx.field(static=True)
    mode: str = eqx.field(static=True)

    def __init__(self, weights, shape: tuple[int, int], mode: str = "constant"):
        _check_mode(mode)
        self.weights = jnp.asarray(weights)
        self.shape, self.mode = tuple(shape), mode  # type: ignore[assignment]
        if self.weights.ndim != 1:
            raise ValueError(f"the starlet takes one weight for each scale, not an array of {self.weights.shape}")
        _checked_scales(self.weights.shape[0], self.shape)

    @property
    def scales(self) -> int:
        """Number of scales."""
        return self.weights.shape[-1]

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure((self.scales, *self.shape))

    @property
    def normal_is_circulant(self):
        return self.mode == "wrap"

    def apply(self, x):
        details = []
        for j in range(self.scales):
            smoother = _smooth(x, j, self.mode)
            details.append(self.weights[j] * (x - smoother))
            x = smoother
        return jnp.stack(details)

    def adjoint(self, u):
        *finer, coarsest = range(self.scales)
        scaled = self.weights[coarsest] * u[coarsest]
        out = scaled - _smooth(scaled, coarsest, self.mode)
        for j in reversed(finer):
            scaled = self.weights[j] * u[j]
            out = scaled + _smooth(out - scaled, j, self.mode)
        return out


def _orthogonal_taps(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low- and high-pass filters from PyWavelets, in the order in which they are laid on the image."""
    import pywt

    wavelet = pywt.Wavelet(name)  # type: ignore[attr-defined]
    low, high = np.asarray(wavelet.rec_lo), np.asarray(wavelet.rec_hi)
    gram = [low[2 * m :] @ low[: len(low) - 2 * m] for m in range(len(low) // 2)]
    if not np.allclose(gram, np.eye(1, len(gram))[0], atol=1e-8):
        raise ValueError(f"the wavelet {name!r} is not orthogonal; take one of the families haar, db, sym or coif")
    return tuple(map(float, low)), tuple(map(float, high))


class Wavelet(AbstractLinearOperator):
    """The orthogonal separable wavelet transform of an image: ``W.T W = W W.T = I``.

    The output has the image's shape, in the nested layout: after one level the coarse part lies in the corner of
    low indices, with the horizontal, vertical and diagonal details around it; each level acts on that corner.

    Parameters
    ----------
    shape
        Shape of the image, ``(y, x)``; any sides.
    name
        Orthogonal wavelet of PyWavelets: "haar", "db4", "sym8", "coif2".
    levels
        Number of levels. Default: until the coarse part would be shorter than the filter, at least one.

    Notes
    -----
    Periodic. Where a side is odd its last sample is passed on to the coarse part unchanged, which keeps the
    transform orthogonal.

    References
    ----------
    Mallat 1989, IEEE Trans. Pattern Analysis and Machine Intelligence 11, 674.
    """

    shape: tuple[int, int] = eqx.field(static=True)
    levels: int = eqx.field(static=True)
    filters: tuple[tuple[float, ...], tuple[float, ...]] = eqx.field(static=True)

    def __init__(self, shape: tuple[int, int], name: str = "db4", levels: int | None = None):
        self.shape = tuple(shape)  # type: ignore[assignment]
        self.filters = _orthogonal_taps(name)
        most, long = max(1, int(np.log2(min(shape)))), len(self.filters[0]) - 1
        self.levels = max(1, int(np.log2(max(1, min(shape) / long)))) if levels is None else int(levels)
        if not 1 <= self.levels <= most:
            raise ValueError(f"{levels} wavelet levels were asked for; an image of {self.shape} has 1 to {most}")

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure(self.shape)

    @property
    def normal_is_circulant(self):
        return True

    def _block(self, level: int) -> tuple[slice, slice]:
        """Where the coarse part lies after some levels."""
        ny, nx = (-(-n // 2**level) for n in self.shape)
        return slice(ny), slice(nx)

    @property
    def is_detail(self) -> Bool[np.ndarray, "y x"]:
        """True where a coefficient is a detail, False in the coarse block."""
        mask = np.ones(self.shape, bool)
        mask[self._block(self.levels)] = False
        return mask

    def apply(self, x):
        for level in range(self.levels):
            part = x[self._block(level)]
            part = self._split(self._split(part).T).T
            x = part if level == 0 else x.at[self._block(level)].set(part)
        return x

    def adjoint(self, u):
        for level in reversed(range(self.levels)):
            part = self._merge(self._merge(u[self._block(level)].T).T)
            u = part if level == 0 else u.at[self._block(level)].set(part)
        return u

    def _split(self, x):
        """One level along the first axis: ``coarse[k] = sum_i low[i] x[2 k + i]``, an odd last sample, details."""
        half = x.shape[0] // 2
        if half == 0:
            return x
        pairs = x[: 2 * half].reshape(half, 2, -1)
        reach = len(self.filters[0]) // 2
        pairs = jax.lax.optimization_barrier(jnp.pad(pairs, ((0, reach - 1), (0, 0), (0, 0)), mode="wrap"))
        coarse, detail = (
            sum(taps[2 * m + p] * pairs[m : m + half, p] for m in range(reach) for p in (0, 1)) for taps in self.filters
        )
        return jnp.concatenate([coarse, x[2 * half :], detail])

    def _merge(self, u):
        """The adjoint of `_split`."""
        half = u.shape[0] // 2
        if half == 0:
            return u
        reach = len(self.filters[0]) // 2
        bands = jnp.stack([u[:half], u[u.shape[0] - half :]], 1)
        bands = jax.lax.optimization_barrier(jnp.pad(bands, ((reach - 1, 0), (0, 0), (0, 0)), mode="wrap"))
        even, odd = (
            sum(
                taps[2 * m + p] * bands[reach - 1 - m : reach - 1 - m + half, b]
                for m in range(reach)
                for b, taps in enumerate(self.filters)
            )
            for p in (0, 1)
        )
        pairs = jnp.stack([even, odd], 1).reshape(2 * half, -1)
        return jnp.concatenate([pairs, u[half : u.shape[0] - half]])
