"""The picture: its panels, labels and colours, and that it is written whole or not at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from invprob.errors import OutputError, UsageError
from invprob.observation import PSF, Frame, InputFile, Observation
from invprob.plot.result import MASKED, plot_result
from invprob.results import Estimate, Status

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE = (30, 40)
TAN = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 10.0,
    "CRVAL2": 20.0,
    "CRPIX1": 20.0,
    "CRPIX2": 15.0,
}
UPRIGHT = TAN | {"CD1_1": -1e-4, "CD2_2": 1e-4}
TURNED = TAN | {"CD1_2": 1e-4, "CD2_1": 1e-4}


def make(sky=0.0, unit="count", header=None, scale=0.36, factor=2, **more):
    """An observation of a round source with a hole, and an estimate of it."""
    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE)
    source = 200 * np.exp(-((y - 14) ** 2 + (x - 18) ** 2) / 18)
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 30:36] = True
    frame = Frame(SHAPE, scale, unit, header=fits.Header(header) if header else None)
    data = source + sky + rng.normal(size=SHAPE)
    psf = PSF.gaussian(3.0)
    obs = Observation.from_arrays(
        data, 1.0, mask, psf=psf, frame=frame, inputs=(InputFile("image", "dir/galaxy.fits", "SCI", ""),)
    )
    image = np.kron(source, np.ones((factor, factor))) / factor**2
    parts = {
        "image": image,
        "std": np.full(image.shape, 0.3),
        "model": source + sky,
        "residual": np.where(obs.valid, data - source - sky, np.nan),
        "effective_dof": 1000.0,
        "frame": frame.refine(factor),
    }
    return Estimate(None, Status.CONVERGED, "CG", "", 9, 1100.0, 1176, **(parts | more)), obs


def panels(figure):
    return [a for a in figure.axes if a.get_title()]


def titles(figure):
    return [a.get_title() for a in panels(figure)]


def shown(figure, title):
    return next(a for a in panels(figure) if a.get_title() == title).images[0]


def bar_labels(figure):
    return [c.get_ylabel() for a in panels(figure) for c in a.child_axes]


def test_panels_and_labels():
    figure = plot_result(*make())
    assert titles(figure) == ["Data", "Estimate", "Model", "Residual", "Error (1σ)"]
    labels = bar_labels(figure)
    assert labels == ["count / data pixel"] * 3 + ["(data − model) / σ", "count / data pixel"]
    assert {a.get_xlabel() for a in panels(figure)} == {"arcsec"}
    title = figure.get_suptitle()
    for words in ("galaxy.fits", "PSF FWHM 1.1", "2× finer", "CG", "χ²/dof = 1.10"):
        assert words in title
    assert "NOT CONVERGED" not in title


def test_parts_that_are_missing_are_left_out():
    result, obs = make(std=None, effective_dof=None)
    figure = plot_result(result, obs)
    assert titles(figure) == ["Data", "Estimate", "Model", "Residual"]
    assert "χ²/N = 0.94" in figure.get_suptitle()
    bare = replace(result, model=None, residual=None, frame=None, status=Status.MAX_STEPS)
    figure = plot_result(bare, replace(obs, psf=None, frame=Frame(SHAPE), inputs=()))
    assert titles(figure) == ["Data", "Estimate"]
    assert "NOT CONVERGED (max steps)" in figure.get_suptitle()
    assert "PSF" not in figure.get_suptitle()
    assert {a.get_xlabel() for a in panels(figure)} == {"pixel"}


def test_equal_colour_is_equal_surface_brightness():
    result, obs = make()
    figure = plot_result(result, obs)
    assert shown(figure, "Data").norm is shown(figure, "Model").norm
    assert shown(figure, "Estimate").get_array().max() == pytest.approx(4 * result.image.max())
    assert shown(figure, "Error (1σ)").get_array().max() == pytest.approx(1.2)
    # of a surface brightness the latent pixel has the value of the data pixel already
    result, obs = make(unit="MJy/sr")
    figure = plot_result(result, obs)
    assert shown(figure, "Estimate").get_array().max() == pytest.approx(result.image.max())
    assert bar_labels(figure)[0] == "MJy/sr"
    residual = shown(figure, "Residual")
    assert (residual.norm.vmin, residual.norm.vmax) == (-5, 5)


@pytest.mark.parametrize("times", [0.1, 10.0])
def test_an_estimate_noisier_than_the_data_has_its_own_stretch(times):
    result, obs = make()
    result = replace(result, std=times * np.sqrt(np.median(obs.variance)) / 4 * np.ones_like(result.std))
    figure = plot_result(result, obs)
    data, estimate = (shown(figure, name).norm for name in ("Data", "Estimate"))
    assert (estimate is data) == (times < 1)
    assert estimate.linear_width == pytest.approx(max(times, 1.0) * data.linear_width)
    assert estimate.vmax == data.vmax


@pytest.mark.parametrize("in_image", [False, True])
def test_a_large_sky_is_subtracted_and_named(in_image):
    result, obs = make(sky=3171.0)
    if in_image:
        result = replace(result, image=result.image + 3171.0 / 4)
    figure = plot_result(result, obs)
    assert "less sky 317" in bar_labels(figure)[0]
    assert ("less sky" in bar_labels(figure)[1]) is in_image
    peaks = [float(shown(figure, name).get_array().max()) for name in ("Data", "Estimate", "Model")]
    assert np.allclose(peaks, 200, atol=5)


@pytest.mark.parametrize("cards", [UPRIGHT, TURNED])
def test_sky_axes(cards, tmp_path):
    figure = plot_result(*make(header=cards), tmp_path / "out.png")
    ra, dec = panels(figure)[0].coords
    assert (ra.get_axislabel(), dec.get_axislabel()) == ("RA", "Dec")
    assert ra.get_ticklabel_position() == (["b"] if cards is UPRIGHT else ["l"])
    # inner panels keep the labels below only
    inner = [c.get_axislabel() for c in panels(figure)[1].coords]
    assert inner == (["RA", ""] if cards is UPRIGHT else ["", "Dec"])


def test_odd_coordinates_fall_back_to_pixels():
    for cards in (TAN | {"CTYPE2": "FREQ"}, TAN | {"CD1_1": 0.0, "CD2_2": 0.0}, {"CTYPE1": "LINEAR"}):
        figure = plot_result(*make(header=cards))
        assert {a.get_xlabel() for a in panels(figure)} == {"arcsec"}
    # tables of distortion in other extensions are not needed for labels
    figure = plot_result(*make(header=UPRIGHT | {"CPDIS1": "LOOKUP", "D2IMDIS1": "LOOKUP"}))
    assert hasattr(panels(figure)[0], "coords")


def test_the_written_picture_is_not_blank(tmp_path):
    path = tmp_path / "out.png"
    plot_result(*make(header=UPRIGHT), path)
    pixels = imread(path)[..., :3]
    assert pixels.std() > 0.1
    assert len(np.unique((pixels * 255).astype(int).reshape(-1, 3), axis=0)) > 200
    masked = np.all(np.abs(pixels - to_rgb(MASKED)) < 0.01, axis=-1)
    assert masked.sum() > 500
    # nothing is cut off at the edges
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert np.all(edge == 1)
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_other_formats(tmp_path, kind):
    plot_result(*make(), tmp_path / f"out.{kind}")
    assert (tmp_path / f"out.{kind}").stat().st_size > 1000


def test_never_over_an_existing_file(tmp_path):
    path = tmp_path / "out.png"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        plot_result(*make(), path)
    assert path.read_text() == "precious"
    plot_result(*make(), path, overwrite=True)
    assert path.read_bytes()[1:4] == b"PNG"
    with pytest.raises(OutputError, match="does not exist"):
        plot_result(*make(), tmp_path / "missing" / "out.png")
    with pytest.raises(UsageError, match="cannot write 'xyz'"):
        plot_result(*make(), tmp_path / "out.xyz")
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_no_global_state(monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    plot_result(*make(header=UPRIGHT))
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "plane"),
    [
        ("ground_sims/ground_000042.fits", None),
        ("field_decam_z_stars/decam_z_test4.fits", None),
        ("field_cosmos_hst_hsc/hsc.fits", 2),
    ],
)
def test_real_images(tmp_path, file, plane):
    if not (DATA / file).exists():
        pytest.skip(f"the development data are not here: ../shared/data/{file}")
    with fits.open(DATA / file) as hdus:
        data, variance = (hdus[k].data[plane] if plane else hdus[k].data for k in ("SCI", "VAR"))
        frame = Frame(data.shape, hdus["SCI"].header["PIXSCALE"], header=hdus["SCI"].header)
        obs = Observation.from_arrays(data, variance, frame=frame)
    result = Estimate(None, Status.CONVERGED, "none", "", 0, 1.0, 1, image=obs.data, model=obs.data, frame=frame)
    figure = plot_result(result, obs, tmp_path / "out.png")
    assert {c.get_axislabel() for c in panels(figure)[0].coords} == {"RA", "Dec"}
