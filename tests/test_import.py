"""What is imported when, and that every public name is there."""

import json
import subprocess
import sys

import pytest

import invprob

HEAVY = [
    "jax", "jaxlib", "equinox", "lineax", "optax", "tensorflow_probability", "astropy", "matplotlib", "pydantic",
    "zarr", "xarray",
]  # fmt: skip


def loaded(code: str) -> list[str]:
    """The heavy packages in memory after some code ran in a fresh interpreter."""
    show = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


def test_import_is_light():
    assert loaded("import invprob, invprob.errors; dir(invprob)") == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["deconvolve", "--help"], []])
def test_help_is_light(arguments):
    code = f"import sys\nfrom invprob.cli import app\ntry:\n    app({arguments!r})\nexcept SystemExit:\n    pass"
    # typer itself takes pydantic, where it finds it, to read numbers
    allowed = [] if arguments[:1] != ["deconvolve"] else ["pydantic"]
    assert [name for name in loaded(code) if name not in allowed] == []


def test_inspecting_needs_no_jax(tmp_path):
    code = f"from invprob.cli import app\ntry:\n    app(['inspect', {str(tmp_path / 'x.fits')!r}])\n"
    assert "jax" not in loaded(code + "except SystemExit:\n    pass")


@pytest.mark.parametrize("name", invprob.__all__)
def test_every_name(name):
    assert getattr(invprob, name) is not None
    assert name in dir(invprob)


def test_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = invprob.nope
