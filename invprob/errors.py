"""Errors that a user can cause, each with its exit code, and the exit codes of the command line."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the `invprob` command returns to the shell."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    REPLAY_DIFFERS = 3
    NO_USABLE_PIXELS = 64
    BAD_INPUT = 65
    NOT_CONVERGED = 70
    CANNOT_WRITE = 73
    INTERRUPTED = 130


class InvprobError(Exception):
    """Base of the errors a user can cause.

    The message is one line that says what was given, what is needed and what to do.
    """

    exit_code = ExitCode.UNEXPECTED


class UsageError(InvprobError, ValueError):
    """Options or arguments that do not fit together."""

    exit_code = ExitCode.USAGE


class CapabilityError(UsageError, TypeError):
    """An operator, noise or prior that cannot do what the method asked for needs."""


class NoUsablePixelsError(InvprobError, ValueError):
    """Every pixel is masked, not a number, or without a finite variance."""

    exit_code = ExitCode.NO_USABLE_PIXELS


class InputError(InvprobError, ValueError):
    """A file, an extension or an array that cannot be used."""

    exit_code = ExitCode.BAD_INPUT


class OutputError(InvprobError, OSError):
    """The output exists already or cannot be written."""

    exit_code = ExitCode.CANNOT_WRITE
