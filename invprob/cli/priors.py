"""`invprob priors`: what is installed."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from invprob.cli.console import reported


@reported
def list_priors(
    name: Annotated[str | None, typer.Argument(help="A learned prior, or a file of weights: print its card.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the priors that are installed, those of other packages included; or print the card of a learned one."""
    from invprob.recipes.registry import list_recipes

    if name is not None:
        _print_card(name, json)
        return
    found = list_recipes()
    if json:
        print(json_module.dumps(found, indent=1))
        return
    width = max(len(prior["name"]) for prior in found)
    for prior in found:
        source = "" if prior["provider"] == "invprob" else f" [{prior['provider']}]"
        print(f"{prior['name']:{width}s}  {prior['about']}{source}")


def _print_card(name: str, json: bool) -> None:
    from invprob.errors import UsageError
    from invprob.recipes.registry import find_recipe

    card = find_recipe(name).model_card()
    if card is None:
        raise UsageError(f"{name!r} is no learned prior: give one that is, or a file of invprob train")
    if json:
        print(json_module.dumps(card, indent=1))
        return
    for section, content in card.items():
        if isinstance(content, dict):
            lines = ["", section, *("  " + line for key, value in content.items() for line in _lines(key, value))]
        else:
            lines = _lines(section, content)
        print("\n".join(lines))


def _lines(name: str, content: object) -> list[str]:
    """A line for what is short, and indented ones for the parts of what is not."""
    if isinstance(content, dict) and (not content or any(isinstance(v, dict | list) for v in content.values())):
        parts = [line for key, value in content.items() for line in _lines(key, value)]
        return [name, *("  " + line for line in parts)]
    if isinstance(content, list) and any(isinstance(v, str) and " " in v for v in content):
        return [name, *(f"  - {_words(v)}" for v in content)]
    return [f"{name}: {_words(content)}"]


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_words(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
