"""How a command ends early: one message on stderr, and the status that says whose fault it was."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def read_text(option: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{option} {file}: {error}; expected a UTF-8 text file", BAD_INPUT)


def check_outputs(files: dict[str, Path | None]) -> None:
    """Before the run, which is lost if its results have nowhere to go."""
    for option, file in files.items():
        if file and (file.is_dir() or not file.parent.is_dir()):
            stop(f"{option} {file}: expected a file name in an existing folder", BAD_INPUT)


def parse_ks(option: str, text: str) -> list[int]:
    """Comma-separated numbers of experts."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        stop(
            f"{option}: {text!r}: expected whole numbers, comma-separated, such as 1,2,4", BAD_INPUT
        )


@contextmanager
def bad_input(place: str = "") -> Iterator[None]:
    """A ValueError inside is the operator's: show it, after the option or file it came from."""
    try:
        yield
    except ValueError as error:
        stop(f"{place}: {error}" if place else str(error), BAD_INPUT)
