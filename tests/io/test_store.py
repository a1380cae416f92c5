"""The store of draws: that others read it, and that it reads back."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray
from astropy.io import fits
from astropy.wcs import WCS

from invprob.errors import InputError, OutputError
from invprob.io import store
from invprob.io.readback import read_provenance
from invprob.io.store import read_draws, write_draws
from invprob.observation import Frame
from invprob.results import Samples, Status
from tests.io.result_samples import CONFIG, SHAPE, estimate, observation, quiet

FINE = (12, 16)


def samples(obs, chains=2, number=9, seed=3, **more):
    rng = np.random.default_rng(seed)
    stats = {
        "energy": rng.normal(size=(chains, number)),
        "acceptance_rate": rng.uniform(size=(chains, number)),
        "diverging": rng.uniform(size=(chains, number)) < 0.2,
    }
    kwargs = {
        "draws": rng.normal(size=(chains * number, *FINE)),
        "latents": {"sky": rng.normal(size=(chains, number))},
        "hyper": {"log_slope": rng.normal(size=(chains, number))},
        "num_chains": chains, "stats": stats, "failures": ("R-hat 1.3",), "status": Status.NOT_MIXED, "bias": "step",
    }  # fmt: skip
    return estimate(obs, kind=Samples, **(kwargs | more))


@pytest.fixture
def obs():
    return observation()


@pytest.fixture
def written(tmp_path, obs):
    return write_draws(samples(obs), tmp_path / "draws.zarr", observation=obs, config=CONFIG, seed=5, device="cpu")


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xarray.open_datatree(path, engine="zarr")
        return tree, xarray.open_zarr(path, group="posterior")


def test_xarray_opens_it_without_a_warning(written, obs):
    tree, alone = opened(written)
    made = samples(obs)
    images = made.draws.reshape(2, 9, *FINE).astype(np.float32)
    for posterior in (tree["posterior"], alone):
        assert posterior["image"].dims == ("chain", "draw", "y", "x")
        np.testing.assert_array_equal(posterior["image"], images)
        np.testing.assert_array_equal(posterior["sky"], made.latents["sky"])
        np.testing.assert_array_equal(posterior["log_slope"], made.hyper["log_slope"])
        assert set(posterior.coords) == {"chain", "draw", "y", "x"}
        assert posterior["image"].attrs["units"] == "adu"
        assert posterior.attrs["convergence_check"] == "R-hat 1.3"
    for name, values in made.stats.items():
        np.testing.assert_array_equal(tree["sample_stats"][name], values)
        assert tree["sample_stats"][name].dims == ("chain", "draw")
    data, variance = tree["observed_data"]["data"], tree["constant_data"]["variance"]
    np.testing.assert_array_equal(data.isnull(), ~obs.valid)
    np.testing.assert_array_equal(data.values[obs.valid], obs.data[obs.valid])
    np.testing.assert_array_equal(variance.values[obs.valid], obs.variance[obs.valid])


def test_it_is_the_tree_of_to_arviz(written, obs):
    there, here = opened(written)[0], samples(obs).to_arviz()
    for group in ("posterior", "sample_stats"):
        xarray.testing.assert_allclose(there[group].to_dataset(), here[group].to_dataset(), rtol=1e-6)
    assert {key: there.attrs[key] for key in here.attrs} == here.attrs


def test_what_is_said_of_the_run(written, obs, tmp_path):
    said = opened(written)[0].attrs
    assert (said["status"], said["advice"]) == ("NOT_MIXED", Status.NOT_MIXED.value)
    assert (said["solver"], said["bias"], said["thinning"], said["seed"], said["device"]) == ("cg", "step", 1, 5, "cpu")
    assert (said["unit"], said["pixel_scale"], said["noise_source"]) == ("adu", 0.18, "VAR extension")
    beside = quiet(samples(obs), tmp_path / "out.fits", observation=obs, config=CONFIG)
    record = read_provenance(beside)
    assert said["configuration_sha256"] == record["config_hash"]
    assert json.loads(said["configuration"]) == CONFIG
    assert json.loads(said["versions"])["numpy"] == np.__version__
    assert json.loads(said["report"]) == {"prior_amplitude": 2.5, "bad_float": "nan"}
    assert [f["sha256"] for f in json.loads(said["inputs"])] == ["ab" * 32, "cd" * 32]
    assert all(isinstance(value, str | int | float | list) for value in said.values())
    cards = fits.Header([fits.Card.fromstring(card) for card in said["wcs"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = WCS(cards), WCS(fits.getheader(beside, "SCI"))
    np.testing.assert_allclose(ours.all_pix2world(3, 5, 0), theirs.all_pix2world(3, 5, 0), rtol=1e-14)


def test_a_grid_with_its_border_has_its_own_coordinates(tmp_path, obs):
    frame = obs.frame.refine(2).pad_by(3, 2)
    (below, _), (left, _) = frame.border
    rng = np.random.default_rng(0)
    padded = samples(obs, draws=None, latents=rng.normal(size=(2, 9, *frame.shape)))
    with_border = read_draws(write_draws(padded, tmp_path / "a.zarr", frame=frame)).attributes["wcs"]
    without = read_draws(write_draws(samples(obs), tmp_path / "b.zarr", frame=frame)).attributes["wcs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, inner = (WCS(fits.Header([fits.Card.fromstring(c) for c in cards])) for cards in (with_border, without))
    np.testing.assert_allclose(
        whole.all_pix2world(left + 4, below + 7, 0), inner.all_pix2world(4, 7, 0), rtol=0, atol=1e-12
    )
    assert abs(whole.all_pix2world(4, 7, 0)[0] - inner.all_pix2world(4, 7, 0)[0]) > 1e-4


def test_it_reads_back(written, obs):
    read, made = read_draws(written), samples(obs)
    np.testing.assert_array_equal(read.images, made.draws.astype(np.float32))
    assert set(read.posterior) == {"image", "sky", "log_slope"}
    assert set(read.sample_stats) == {"energy", "acceptance_rate", "diverging"}
    np.testing.assert_array_equal(read.observed_data["data"][obs.valid], obs.data[obs.valid])
    np.testing.assert_array_equal(read.constant_data["variance"][obs.valid], obs.variance[obs.valid])
    assert read.attributes["configuration"] == CONFIG
    assert read.attributes["versions"]["numpy"] == np.__version__


def test_thinned_and_in_another_type(tmp_path, obs):
    made = samples(obs, every=2)
    path = write_draws(made, tmp_path / "draws.zarr", every=4, dtype=np.float64)
    posterior = opened(path)[1]
    np.testing.assert_array_equal(posterior["image"], made.draws.reshape(2, 9, *FINE)[:, 3::4])
    np.testing.assert_array_equal(posterior["draw"], [7, 15])
    assert posterior.attrs["thinning"] == 8
    assert "observed_data" not in opened(path)[0].children


@pytest.mark.parametrize(("draws_in_chunk", "files"), [(1, 18), (4, 6), (9, 2), (18, 1)])
def test_chunks_are_whole_draws(tmp_path, obs, monkeypatch, draws_in_chunk, files):
    monkeypatch.setattr(store, "CHUNK_BYTES", draws_in_chunk * 12 * 16 * 4)
    path = write_draws(samples(obs), tmp_path / "draws.zarr")
    assert sum(p.is_file() for p in (path / "posterior/image/c").rglob("*")) == files
    np.testing.assert_array_equal(read_draws(path).images, samples(obs).draws.astype(np.float32))


def test_same_result_same_bytes(tmp_path, obs):
    contents = []
    for name in ("a.zarr", "b.zarr"):
        path = write_draws(samples(obs), tmp_path / name, observation=obs, config=CONFIG)
        contents.append({p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) > 10


def test_smooth_draws_are_packed(tmp_path, obs):
    y, x = np.indices(FINE)
    flat = np.broadcast_to(np.round(np.exp(-((y - 5) ** 2 + (x - 5) ** 2) / 9), 2), (18, *FINE))
    path = write_draws(samples(obs, draws=flat), tmp_path / "draws.zarr")
    packed = sum(p.stat().st_size for p in (path / "posterior/image/c").rglob("*") if p.is_file())
    assert packed < flat.size * 4 / 5


def test_nothing_in_it_is_pickled(written):
    metadata = json.loads((written / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    arrays = {name: node for name, node in metadata.items() if node["node_type"] == "array"}
    assert {node["data_type"] for node in arrays.values()} == {"float32", "float64", "int64", "bool"}
    assert {codec["name"] for node in arrays.values() for codec in node["codecs"]} == {"bytes", "blosc", "crc32c"}


def test_stores_of_others_are_refused(tmp_path, written):
    xarray.Dataset({"image": (("chain", "draw"), np.zeros((2, 3)))}).to_zarr(tmp_path / "theirs.zarr")
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "file.zarr").write_text("")
    for name in ("theirs.zarr", "empty.zarr", "file.zarr", "missing.zarr"):
        with pytest.raises(InputError, match="is not a store of draws"):
            read_draws(tmp_path / name)
    scalar = write_draws(replace(samples(observation()), draws=None), tmp_path / "sky.zarr", frame=Frame(SHAPE))
    with pytest.raises(InputError, match="no variable 'image'; it holds log_slope, sky"):
        _ = read_draws(scalar).images


def test_damage_is_noticed(written):
    (chunk,) = (p for p in (written / "posterior/image/c").rglob("*") if p.is_file())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        read_draws(written)
    chunk.unlink()
    with pytest.raises(InputError, match="parts of image are missing"):
        read_draws(written)
    chunk.write_bytes(whole)
    text = (written / "zarr.json").read_text()
    (written / "zarr.json").write_text(text.replace('\\"refine\\":2', '\\"refine\\":3', 1))
    with pytest.raises(InputError, match="does not match its hash"):
        read_draws(written)


def test_draws_of_another_grid_are_refused(tmp_path, obs):
    with pytest.raises(OutputError, match=r"draws have the shape \(12, 16\), the frame \(18, 24\), with border"):
        write_draws(samples(obs), tmp_path / "draws.zarr", frame=obs.frame.refine(3).pad_by(2))
    assert list(tmp_path.iterdir()) == []
