"""Rows of a text table with their line numbers: CSV with a header or JSON lines, plain or gzip.

Takes a file, gives its columns and rows by name. Knows nothing of what they mean. Bad input is a
TableError that names the file and, where there is one, the line and the column.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO, TypeVar

GZIP_MAGIC = b"\x1f\x8b"

Row = dict[str, object]
NumberedRow = tuple[int, Row]
Value = TypeVar("Value")


class TableError(ValueError):
    """The file is not a table that can be read."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds: readable once, while the file is open."""

    columns: list[str]
    rows: Iterator[NumberedRow]


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """The file as a table; gzip is recognised by its first bytes, whatever the name."""
    try:
        with _open_text(path) as file:
            yield _table(file, path)
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TableError(f"{path}: not a text table ({error})") from None
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from None


def parse_cell(
    row: Row, place: str, column: str, parse: Callable[[str], Value], form: str
) -> Value:
    """The value of one column. `form` says what is accepted, `place` is FILE:LINE."""
    value = row.get(column)
    try:
        return parse("" if value is None else str(value))
    except (ValueError, OverflowError):
        found = "no value" if value is None else repr(value)
        raise TableError(f"{place}: column {column!r}: {found}, expected {form}") from None


def _open_text(path: Path) -> TextIO:
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    if compressed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _table(file: TextIO, path: Path) -> Table:
    first_character = file.read(1)
    file.seek(0)
    if not first_character:
        raise TableError(f"{path}: the file is empty")
    if first_character == "{":
        objects = _json_lines(file, path)
        first = next(objects)
        return Table(list(first[1]), chain([first], objects))
    reader = csv.DictReader(file)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    return Table(list(reader.fieldnames), ((reader.line_num, row) for row in reader))


def _json_lines(file: TextIO, path: Path) -> Iterator[NumberedRow]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise TableError(f"{path}:{line}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise TableError(f"{path}:{line}: not a JSON object")
        yield line, row
