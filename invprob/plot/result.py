"""A picture of a deconvolution, fit for a talk: data, estimate, model, residual and error."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm, Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, AuxTransformBox, TextArea, VPacker
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.ticker import FuncFormatter

from invprob.observation import Frame, Observation
from invprob.plot.figures import save_figure
from invprob.results import Estimate
from invprob.units import is_surface_brightness

MASKED = "#8c9aa5"  # a grey-blue that neither colour map has
_TEXT: dict[str, Any] = {"fontsize": 9}
_WIDTH, _ROOM = 11.0, 1.6  # inches: of the figure, and what labels and colour bar take beside an image


def plot_result(
    result: Estimate,
    observation: Observation,
    path: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    dpi: int = 150,
) -> Figure:
    """Draw data, estimate, model, residual in sigmas and, where there is one, the error.

    Data, estimate and model share one asinh stretch, linear within about three sigmas of the sky. The
    estimate is shown per *data* pixel, so that equal colours are equal surface brightness. A sky level above
    five sigmas is subtracted from what is shown, and named at the colour bar. Masked pixels are grey. Pixels
    are shown as they are, north not turned up.

    Parameters
    ----------
    result
        What an inference gave; `image` is needed, other parts are left out where they are None.
    observation
        The data it was made from.
    path
        File to write (the ending chooses the format: png, pdf, svg, jpg); None only returns the figure.
    overwrite
        Whether a file that exists may be replaced.
    dpi
        Dots per inch of the file.

    Returns
    -------
    Figure
        A matplotlib figure on its own canvas; `matplotlib.pyplot` knows nothing of it.

    Raises
    ------
    OutputError
        When the file exists or cannot be written.
    """
    panels = _panels(result, observation)
    ny, nx = observation.shape
    tall = min(max(ny / nx, 0.4), 2.5)
    lower = max(len(panels) - 2, 1)
    widths = (_WIDTH / 2 - _ROOM, _WIDTH / lower - _ROOM)  # of an image in the upper and in the lower row
    heights = [w * tall + 0.75 for w in (widths if len(panels) > 2 else widths[:1])]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.45), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 2 * lower, height_ratios=heights)
    wcs = _celestial(observation.frame)
    # sky axes do not tell the layout of their colour bars: room is left for them by hand
    side, right = (0.13, 0.45) if wcs is not None else (0.06, 0.0)
    rect = (0.0, 0.0, 1 - right / _WIDTH, 1.0)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=side, h_pad=0.06, wspace=0.0, hspace=0.0, rect=rect)
    for i, panel in enumerate(panels):
        row, column, span = (0, i, lower) if i < 2 else (1, i - 2, 2)
        place = grid[row, column * span : (column + 1) * span]
        axes: Any = figure.add_subplot(place, **({"projection": wcs} if wcs is not None else {}))
        _draw(figure, axes, panel, observation)
        _label(axes, wcs, observation.frame, left=column == 0)
        if i == 0:
            _scale_bar(axes, observation.frame)
            _psf_disc(axes, observation)
    figure.suptitle(_title(result, observation), fontsize=11)
    if path is not None:
        save_figure(figure, path, overwrite, dpi)
    return figure


def _panels(result: Estimate, observation: Observation) -> list[dict[str, Any]]:
    """What each panel shows: title, array on the footprint, norm, colour map, label of the colour bar."""
    frame, valid = observation.frame, observation.valid
    factor = result.frame.factor if result.frame is not None else 1
    per_pixel = 1.0 if is_surface_brightness(frame.unit) else float(factor**2)
    sigma = float(np.median(np.sqrt(observation.variance[valid])))
    data = np.where(valid, observation.data, np.nan).astype(float)
    image = np.asarray(result.image, dtype=float) * per_pixel
    shown = [("Data", data), ("Estimate", image)]
    if result.model is not None:
        shown.append(("Model", np.asarray(result.model, dtype=float)))
    sky = _sky(data, sigma)
    # an estimate without the sky, where this was fitted as a number of its own, keeps its own zero
    level = {name: 0.0 if abs(sky) < 5 * sigma else sky for name, _ in shown}
    if abs(_sky(image, sigma) - sky) > 5 * sigma:
        level["Estimate"] = 0.0
    error = None if result.std is None else np.asarray(result.std, dtype=float) * per_pixel
    norms = _stretches({name: array - level[name] for name, array in shown}, sigma, error)
    unit = _unit(frame.unit)
    per = "" if is_surface_brightness(frame.unit) else (" / data pixel" if unit else "per data pixel")
    cmap = _masked_map("inferno")
    out = []
    for name, array in shown:
        label = f"{unit}{per}" + (f"  (less sky {level[name]:.5g})" if level[name] else "")
        out.append(
            {
                "name": name,
                "array": array - level[name],
                "norm": norms[name],
                "cmap": cmap,
                "label": label,
                "extend": "both",
            }
        )
    if result.residual is not None:
        out.append(
            {
                "name": "Residual",
                "array": np.asarray(result.residual, dtype=float),
                "norm": Normalize(-5, 5),
                "cmap": _masked_map("RdBu_r"),
                "label": "(data − model) / σ",
                "extend": "both",
            }
        )
    if error is not None:
        low, high = np.nanpercentile(error, [0.1, 99.9])
        spread = max(high - low, 0.2 * high)
        out.append(
            {
                "name": "Error (1σ)",
                "array": error,
                "norm": Normalize(max(low - 0.1 * spread, 0.0), high + 0.1 * spread),
                "cmap": _masked_map("cividis"),
                "label": f"{unit}{per}",
                "extend": "max",
            }
        )
    return out


def _sky(array: Float[np.ndarray, "y x"], sigma: float) -> float:
    """The level of the sky: the median, clipped of what is above, at `sigma` and the scatter itself."""
    values = array[np.isfinite(array)]
    level = float(np.median(values))
    for _ in range(10):
        below = values[values <= level]
        width = max(1.4826 * float(np.median(level - below)), 1e-3 * sigma)
        level = float(np.median(values[values <= level + 2 * width]))
    return level


def _stretches(
    arrays: dict[str, Float[np.ndarray, "y x"]], sigma: float, error: Float[np.ndarray, "y x"] | None
) -> dict[str, Normalize]:
    """One asinh stretch for all, from a little below the sky to the brightest pixels.

    The estimate has its own where its pixels are much noisier than the data's, else that noise would fill the panel.
    """
    bright = max(float(np.nanpercentile(a, 99.95)) for a in arrays.values())
    norms = dict.fromkeys(arrays, _stretch(arrays["Data"], sigma, bright))
    noise = sigma if error is None else float(np.nanmedian(error))
    if noise > sigma:
        norms["Estimate"] = _stretch(arrays["Estimate"], noise, bright)
    return norms


def _stretch(array: Float[np.ndarray, "y x"], sigma: float, bright: float) -> Normalize:
    dark = float(np.nanpercentile(array, 1.0))
    low = max(dark, -3 * sigma) if dark < 0 else dark - sigma
    return AsinhNorm(linear_width=3 * sigma, vmin=low, vmax=max(bright, low + 10 * sigma))


def _masked_map(name: str) -> Colormap:
    return colormaps[name].with_extremes(bad=MASKED)


def _unit(unit: str) -> str:
    """A unit short enough for a colour bar."""
    unit = " ".join(re.sub(r"\([^()]*[a-z]{2}[^()]*\)\s*$", "", unit).split()) if len(unit) > 24 else unit.strip()
    return unit if len(unit) <= 32 else unit[:31] + "…"


def _draw(figure: Figure, axes: Any, panel: dict[str, Any], observation: Observation) -> None:
    """Show one array over the footprint of the data, with its colour bar."""
    ny, nx = observation.shape
    image = axes.imshow(
        np.ma.masked_invalid(panel["array"]),
        origin="lower",
        extent=(-0.5, nx - 0.5, -0.5, ny - 0.5),
        interpolation="nearest",
        norm=panel["norm"],
        cmap=panel["cmap"],
    )
    axes.set_title(panel["name"], fontsize=11)
    # an inset is as tall as the image, which a colour bar of its own space is not
    bar = figure.colorbar(image, cax=axes.inset_axes((1.025, 0.0, 0.045, 1.0)), extend=panel["extend"])
    bar.set_label(panel["label"], **_TEXT)
    bar.ax.tick_params(labelsize=8)
    if isinstance(panel["norm"], AsinhNorm):
        bar.set_ticks(_asinh_ticks(panel["norm"]))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
        bar.ax.minorticks_off()


def _asinh_ticks(norm: AsinhNorm) -> list[float]:
    """Round values, 1, 2 or 5 times a power of ten, that lie apart on the bar."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    powers = range(int(np.floor(np.log10(norm.linear_width))) - 1, int(np.ceil(np.log10(high))) + 1)
    steps = sorted(
        {s * m * 10.0**p for p in powers for m in (1, 2, 5) for s in (-1, 1)} | {0.0},
        key=lambda v: (abs(v), -v),
    )
    ticks: list[float] = []
    for value in [0.0, *sorted((v for v in steps if v), key=lambda v: (-(f"{v:e}"[0] == "1"), abs(v)))]:
        if low <= value <= high and all(abs(float(norm(value)) - float(norm(t))) > 0.1 for t in ticks):
            ticks.append(value)
    return sorted(ticks)


