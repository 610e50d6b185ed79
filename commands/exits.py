"""How a command ends early: one message on stderr, and the status that says whose fault it was."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

FAILED, BAD_INPUT = 1, 2


def clean_up_on_signals() -> None:
    """Make Ctrl-C and a plain kill both raise KeyboardInterrupt, so that `finally` runs.

    To be called after Ray has started: Ray installs a handler that exits on the spot.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def stop(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


@contextmanager
def bad_input(place: str = "") -> Iterator[None]:
    """A ValueError inside is the operator's: show it, after the option or file it came from."""
    try:
        yield
    except ValueError as error:
        stop(f"{place}: {error}" if place else str(error), BAD_INPUT)
