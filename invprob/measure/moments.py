"""Position, size and shape of the light of one image, and exact circles on its pixels.

Images are indexed (y, x), positions are (y, x) in pixels counted from zero, and pixel 0 reaches from -1/2 to 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from photutils.geometry import circular_overlap_grid  # type: ignore[attr-defined]  # it is compiled
from scipy import ndimage
from scipy.optimize import brentq

STEP = 0.5  # pixels in which the half-light radius is looked for
SOFT = 1.0  # sigma in pixels of the blur under which an object is looked for and turned
FINEST = 0.25  # last step in which twice the centre of an object is looked for, pixels
SHARE = 0.8  # of the light of a window that lies above the isophote of an object


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


def main_object(light: Float[np.ndarray, "y x"], side: int) -> Float[np.ndarray, "side side"] | None:
    """The brightest object of an image alone, a little blurred, in the middle of a window.

    It reaches as far as it is connected above the isophote that holds 80 % of the window's light. None where nothing
    shines, or not all is a number.

    Parameters
    ----------
    light
        The image; it is dark beyond its edges and where it is below zero.
    side
        Pixels on a side of the window, about the brightest pixel.
    """
    soft = np.maximum(ndimage.gaussian_filter(np.asarray(light, float), SOFT), 0)
    if not (np.isfinite(soft).all() and soft.any()):
        return None
    middle = side // 2
    place = np.unravel_index(int(soft.argmax()), soft.shape)
    around = np.pad(soft, side)[tuple(slice(int(p) + side - middle, int(p) + 2 * side - middle) for p in place)]
    falling = np.sort(around, axis=None)[::-1]
    isophote = falling[np.searchsorted(np.cumsum(falling), SHARE * falling.sum())]
    pieces = np.zeros(around.shape, int)
    ndimage.label(around >= isophote, output=pieces)
    return np.where(pieces == pieces[middle, middle], around, 0.0)


def asymmetry(light: Float[np.ndarray, "y x"]) -> float:
    """``sum |f - f_180| / (2 sum f)``, f_180 turned by 180 degrees about the centre that makes this least.

    0 for what is symmetric, 1 for what does not meet itself. The centre is looked for downhill from the centroid, to an
    eighth of a pixel; between the middles and edges of pixels f is interpolated linearly.

    Parameters
    ----------
    light
        One object on a dark sky, nowhere below zero, with some light.

    References
    ----------
    Conselice, Bershady & Jangren 2000, ApJ 529, 886; Lotz, Primack & Madau 2004, AJ 128, 163.
    """
    centre = centroid(light)
    assert centre is not None
    y, x = (float(round(2 * c)) for c in centre)
    least = _unlike_turned(light, (y, x))
    step = 1.0
    while step >= FINEST:
        near = [(y + i * step, x + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        lowest, at = min((_unlike_turned(light, twice), twice) for twice in near)
        if lowest < least:
            least, (y, x) = lowest, at
        else:
            step /= 2
    return least / (2 * float(light.sum()))


def _unlike_turned(light: Float[np.ndarray, "y x"], twice: tuple[float, float]) -> float:
    """``sum |f - f_180|`` about the centre c, of which twice is given."""
    whole = [round(t) for t in twice]
    part = [(w - t) / 2 for w, t in zip(whole, twice, strict=True)]
    f = ndimage.shift(light, part, order=1) if any(part) else light
    # pixel p comes to 2 c - p, and the reversed array has n - 1 - p there
    away = [w - (n - 1) for w, n in zip(whole, f.shape, strict=True)]
    to = tuple(slice(max(0, a), n + min(0, a)) for a, n in zip(away, f.shape, strict=True))
    of = tuple(slice(max(0, -a), n + min(0, -a)) for a, n in zip(away, f.shape, strict=True))
    other = np.zeros(f.shape)
    other[to] = f[::-1, ::-1][of]
    return float(np.abs(f - other).sum())