def _celestial(frame: Frame) -> WCS | None:
    """The sky coordinates of the data's pixels, None where there are none that matplotlib can use."""
    if frame.header is None:
        return None
    # tables of distortion live in other extensions; for axis labels they do not matter
    skip = ("CPDIS", "CQDIS", "D2IM", "DP1", "DP2", "DQ1", "DQ2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cards = [c for c in frame.header.cards if not str(c.keyword).startswith(skip)]
            wcs = WCS(fits.Header(cards), naxis=2)
            ny, nx = frame.data_shape
            corners = wcs.all_pix2world([0, nx - 1, 0, nx - 1], [0, 0, ny - 1, ny - 1], 0)
        except Exception:  # wcslib raises many kinds; pixel axes serve as well
            return None
    return wcs if wcs.has_celestial and np.isfinite(corners).all() else None


def _label(axes: Any, wcs: WCS | None, frame: Frame, left: bool) -> None:
    """Axis labels: sky, arcsec or pixels; those of the vertical axis only at the left of a row."""
    if wcs is not None:
        names = {"RA": "RA", "DEC": "Dec", "GLON": "l", "GLAT": "b"}
        # matplotlib leaves the place of each coordinate open; the one that changes most along x goes below
        with_other_prior = abs(wcs.pixel_scale_matrix[0, 0]) < abs(wcs.pixel_scale_matrix[0, 1])
        for i in (0, 1):
            axis, edge = axes.coords[i], "b" if (i == 0) != with_other_prior else "l"
            kind = wcs.wcs.ctype[i].split("-")[0]
            for place in (axis.set_ticks_position, axis.set_ticklabel_position, axis.set_axislabel_position):
                place(edge)
            shown = left or edge == "b"
            axis.set_auto_axislabel(False)
            axis.set_axislabel(names.get(kind, kind) if shown else "", minpad=0.6, **_TEXT)
            axis.set_ticks(number=4)
            axis.set_ticklabel(size=8, exclude_overlapping=True)
            axis.set_ticklabel_visible(shown)
            axis.tick_params(direction="in", color="white", width=0.6)
        return
    scale = frame.pixel_scale
    axes.tick_params(labelsize=8, direction="in", color="white", labelleft=left)
    ny, nx = frame.data_shape
    for axis, n, shown in ((axes.xaxis, nx, True), (axes.yaxis, ny, left)):
        if scale:
            step = _round_step(n * scale / 4)
            offsets = np.arange(-np.floor(n * scale / 2 / step), np.floor(n * scale / 2 / step) + 1) * step
            axis.set_ticks(offsets / scale + (n - 1) / 2, [_number(v) for v in offsets])
        if shown:
            axis.set_label_text("arcsec" if scale else "pixel", **_TEXT)


def _number(value: float) -> str:
    """A tick label in plain digits where these are few, else with a power of ten."""
    text = f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.0e}"
    if "e" in text:
        digits, power = text.split("e")
        return f"${digits}\\times10^{{{int(power)}}}$"
    return text.replace("-", "−")


