"""Stamps to train on: from a folder in any unit, and how asymmetric their galaxies are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits

from invprob.errors import InputError
from invprob.learn.data import RARITIES, asymmetries, training_data
from invprob.learn.galaxies import Population, stamps
from invprob.learn.recipe import Recipe
from invprob.learn.run import train
from invprob.measure.moments import asymmetry, main_object
from invprob.priors.weights_file import learned_prior, load_weights, shipped_weights
from tests.learn.test_training import RECIPE, SIZE, blobs


def test_a_folder_without_stamps(tmp_path):
    (tmp_path / "r.toml").write_text(f'validation = 1\n[stamps]\nfolder = "{tmp_path}"')
    with pytest.raises(InputError, match="0 FITS files"):
        train(Recipe.from_toml(tmp_path / "r.toml"), tmp_path / "a.eqx")


def write_stamp(path, image, sigma, **cards):
    """An image with white noise of sigma."""
    header = fits.Header({"BUNIT": "nJy", "PIXSCALE": 0.03} | cards)
    header = fits.Header({key: value for key, value in header.items() if value is not None})
    planes = [fits.ImageHDU(image.astype(">f4"), header, "SCI")]
    planes.append(fits.ImageHDU(np.full(image.shape, sigma**2, ">f4"), name="VAR"))
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(path)


def recipe_of(folder, more=""):
    """Training on the stamps of a folder."""
    path = folder.with_suffix(".toml")
    path.write_text(RECIPE.replace("[simulated]\nnumber = 64", f'[stamps]\nfolder = "{folder}"\n{more}'))
    return Recipe.from_toml(path)


def trained_on(folder, images, sigma):
    """The prior that a folder of these images makes, all with white noise of sigma."""
    folder.mkdir()
    for i, image in enumerate(images):
        write_stamp(folder / f"{i:02}.fits", image, sigma)
    out = folder.with_suffix(".eqx")
    train(recipe_of(folder), out)
    return learned_prior(out, (SIZE, SIZE))


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ({"PIXSCALE": None}, "09.fits: no pixel scale"),
        ({"PIXSCALE": 0.04}, r"pixels of 0.03 arcsec in .*00.fits and of 0.04 in 09.fits"),
        ({"BUNIT": "uJy"}, "the unit of .*09.fits is uJy, that of 00.fits nJy"),
        ({"BUNIT": "adu"}, "tell what all have with unit in the recipe"),
    ],
)
def test_stamps_that_are_not_alike(tmp_path, cards, said):
    """The file is named, and nothing is trained on."""
    for i, image in enumerate(blobs(10)):
        write_stamp(tmp_path / f"{i:02}.fits", image, 0.02, **(cards if i == 9 else {}))
    with pytest.raises(InputError, match=said):
        training_data(recipe_of(tmp_path))


def test_the_zero_point_is_that_of_the_files_or_of_the_recipe(tmp_path):
    """And a masked pixel is noise, however bright it was."""
    for i, image in enumerate(blobs(10)):
        image[:2] = np.nan
        write_stamp(tmp_path / f"{i:02}.fits", image, 0.02, MAGZERO=25.0, BUNIT="electron/s")
    stamps_, _, about = training_data(recipe_of(tmp_path))
    assert about.zeropoint == 25.0 and about.unit == "electron/s"
    masked = np.asarray(stamps_.images)[:, :2, 4:-4] * about.scale
    assert np.std(masked) == pytest.approx(0.02, rel=0.4)
    assert training_data(recipe_of(tmp_path, "zeropoint = 26.5"))[2].zeropoint == 26.5


def test_a_stamp_that_is_nearly_all_masked(tmp_path):
    for i, image in enumerate(blobs(10)):
        image[5 if i == 3 else SIZE :] = np.nan
        write_stamp(tmp_path / f"{i:02}.fits", image, 0.02)
    with pytest.raises(InputError, match=r"03.fits: 31 % of its pixels can be used, at least 50 % are needed"):
        training_data(recipe_of(tmp_path))


def test_asymmetry_of_stamps_with_noise(tmp_path):
    """It is that of the best images of the stamps, with which those of data are compared; not that of their noise."""
    sources, sigma = blobs(40, key=7), 0.05
    images = sources + sigma * np.random.default_rng(6).standard_normal(sources.shape)
    prior = trained_on(tmp_path / "noisy", images, sigma)
    table = prior.training.card["asymmetry"]
    assert table["side"] == SIZE and table["share"] == list(RARITIES)
    best = np.asarray([prior.denoise(jnp.asarray(image, jnp.float32), sigma) for image in images])
    written, like, noisy = (np.array(t["value"]) for t in (table, asymmetries(best), asymmetries(images)))
    usual = np.isin(RARITIES, (0.5, 0.2, 0.1, 0.05))
    assert np.all(np.abs(written - like)[usual] < 0.5 * (noisy - like)[usual])


@pytest.mark.slow
def test_the_unit_of_stamps_does_not_matter(tmp_path):
    """The same stamps in a unit a thousand times smaller: the same network, and the same prior in that unit."""
    images = blobs(24) + 0.02 * np.random.default_rng(5).standard_normal((24, SIZE, SIZE))
    priors = [trained_on(tmp_path / name, unit * images, 0.02 * unit) for name, unit in (("a", 1.0), ("b", 1000.0))]
    one, other = priors
    of_one, of_other = (p.training.card["asymmetry"]["value"] for p in priors)
    assert of_one == pytest.approx(of_other, abs=1e-3)
    assert one.training.unit == "nJy" and one.training.scale == pytest.approx(0.02 / 3e-3, rel=1e-3)
    assert other.training.scale == pytest.approx(1000 * one.training.scale, rel=1e-6)
    assert other.training.smallest == pytest.approx(1000 * one.training.smallest, rel=1e-6)
    x = jnp.asarray(blobs(1, key=3)[0])
    np.testing.assert_allclose(other.denoise(1000 * x, 20.0), 1000 * one.denoise(x, 0.02), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(
        other.sample(jax.random.key(0), steps=4), 1000 * one.sample(jax.random.key(0), steps=4), rtol=1e-2, atol=1.0
    )


def test_the_asymmetry_of_the_training_set_is_that_of_other_stamps():
    """The shipped prior's table against stamps of another seed; and against smooth ones, which are no such stamps."""
    pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")
    card = load_weights(shipped_weights("galaxies"))[1].card
    table = dict(zip(card["asymmetry"]["share"], card["asymmetry"]["value"], strict=True))
    images = stamps(Population(), 400, 64, 11)
    found = []
    for image in images[images.any((1, 2))]:
        place = np.unravel_index(int(image.argmax()), image.shape)
        found.append(asymmetry(main_object(np.roll(image, [32 - int(n) for n in place], (0, 1)), 64)))
    for share in (0.5, 0.2, 0.1):
        scatter = np.sqrt(share * (1 - share) * (1 / len(found) + 1 / 1760))
        assert abs(np.mean(np.array(found) >= table[share]) - share) < 3 * scatter
    round_ones = stamps(Population(crowding=(0.0, 1.0), arms=0.0, knots=0.0, centred=True, faintest=23.0), 20, 64, 11)
    assert asymmetries(round_ones)["value"][-1] < table[0.2]
    assert asymmetries(np.zeros((3, 16, 16))) == {}
