"""What the documents show: every command and name is known, and what a newcomer meets first is run."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import invprob
from invprob.cli import app
from invprob.config import Config
from invprob.learn.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
RUN = ("README.md", "docs/quickstart.md")
NOT_RUN = re.compile(r"<!-- (not run: .*|run|test) -->\n$")  # the lines of set-up are run by .ci/run
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[tuple[str, str, bool]]:
    """Language and content of the blocks of a page, and whether they are to be run."""
    text = page.read_text()
    found = []
    for match in BLOCK.finditer(text):
        runs = NOT_RUN.search(text[: match.start()]) is None
        if match[1] in languages:
            found.append((match[1], match[2], runs))
    return found


def commands(page: Path) -> list[list[str]]:
    """The calls of invprob in the shell blocks of a page."""
    found = []
    for _, text, _ in blocks(page, "console", "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] == "invprob":
                found.append(words[1:])
    return found


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=ids)
def test_every_command_can_be_parsed(page):
    """Its options exist and their values are of the right type; nothing is run."""
    group = get_command(app)
    for words in commands(page):
        with group.make_context("invprob", list(words), resilient_parsing=False) as context:
            name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
            with command.make_context(name, list(rest), parent=context) as parsed:
                assert parsed.info_name in group.commands


def test_a_command_that_is_wrong_is_noticed():
    group = get_command(app)
    with pytest.raises(Exception, match="No such option"):
        group.commands["deconvolve"].make_context("deconvolve", ["a.fits", "--swap", "gaussian"])


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=ids)
def test_every_name_of_the_package_exists(page):
    """In each block of Python: what is imported of invprob, and the attributes of ``ip`` and ``priors``."""
    for _, text, _ in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("invprob"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and re.fullmatch(r"(ip|invprob)(\.\w+)+", ast.unparse(node)):
                value = invprob
                for part in ast.unparse(node).split(".")[1:]:
                    value = getattr(value, part)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=ids)
def test_every_configuration_is_valid(page):
    for _, text, _ in blocks(page, "toml"):
        fields = tomllib.loads(text)
        if "project" in fields:
            assert "invprob.priors" in fields["project"]["entry-points"]
        elif "simulated" in fields or "generator" in fields or "name" in fields:
            Recipe(**fields)
        elif "stamps" in fields or "learning_rate" in fields:  # a part of a recipe
            assert set(fields) <= set(Recipe.model_fields)
        else:
            Config.make(**fields)


@pytest.mark.parametrize("name", RUN)
def test_what_a_newcomer_meets_is_run(name, tmp_path, monkeypatch):
    """The shell blocks of the quick start and the Python of both pages, in order, beside the data of the project."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for language, text, runs in blocks(ROOT / name, "bash", "python"):
        if not runs or (name == "README.md" and language == "bash"):  # a list of what there is, parsed above
            continue
        if language == "python":
            exec(compile(text, name, "exec"), space)
        else:
            for line in text.strip().splitlines():
                done = subprocess.run(
                    [sys.executable, "-m", "invprob.cli", *shlex.split(line)[1:]], capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
    assert "obs" in space or "observation" in space
    assert any(tmp_path.glob("*.fits"))
