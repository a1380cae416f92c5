"""The simulator: reproducible, true to its own model, and what made the files in data/."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import center_of_mass
from scipy.signal import convolve2d

from invprob.errors import OutputError, UsageError
from invprob.io.read.read_fits import read_fits
from invprob.observation import PSF
from invprob.simulate.pair import COLUMN, COSMIC_RAY, DEAD, simulate_pair, write_pair
from invprob.simulate.scene import Scene, block_sum

DATA = Path(__file__).parents[2] / "data"
SEED, SIZE = 4, 42  # of the command in data/README.md


@pytest.fixture(scope="module")
def pair():
    return simulate_pair(SEED, size=SIZE)


@pytest.fixture(scope="module")
def written(pair, tmp_path_factory):
    return write_pair(pair, tmp_path_factory.mktemp("pair"))


def test_same_seed_same_bytes(written, tmp_path):
    for one, other in zip(written, write_pair(simulate_pair(SEED, size=SIZE), tmp_path), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_another_seed_is_another_field(pair):
    other = simulate_pair(SEED + 1, size=SIZE)
    for name in ("truth", "data", "dq"):
        assert not np.array_equal(getattr(other, name), getattr(pair, name))


def test_another_snr_keeps_scene_and_defects(pair):
    other = simulate_pair(SEED, size=SIZE, snr=50)
    assert np.array_equal(other.truth, pair.truth)
    assert np.array_equal(other.dq, pair.dq)
    assert other.cards["EXPTIME"][0] < pair.cards["EXPTIME"][0]


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_model_is_block_sum_of_truth_convolved_with_kernel(factor):
    pair = simulate_pair(2, size=20, factor=factor, seeing=0.6)
    direct = convolve2d(pair.truth, pair.kernel, mode="same")
    expected = direct.reshape(20, factor, 20, factor).sum(axis=(1, 3))
    np.testing.assert_allclose(pair.model, expected, atol=1e-12 * expected.max())
    assert pair.truth.shape == (20 * factor, 20 * factor)


def test_noise_has_the_variance_given():
    pair = simulate_pair(7, size=64, masked=0)
    assert not pair.dq.any() and np.isfinite(pair.data).all()
    z = (pair.data - pair.model) / np.sqrt(pair.variance)
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs((z**2).sum() - n) < 4 * np.sqrt(2 * n)
    bright = pair.model > np.percentile(pair.model, 90)
    assert pair.variance[bright].min() > pair.variance[~bright].min()
    assert abs((z[bright] ** 2).mean() - 1) < 4 * np.sqrt(2 / bright.sum())


@pytest.mark.parametrize("snr", [20.0, 600.0])
def test_signal_to_noise_is_as_asked(snr):
    pair = simulate_pair(3, size=24, snr=snr)
    assert np.sqrt((pair.model**2 / pair.variance).sum()) == pytest.approx(snr, rel=1e-10)


@pytest.mark.parametrize("masked", [0.01, 0.03, 0.2])
def test_defects_are_as_many_as_asked_and_named(masked):
    pair = simulate_pair(1, size=48, masked=masked)
    assert np.mean(pair.dq != 0) == pytest.approx(masked, abs=0.006)
    assert {DEAD, COLUMN, COSMIC_RAY} <= set(np.unique(pair.dq))
    z = (pair.data - pair.model) / np.sqrt(pair.variance)
    assert np.isnan(z[pair.dq & DEAD != 0]).all()
    assert (z[pair.dq == COLUMN] < -10).all()
    assert (z[pair.dq == COSMIC_RAY] > 10).all()
    assert np.isnan(z[pair.dq == 0]).sum() == 2
    assert np.nanmax(np.abs(z[pair.dq == 0])) < 5


@pytest.mark.parametrize(("fine", "fwhm"), [(0.025, 0.1), (0.05, 0.1), (0.1, 0.2)])
def test_stars_lie_where_they_were_put_with_the_target_psf(fine, fwhm, monkeypatch):
    scene = Scene(120, fine, np.random.default_rng(0))
    scene.stars = [(0.313, -0.172, 5.0)]
    for part in ("spiral", "others"):
        monkeypatch.setattr(scene, part, lambda radius: None)
    image = scene.image()
    assert image.sum() == pytest.approx(5.0, rel=0.01)
    top, left = (int(p) - 20 for p in np.unravel_index(image.argmax(), image.shape))
    y, x = center_of_mass(image[top : top + 41, left : left + 41])
    assert (x + left - 59.5) * fine == pytest.approx(0.313, abs=0.05 * fine)
    assert (y + top - 59.5) * fine == pytest.approx(-0.172, abs=0.05 * fine)
    assert PSF.from_image(image, normalize=True).fwhm * fine == pytest.approx(fwhm, rel=0.15)


def test_truth_has_next_to_no_power_at_the_edge_of_its_band(pair):
    spectrum = np.abs(np.fft.fft2(pair.truth))
    n = len(spectrum)
    assert max(spectrum[n // 2].max(), spectrum[:, n // 2].max()) < 0.01 * spectrum[0, 0]
    assert pair.truth.min() > -1e-6 * pair.truth.max()


def test_light_ends_within_the_frame(pair):
    edge = np.concatenate([pair.model[0], pair.model[-1], pair.model[:, 0], pair.model[:, -1]])
    assert edge.max() < 0.02 * pair.model.max()
    assert pair.model.sum() == pytest.approx(pair.truth.sum(), rel=0.01)


def test_files_say_what_they_are(pair, written):
    for path in written:
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            for hdu in list(hdus):
                assert "CHECKSUM" in hdu.header and "DATASUM" in hdu.header
                assert hdu.data is None or hdu.header["BITPIX"] in (-32, 16)
    with fits.open(written[0]) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "VAR", "DQ", "PSF", "KERNEL"]
        assert hdus["SCI"].header["BUNIT"] == "electron/s"
        assert hdus["KERNEL"].header["PIXSCALE"] == pytest.approx(0.05)
        assert hdus[0].header["EXPTIME"] == pair.cards["EXPTIME"][0]
        coarse = WCS(hdus["SCI"].header)
    fine = WCS(fits.getheader(written[1], "SCI"))
    corners = np.array([[-0.5, -0.5], [41.5, -0.5], [10.0, 20.25]])
    moved = 4 * (corners + 0.5) - 0.5
    np.testing.assert_allclose(fine.all_pix2world(moved, 0), coarse.all_pix2world(corners, 0), rtol=0, atol=1e-11)
    assert coarse.proj_plane_pixel_scales()[0].to_value("arcsec") == pytest.approx(0.2)


def test_the_reader_understands_them(pair, written):
    observation = read_fits(written[0])
    assert not observation.warnings
    assert observation.frame.pixel_scale == pytest.approx(0.2)
    good = (pair.dq == 0) & np.isfinite(pair.data)
    assert np.array_equal(observation.valid, good)
    np.testing.assert_allclose(observation.data[good], pair.data[good], rtol=1e-6)
    fine = observation.frame.refine(4)
    at_fine = read_fits(written[0], psf="[KERNEL]").psf
    assert observation.psf is not None and at_fine is not None
    np.testing.assert_allclose(at_fine.on(fine), pair.kernel, atol=1e-7)
    coarse = observation.psf.on(fine)
    cut = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(coarse.shape, pair.kernel.shape, strict=True))
    assert np.abs(coarse[cut] - pair.kernel).max() < 0.02 * pair.kernel.max()


def test_observation_without_a_file(pair):
    observation = pair.observation()
    assert np.array_equal(observation.valid, (pair.dq == 0) & np.isfinite(pair.data))
    assert observation.psf is not None
    assert np.array_equal(observation.psf.on(observation.frame.refine(4)), pair.kernel)


@pytest.mark.parametrize("name", ["ground.fits", "hubble.fits"])
def test_committed_data_are_what_the_simulator_makes(name, written):
    made = next(path for path in written if path.name == name)
    with fits.open(DATA / name, checksum=True) as old, fits.open(made) as new:
        assert [h.name for h in old] == [h.name for h in new]
        for one, other in zip(old, new, strict=True):
            for card in other.header.cards:
                exact = isinstance(card.value, str)
                if card.keyword not in ("CHECKSUM", "DATASUM"):
                    expected = card.value if exact else pytest.approx(card.value, rel=1e-9)
                    assert one.header[card.keyword] == expected, card.keyword
            if other.data is not None:
                scale = np.nanmax(np.abs(other.data))
                np.testing.assert_allclose(one.data, other.data, rtol=1e-6, atol=1e-7 * scale)


def test_data_are_small():
    assert sum(path.stat().st_size for path in DATA.glob("*.fits")) < 200_000


def test_files_that_exist_are_kept(pair, tmp_path):
    (tmp_path / "hubble.fits").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_pair(pair, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["hubble.fits"]
    write_pair(pair, tmp_path, overwrite=True)
    assert (tmp_path / "hubble.fits").stat().st_size > 100_000


def test_a_directory_that_cannot_be_made(pair, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the directory"):
        write_pair(pair, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"size": 8},
        {"size": 32.5},
        {"factor": 0},
        {"size": 2048, "factor": 8},
        {"seeing": 0.0},
        {"seeing": float("nan")},
        {"seeing": 50.0},
        {"seeing": 0.01},
        {"pixel_scale": -0.2},
        {"snr": 0.0},
        {"masked": 0.9},
    ],
)
def test_arguments_that_do_not_fit(arguments):
    with pytest.raises(UsageError):
        simulate_pair(**arguments)


def test_block_sum():
    assert block_sum(np.arange(16.0).reshape(4, 4), 2).tolist() == [[10, 18], [42, 50]]
