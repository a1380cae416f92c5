"""The notebooks run from top to bottom, and their two forms say the same."""

import json
import os
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def by_name(path: Path) -> str:
    return path.stem


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_script_and_notebook_are_in_step(path):
    paired = path.with_suffix(".ipynb")
    notebook = jupytext.read(paired)
    assert cells(jupytext.read(path)) == cells(notebook), f"run: jupytext --sync {path.name}"
    for cell in notebook.cells:
        assert not cell.get("outputs"), "commit notebooks without outputs"
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """In a directory of its own, by a kernel of this very interpreter, whatever kernels are installed."""
    work, kernel = tmp_path / "notebooks", tmp_path / "jupyter" / "kernels" / "python3"
    work.mkdir()
    kernel.mkdir(parents=True)
    (tmp_path / "data").symlink_to(ROOT / "data", target_is_directory=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.joinpath("kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    notebook = jupytext.read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    client.execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert pictures
    assert not list(work.iterdir()), "a notebook leaves nothing beside itself"
