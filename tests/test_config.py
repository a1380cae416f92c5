"""The configuration: reads back, refuses in one line, and the command line goes before the file."""

import hashlib
import json

import pytest

from invprob.config import Config
from invprob.errors import InputError, UsageError

FULL = {
    "strength": 2.5, "amplitude": 3.0, "scale": 0.1, "slope": 2.0, "refine": 3, "method": "sample", "num_samples": 7,
    "seed": 12, "sky": "fit", "solver": "cg", "rtol": 1e-5, "max_steps": 40, "dtype": "float32",
    "input": {"image": "a'b & \u00fc.fits[SCI,2]", "psf": "none", "noise_std": 0.5, "normalize_psf": True},
}  # fmt: skip


@pytest.mark.parametrize("fields", [{}, FULL, {"sky": 12.5, "strength": "auto"}, {"sky": -3}])
def test_reads_back(fields, tmp_path):
    config = Config.make(**fields)
    path = tmp_path / "c.toml"
    path.write_text(config.to_toml())
    assert Config.from_toml(path) == config
    assert Config.from_json(config.to_json()) == config
    assert Config.make(**json.loads(json.dumps(config.model_dump(mode="json")))) == config
    for name, value in fields.items():
        if name != "input":
            assert getattr(config, name) == value


def test_the_hash():
    """The same for equal configurations only, and that of the header."""
    from invprob.io.write import config_hash

    assert Config.make().hash == Config.make(refine=1).hash == Config.from_json(Config.make().to_json()).hash
    assert Config.make(refine=2).hash != Config.make().hash
    assert Config.make(sky=0).hash == Config.make(sky=0.0).hash
    assert Config.make(seed=3).hash == config_hash(Config.make(seed=3).model_dump(mode="json"))
    text = json.dumps(Config.make().model_dump(), sort_keys=True, separators=(",", ":"))
    assert Config.make().hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("fields", "fragments"),
    [
        ({"refin": 2}, ["'refin' is not a known field"]),
        ({"input": {"psff": "x"}}, ["'input.psff' is not a known field"]),
        ({"refine": "two"}, ["refine", "'two'", "integer"]),
        ({"refine": "2"}, ["refine", "'2'", "integer"]),
        ({"refine": True}, ["refine", "True", "integer"]),
        ({"refine": 0}, ["refine", "0", "greater than or equal to 1"]),
        ({"refine": 17}, ["refine", "17", "less than or equal to 16"]),
        ({"method": "nope"}, ["method", "'nope'", "'map', 'sample', 'vi' or 'laplace'"]),
        ({"strength": "foo"}, ["strength", "'foo'", "number", "'auto'"]),
        ({"strength": -1}, ["strength", "-1", "above zero"]),
        ({"strength": 0.0}, ["strength", "0.0", "above zero"]),
        ({"strength": float("inf")}, ["strength", "inf", "finite"]),
        ({"sky": float("nan")}, ["sky", "nan", "finite"]),
        ({"sky": "some"}, ["sky", "'some'", "'none' or 'fit'"]),
        ({"num_samples": -1}, ["num_samples", "-1"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"rtol": 2.0}, ["rtol", "2.0", "less than 1"]),
        ({"dtype": "float16"}, ["dtype", "'float16'", "'float32' or 'float64'"]),
        ({"amplitude": 0.0}, ["amplitude", "0.0", "greater than 0"]),
        ({"input": {"noise_std": -2.0}}, ["input.noise_std", "-2.0", "greater than 0"]),
        ({"input": "image.fits"}, ["input", "'image.fits'"]),
    ],
)
def test_refused_in_one_line(fields, fragments):
    with pytest.raises(UsageError) as caught:
        Config.make(**fields)
    text = str(caught.value)
    assert "\n" not in text and text.startswith("configuration: ")
    assert [f for f in fragments if f not in text] == []
    assert "Value error" not in text and "Input should" not in text


def test_changes_go_before_the_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('refine = 3\nseed = 5\n[input]\nimage = "a.fits"\npsf = "none"\n')
    config = Config.from_toml(path, refine=2, input={"image": "b.fits"})
    assert (config.refine, config.seed) == (2, 5)
    assert (config.input.image, config.input.psf) == ("b.fits", "none")


@pytest.mark.parametrize(
    ("text", "error", "fragment"),
    [
        ("refine = ", InputError, "not TOML"),
        (b"\xff\xfe\x00", InputError, "cannot be read"),
        ('input = "a.fits"', UsageError, "input"),
        ("input = 3", UsageError, "input"),
        ("refine = 99", UsageError, "refine = 99"),
    ],
)
def test_a_file_that_does_not_fit(text, error, fragment, tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for changes in ({}, {"input": {"image": "b.fits"}}):
        with pytest.raises(error, match=fragment) as caught:
            Config.from_toml(path, **changes)
        assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        Config.from_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["", "[1]", "{", "3"])
def test_not_json(text):
    with pytest.raises(InputError, match="JSON"):
        Config.from_json(text)


def test_frozen():
    config = Config.make()
    with pytest.raises(ValueError, match="frozen"):
        config.refine = 2  # type: ignore[misc]
    assert hash(config) == hash(Config.make())
