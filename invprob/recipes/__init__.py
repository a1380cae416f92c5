"""Priors by name: what a run needs to know of each (`PriorRecipe`), one file for each, and where they are found."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invprob.recipes.base import PriorRecipe
    from invprob.recipes.strength import StrengthRecipe

_LAZY = {"PriorRecipe": "base", "StrengthRecipe": "strength"}


def __getattr__(name: str) -> Any:  # the names of the priors are needed by the help, which imports no JAX
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"invprob.recipes.{_LAZY[name]}"), name)


__all__ = ["PriorRecipe", "StrengthRecipe"]
