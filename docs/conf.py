"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

from invprob.io.keywords import table

project = "invprob"
author = "The invprob developers"
copyright = "The invprob developers"
release = version = version_of("invprob")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = "invprob"
default_role = "literal"

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False

# the notebooks live beside this folder, where people look for them
here = Path(__file__).parent
(here / "notebooks").mkdir(exist_ok=True)
for notebook in (here.parent / "notebooks").glob("*.ipynb"):
    target = here / "notebooks" / notebook.name
    if not target.exists() or target.read_bytes() != notebook.read_bytes():
        shutil.copyfile(notebook, target)

HEADER = """# Header keywords

The primary header of an output says how it was made and whether it may be believed. Each keyword is a record of
`result.report`, by whose name it is read in Python (`result.report.flux_std`) and printed by `--json`. Texts longer
than a card are continued as the FITS standard has it; of a number that is not finite the header holds its name.
Cards of the input image follow after the comment "Cards of the input image:".
"""
(here / "header.md").write_text(HEADER + table())

_RULE = re.compile(r"^\s*\|(\s*:?-+:?\s*\|)+\s*$")


def _tables(app, what, name, obj, options, lines):
    """Turn Markdown tables in docstrings, which read well in a terminal, into what Sphinx understands."""
    out, i = [], 0
    while i < len(lines):
        if i + 1 < len(lines) and lines[i].lstrip().startswith("|") and _RULE.match(lines[i + 1]):
            rows = [lines[i]]
            i += 2
            while i < len(lines) and lines[i].lstrip().startswith("|"):
                rows.append(lines[i])
                i += 1
            out += ["", ".. list-table::", "   :header-rows: 1", ""]
            for row in rows:
                cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
                out += [f"   {'* -' if k == 0 else '  -'} {cell}" for k, cell in enumerate(cells)]
            out.append("")
        else:
            out.append(lines[i])
            i += 1
    lines[:] = out


def _fields(app, what, name, obj, options, lines):
    """List the fields of a configuration with their defaults, from where they are defined."""
    for field, info in getattr(obj, "model_fields", {}).items() if what == "class" else ():
        default = "" if info.default is None else f" Default: ``{info.default!r}``."
        text = str(info.description or "").rstrip(".")
        if text:
            lines += ["", f"``{field}``", f"    {text[0].upper()}{text[1:]}.{default}"]


def setup(app):
    """Register the hooks."""
    app.connect("autodoc-process-docstring", _tables)
    app.connect("autodoc-process-docstring", _fields)
