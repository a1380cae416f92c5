"""The options of `invprob deconvolve` are the fields of the configuration: each once, with its text, in a panel."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import invprob
from invprob.cli import app
from invprob.cli.options import configuration, fields, parser
from invprob.config import PANELS, Config, InputConfig
from invprob.errors import UsageError

ROOT = Path(invprob.__file__).parent
SOURCES = [path.read_text() for path in (ROOT / "config.py", *(ROOT / "cli").rglob("*.py"))]
EVERY = dict(fields())


@pytest.fixture(scope="module")
def help_text():
    result = CliRunner().invoke(app, ["deconvolve", "--help"], terminal_width=200)
    assert result.exit_code == 0
    return " ".join(result.stdout.split())


def test_every_field_is_an_option():
    of_models = {*InputConfig.model_fields, *Config.model_fields} - {"image", "input"}
    assert set(EVERY) == of_models


@pytest.mark.parametrize("name", EVERY)
def test_the_help_has_the_text_of_the_field(name, help_text):
    words = " ".join(EVERY[name].description.split())
    assert f"--{name.replace('_', '-')} " in help_text and words in help_text


@pytest.mark.parametrize("name", ["image", *EVERY])
def test_no_text_is_written_twice(name):
    field = EVERY.get(name) or InputConfig.model_fields[name]
    begin = field.description[:35]
    assert sum(source.count(begin) for source in SOURCES) == 1, begin


def test_the_panels_come_in_order(help_text):
    places = [help_text.index(f" {panel}: -") for panel in PANELS]
    assert places == sorted(places) and help_text.index("[IMAGE]") < places[0]
    assert InputConfig.model_fields["image"].description in help_text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("strength", "auto", "auto"), ("strength", "2.5", 2.5), ("sky", "fit", "fit"), ("sky", "-3e2", -300.0),
        ("noise_scale", "sample", "sample"), ("intervals", "68,95", (68.0, 95.0)), ("prior", "1", "1"),
        ("method", "vi", "vi"), ("refine", 3, 3), ("rtol", 0.1, 0.1),
    ],
)  # fmt: skip
def test_what_is_typed_is_read(name, text, value):
    assert parser(name, EVERY[name])(text) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("strength", "much", "--strength takes 'auto', 'fission', 'sample' or a number, not 'much'"),
        ("noise_scale", "two", "--noise-scale takes 'sample' or a number, not 'two'"),
        ("intervals", "68;95", "--intervals takes percentages such as 68,95, not '68;95'"),
    ],
)
def test_what_does_not_fit_is_said(name, text, words):
    with pytest.raises(typer.BadParameter) as caught:
        parser(name, EVERY[name])(text)
    assert caught.value.message == words


def test_the_command_line_goes_first(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('refine = 3\nseed = 4\n[input]\nimage = "a.fits"\nmask = "m.fits"\n')
    config = configuration(file, "b.fits", {"refine": 2, "positive": True, "psf": "none", "mask": None})
    assert (config.refine, config.seed, config.positive) == (2, 4, True)
    assert (config.input.image, config.input.mask, config.input.psf) == ("b.fits", "m.fits", "none")
    with pytest.raises(UsageError, match="refine"):
        configuration(file, None, {"refine": 99})
