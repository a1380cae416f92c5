"""`invprob priors`: what is installed."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from invprob.console import reported


@reported
def list_priors(json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the priors that are installed, those of other packages included."""
    from invprob.pipeline.prior import listing

    found = listing()
    if json:
        print(json_module.dumps(found, indent=1))
        return
    width = max(len(prior["name"]) for prior in found)
    for prior in found:
        source = "" if prior["provider"] == "invprob" else f" [{prior['provider']}]"
        print(f"{prior['name']:{width}s}  {prior['about']}{source}")
