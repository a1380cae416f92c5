"""Options of the command line that are fields of the configuration: made of them, and read back into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from invprob.config import Config

ARGUMENT = "image"  # the one field that is no option


INSPECTED = ("psf", "variance", "mask", "normalize_psf")  # what `invprob inspect` is told of how to read


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Name and field of each option, those of the input first."""
    from invprob.config import Config, InputConfig

    for model in (InputConfig, Config):
        for name, field in model.model_fields.items():
            if name not in (ARGUMENT, "input"):
                yield name, field


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    """The types that a value of a field may have, None left out."""
    annotation = field.annotation
    kinds = get_args(annotation) if get_origin(annotation) not in (Literal, tuple) else (annotation,)
    return tuple(kind for kind in kinds or (annotation,) if kind is not type(None))


def _panel(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    assert isinstance(extra, dict), "each field has a panel"
    return str(extra["panel"])


@cache
def options() -> tuple[Any, ...]:
    """The options of all fields. Without one its value is None: that of the file, or the default, is then taken."""

    def taker(**_: Any) -> None: ...

    parameters = []
    for name, field in fields():
        kinds, flag = _kinds(field), f"--{name.replace('_', '-')}"
        kind: Any = kinds[0] if kinds in ((int,), (float,), (bool,)) else str
        made = typer.Option(flag, help=field.description, rich_help_panel=_panel(field))
        annotation = Annotated[kind | None, made]
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    taker.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(taker)
    return tuple(typer.main.get_command(app).params)


def parser(name: str, field: FieldInfo) -> Callable[[str], Any]:
    """From what was typed to the value of a field; what click has read already stays as it is."""
    kinds, flag = _kinds(field), f"--{name.replace('_', '-')}"
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]

    def number_or_word(text: str) -> Any:
        if text in words:
            return text
        try:
            return float(text)
        except ValueError:
            choices = ", ".join(repr(word) for word in words)
            raise typer.BadParameter(f"{flag} takes {choices} or a number, not {text!r}") from None

    def percentages(text: str) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(f"{flag} takes percentages such as 68,95, not {text!r}") from None

    if any(get_origin(kind) is tuple for kind in kinds):
        return percentages
    return number_or_word if float in kinds and words else lambda value: value


def given(context: typer.Context) -> dict[str, Any]:
    """What was typed for the fields, as click has read it, without those that were left out."""
    return {name: value for name, value in context.meta[__name__].items() if value is not None}


def configuration(path: Path | None, image: str | None, typed: dict[str, Any]) -> Config:
    """The configuration of a file and the command line; the command line goes first."""
    from invprob.config import Config, InputConfig

    values = {name: parser(name, field)(typed[name]) for name, field in fields() if typed.get(name) is not None}
    inputs = {name: values.pop(name) for name in list(values) if name in InputConfig.model_fields}
    changes = {**values, "input": inputs if image is None else {ARGUMENT: image, **inputs}}
    return Config.make(**changes) if path is None else Config.from_toml(path, **changes)


class ConfigurationCommand(TyperCommand):
    """A command that has the fields of the configuration as options, and its help in panels.

    The fields are read when the command is asked for: the help of the others imports no pydantic.
    """

    def takes(self, name: str) -> bool:
        """Whether a field is an option of this command."""
        return True

    def get_params(self, ctx: Any) -> list[Any]:
        from invprob.config import InputConfig

        own = super().get_params(ctx)
        arguments: list[Any] = [param for param in own if param.param_type_name == "argument"]
        for argument in arguments:
            argument.help = InputConfig.model_fields[ARGUMENT].description
        return [*arguments, *(o for o in options() if self.takes(o.name)), *own[len(arguments) :]]

    def invoke(self, ctx: Any) -> Any:
        # typer knows the parameters of the function alone
        ctx.meta[__name__] = {o.name: ctx.params.pop(o.name) for o in options() if self.takes(o.name)}
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from invprob.config import PANELS

        records: dict[str, list[tuple[str, str]]] = {panel: [] for panel in ("Arguments", *PANELS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panel = "Arguments" if param.param_type_name == "argument" else param.rich_help_panel
                records[panel or PANELS[-1]].append(record)
        for panel, rows in records.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


class InspectCommand(ConfigurationCommand):
    """A command with those fields that `invprob.io.inspect.inspect_file` takes."""

    def takes(self, name: str) -> bool:
        return name in INSPECTED
