"""What the command says on stderr: messages, warnings and errors, each in one line, and the exit codes."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from invprob.errors import ExitCode, InvprobError

WrongUse: Any = typer.BadParameter.__bases__[0]  # click's UsageError, wherever typer has it from


NO_MEMORY = "not enough memory: use a smaller cut-out, --dtype float32 or a smaller --refine"


def say(text: str) -> None:
    """A message on stderr."""
    sys.stderr.write(f"{text}\n")  # in one piece, so that Ctrl-C leaves no half line
    sys.stderr.flush()


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors become one line on stderr and a documented exit code."""

    @functools.wraps(command)
    def wrapped(**options) -> None:
        try:
            with _warnings_in_one_line(bool(options.get("quiet"))):
                command(**options)
            return
        except (typer.Exit, WrongUse, BrokenPipeError):
            raise
        except InvprobError as error:
            text, code = str(error), error.exit_code
        except KeyboardInterrupt as stop:
            state = getattr(stop, "state", None)
            kept = f"; the state is kept in {state}, and the same command goes on from it" if state else ""
            text, code = f"interrupted{kept}", ExitCode.INTERRUPTED
        except MemoryError:
            text, code = NO_MEMORY, ExitCode.UNEXPECTED
        except Exception as error:
            if os.environ.get("INVPROB_DEBUG"):
                raise
            text = f"unexpected {type(error).__name__}: {error} (for a traceback: invprob --debug COMMAND ...)"
            if "RESOURCE_EXHAUSTED" in str(error):  # how XLA says that memory ran out
                text = NO_MEMORY
            code = ExitCode.UNEXPECTED
        say(f"invprob: {' '.join(text.split())}")
        raise typer.Exit(int(code))

    return wrapped


@contextmanager
def _warnings_in_one_line(quiet: bool) -> Iterator[None]:
    """Warnings of the packages below as lines on stderr, without their place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: None if quiet else say(f"warning: {message}")
        yield


class OneLineGroup(TyperGroup):
    """A group of commands that says in one line what is wrong with the options."""

    def main(self, args=None, prog_name=None, complete_var=None, standalone_mode: bool = True, **extra) -> Any:
        named = {"args": args, "prog_name": prog_name, "complete_var": complete_var, **extra}
        if not standalone_mode:
            return super().main(standalone_mode=False, **named)
        try:
            code = super().main(standalone_mode=False, **named)
        except WrongUse as error:
            text = error.format_message()
            if "\n" in text:  # the help, where no command was given
                error.show()
            else:
                command = error.ctx.command_path if error.ctx else "invprob"
                say(f"invprob: {text[:1].lower()}{text[1:].rstrip('.')}; see `{command} --help`")
            code = error.exit_code
        sys.exit(code or 0)
