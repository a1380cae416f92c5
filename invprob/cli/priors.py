"""`invprob priors`: what is installed."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from invprob.console import reported


@reported
def list_priors(
    name: Annotated[str | None, typer.Argument(help="A learned prior, or a file of weights: print its card.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the priors that are installed, those of other packages included; or print the card of a learned one."""
    from invprob.pipeline.prior import listing

    if name is not None:
        _print_card(name, json)
        return
    found = listing()
    if json:
        print(json_module.dumps(found, indent=1))
        return
    width = max(len(prior["name"]) for prior in found)
    for prior in found:
        source = "" if prior["provider"] == "invprob" else f" [{prior['provider']}]"
        print(f"{prior['name']:{width}s}  {prior['about']}{source}")


def _print_card(name: str, json: bool) -> None:
    from invprob.errors import UsageError
    from invprob.pipeline.learned import model_card
    from invprob.priors.stored import SHIPPED, is_learned

    if not is_learned(name):
        raise UsageError(f"{name!r} is no learned prior; there are {', '.join(SHIPPED)}, and files of invprob train")
    card = model_card(name)
    if json:
        print(json_module.dumps(card, indent=1))
        return
    for section, content in card.items():
        if not isinstance(content, dict):
            print(f"{section}: {_words(content)}")
            continue
        print(f"\n{section}")
        for key, value in content.items():
            print(f"  {key}: {_words(value)}")


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_words(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
