"""Position, size and shape of the light of one image, and exact circles on its pixels.

Images are indexed (y, x), positions are (y, x) in pixels counted from zero, and pixel 0 reaches from -1/2 to 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from photutils.geometry import circular_overlap_grid  # type: ignore[attr-defined]  # it is compiled
from scipy.optimize import brentq

STEP = 0.5  # pixels in which the half-light radius is looked for


def circle(shape: Sequence[int], centre: tuple[float, float], radius: float) -> Float[np.ndarray, "y x"]:
    """The part of each pixel's area that lies within a circle, exactly."""
    (ny, nx), (y, x) = shape, centre
    if radius == 0:
        return np.zeros((ny, nx))  # photutils would divide by it
    return circular_overlap_grid(-0.5 - x, nx - 0.5 - x, -0.5 - y, ny - 0.5 - y, nx, ny, radius, 1, 1)


def inside(position: tuple[float, float], shape: Sequence[int]) -> bool:
    """Whether a position lies on a pixel."""
    return all(-0.5 <= c <= n - 0.5 for c, n in zip(position, shape, strict=True))


def centroid(light: Float[np.ndarray, "y x"]) -> tuple[float, float] | None:
    """``sum((y, x) f) / sum(f)``; None without positive flux, or where division by little flux puts it outside."""
    flux = float(light.sum())
    if not flux > 0:
        return None
    y = float(light.sum(axis=1) @ np.arange(light.shape[0])) / flux
    x = float(light.sum(axis=0) @ np.arange(light.shape[1])) / flux
    return (y, x) if inside((y, x), light.shape) else None


def half_light_radius(light: Float[np.ndarray, "y x"], centre: tuple[float, float]) -> float:
    """Smallest radius at which the curve of growth about `centre` reaches half of all the light, which is positive.

    Noise makes the curve fall as well as rise: it is followed outwards in steps of half a pixel, and the crossing is
    refined within the step.
    """
    half = float(light.sum()) / 2

    def excess(radius: float) -> float:
        return float(np.vdot(circle(light.shape, centre, radius), light)) - half

    radius = STEP
    while excess(radius) < 0 and radius < 2 * sum(light.shape):  # beyond the image all light is within
        radius += STEP
    return float(brentq(excess, radius - STEP, radius, xtol=1e-6))  # type: ignore[arg-type]


def adaptive_ellipticity(
    image: Float[np.ndarray, "y x"], centre: tuple[float, float], sigma: float, reach: float, max_steps: int = 200
) -> tuple[float, float] | None:
    r"""Ellipticity (e1, e2) of the adaptive moments M.

    M and c solve, with sums over pixels and ``r = (x, y)``,

    .. math::
        g(r) = f(r) \exp\left(-\tfrac12 (r - c)^T M^{-1} (r - c)\right), \qquad
        \sum g\,(r - c) = 0, \qquad \frac{\sum g\,(r - c)(r - c)^T}{\sum g} = \frac{M}{2}.

    ``e1 = (Mxx - Myy) / (Mxx + Myy)``, ``e2 = 2 Mxy / (Mxx + Myy)``, so that with the axes a and b of M
    ``|e| = (a^2 - b^2) / (a^2 + b^2)``.

    Parameters
    ----------
    image
        The image f.
    centre, sigma
        Where the iteration begins: (y, x), and the width of a round window, in pixels.
    reach
        How far, in pixels, the window may move from there, and how wide (root mean square of a and b) it may become.
    max_steps
        Steps after which it is given up; each halves the distance to M for a Gaussian source.

    Returns
    -------
    tuple or None
        None where the window shrinks below a tenth of a pixel, goes beyond the reach, or does not settle.

    References
    ----------
    Bernstein & Jarvis 2002, AJ 123, 583, section 3.1; Hirata & Seljak 2003, MNRAS 343, 459, section 2.1.
    """
    y, x = np.arange(image.shape[0], dtype=float), np.arange(image.shape[1], dtype=float)
    (cy, cx), (mxx, myy, mxy) = centre, (sigma**2, sigma**2, 0.0)
    for _ in range(max_steps):
        det, dy, dx = mxx * myy - mxy**2, y - cy, x - cx
        away = (cy - centre[0]) ** 2 + (cx - centre[1]) ** 2
        if not (det > 1e-4 and 0 < mxx + myy < 2 * reach**2 and away < reach**2):
            return None
        cross = np.outer(dy, dx) * (mxy / det)
        g = image * np.exp(cross - np.add.outer(dy**2 * (mxx / (2 * det)), dx**2 * (myy / (2 * det))))
        along_y, along_x = g.sum(axis=1), g.sum(axis=0)
        total = float(along_x.sum())
        if not total > 0:
            return None
        step_y, step_x = 2 * float(along_y @ dy) / total, 2 * float(along_x @ dx) / total
        new = (2 * float(along_x @ dx**2) / total, 2 * float(along_y @ dy**2) / total, 2 * float(dy @ g @ dx) / total)
        moved = max(abs(a - b) for a, b in zip(new, (mxx, myy, mxy), strict=True)) + step_y**2 + step_x**2
        (mxx, myy, mxy), cy, cx = new, cy + step_y, cx + step_x
        if moved < 1e-7 * abs(mxx + myy):
            return (mxx - myy) / (mxx + myy), 2 * mxy / (mxx + myy)
    return None