def _round_step(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `value`."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(m for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)))


def _scale_bar(axes: Any, frame: Frame) -> None:
    """A bar of a round number of arcsec in the lower left corner."""
    if not frame.pixel_scale:
        return
    length = _round_step(frame.data_shape[1] * frame.pixel_scale / 4)
    text = f"{length:g}″" if length < 60 else f"{length / 60:.3g}′"
    bar = AuxTransformBox(axes.transData)
    thickness = frame.data_shape[0] * 0.008
    bar.add_artist(Rectangle((0, 0), length / frame.pixel_scale, thickness, color="white", lw=0))
    label = TextArea(text, textprops={"color": "white", "size": 9})
    box = VPacker(children=[label, bar], align="center", pad=0, sep=3)
    _anchor(axes, box, "lower left")


def _psf_disc(axes: Any, observation: Observation) -> None:
    """A disc as wide as the PSF, as radio astronomers show their beam."""
    fwhm = _fwhm(observation)
    if fwhm is None:
        return
    disc = AuxTransformBox(axes.transData)
    disc.add_artist(Ellipse((0, 0), fwhm, fwhm, fc="white", ec="none", alpha=0.9))
    label = TextArea("PSF", textprops={"color": "white", "size": 8})
    _anchor(axes, VPacker(children=[label, disc], align="center", pad=0, sep=3), "lower right")


def _anchor(axes: Any, box: Any, where: Any) -> None:
    """Put a mark in a corner on a dark ground, so that it is seen over a bright image."""
    held = AnchoredOffsetbox(where, child=box, pad=0.35, borderpad=0.4, frameon=True)
    held.patch.set(facecolor="black", alpha=0.45, linewidth=0)
    axes.add_artist(held)


def _fwhm(observation: Observation) -> float | None:
    """Full width at half maximum of the PSF in data pixels."""
    psf = observation.psf
    return None if psf is None else psf.fwhm / psf.oversampling_on(observation.frame)


def _title(result: Estimate, observation: Observation) -> str:
    """File, PSF, algorithm and fit on one line."""
    parts = [observation.name]
    fwhm, scale = _fwhm(observation), observation.frame.pixel_scale
    if fwhm is not None:
        parts.append(f"PSF FWHM {fwhm * scale:.2f}″" if scale else f"PSF FWHM {fwhm:.3g} pixels")
    factor = result.frame.factor if result.frame is not None else 1
    if factor > 1:
        parts.append(f"pixels {factor}× finer")
    parts.append(result.solver)
    if result.effective_dof:
        parts.append(f"χ²/dof = {result.chi2 / result.effective_dof:.2f}")
    else:
        parts.append(f"χ²/N = {result.reduced_chi2:.2f}")
    if not result.status.ok:
        parts.append(f"NOT CONVERGED ({result.status.name.lower().replace('_', ' ')})")
    return "   ·   ".join(parts)
