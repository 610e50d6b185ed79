"""Reads a public workload trace: a file in, requests with arrival times and lengths out.

Azure LLM CSV, BurstGPT CSV and Mooncake JSON lines are recognised by the names of their columns;
other columns are ignored. Knows nothing of models, prompts or rates. Bad input is a TraceError
that names the file, the line and the column.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TextIO

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = dict[str, object]
NumberedRow = tuple[int, Row]


class TraceError(ValueError):
    """The file is not a trace that can be replayed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the trace has it."""

    arrival_s: float  # from the first request of the trace or of the cut
    input_tokens: int
    output_tokens: int
    slo_class: str | None = None  # no trace has one: see `simulations.mix`


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole file, in order of arrival."""

    name: str
    requests: tuple[Request, ...]
    dropped: dict[str, int]  # rows left out, by reason
    sorted_input: bool  # always true of what read_trace returns: it refuses the rest
    sha256: str


def _iso_us(value: str) -> int:
    # Digits beyond the sixth are cut, and a missing zone is UTC: Azure's files of 2023 and 2024
    # differ in both, and within one file the fraction is absent where it is zero.
    moment = datetime.fromisoformat(value)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def _milliseconds_us(value: str) -> int:
    return round(float(value) * 1e3)


def _seconds_us(value: str) -> int:
    return round(float(value) * 1e6)


def _num_tokens(value: str) -> int:
    number = float(value)
    if not number.is_integer() or number < 0:
        raise ValueError
    return int(number)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one published format keeps the three numbers of a request."""

    name: str
    arrival: str
    input_tokens: str
    output_tokens: str
    arrival_form: str
    to_us: Callable[[str], int]  # whole microseconds, so that differences are exact

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.arrival, self.input_tokens, self.output_tokens

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.columns)})"

    def parse(self, row: Row, place: str) -> tuple[int, int, int]:
        """Arrival in microseconds, input tokens, output tokens."""
        return (
            self._cell(row, place, self.arrival, self.to_us, self.arrival_form),
            self._cell(row, place, self.input_tokens, _num_tokens, "a whole number of tokens"),
            self._cell(row, place, self.output_tokens, _num_tokens, "a whole number of tokens"),
        )

    def _cell(
        self, row: Row, place: str, column: str, parse: Callable[[str], int], form: str
    ) -> int:
        value = row.get(column)
        try:
            return parse("" if value is None else str(value))
        except (ValueError, OverflowError):
            found = "no value" if value is None else repr(value)
            message = f"{place}: column {column!r}: {found}, expected {form}; columns of {self}"
            raise TraceError(message) from None


LAYOUTS = (
    Layout(
        name="Azure LLM CSV",
        arrival="TIMESTAMP",
        input_tokens="ContextTokens",
        output_tokens="GeneratedTokens",
        arrival_form="a time such as 2023-11-16 18:17:03.9799600",
        to_us=_iso_us,
    ),
    Layout(
        name="BurstGPT CSV",
        arrival="Timestamp",
        input_tokens="Request tokens",
        output_tokens="Response tokens",
        arrival_form="a number of seconds",
        to_us=_seconds_us,
    ),
    Layout(
        name="Mooncake JSON lines",
        arrival="timestamp",
        input_tokens="input_length",
        output_tokens="output_length",
        arrival_form="a number of milliseconds",
        to_us=_milliseconds_us,
    ),
)
ACCEPTED = "accepted: " + ", ".join(str(layout) for layout in LAYOUTS)


def read_trace(path: Path) -> Trace:
    """The whole file. Rows without input or without output tokens are left out and counted."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns, rows = _table(file, path)
            requests, dropped = _requests(_layout(columns, path), rows, path)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; {ACCEPTED}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: not a text table ({error}); {ACCEPTED}") from None
    if not requests:
        left_out = f" ({sum(dropped.values())} rows without tokens left out)" if dropped else ""
        raise TraceError(f"{path}: no requests{left_out}; {ACCEPTED}")
    return Trace(path.stem, requests, dropped, sorted_input=True, sha256=sha256)


def _table(file: TextIO, path: Path) -> tuple[list[str], Iterator[NumberedRow]]:
    """The names of the columns, and the rows with their line numbers."""
    first_character = file.read(1)
    file.seek(0)
    if not first_character:
        raise TraceError(f"{path}: the file is empty; {ACCEPTED}")
    if first_character == "{":
        objects = _json_lines(file, path)
        first = next(objects)
        return list(first[1]), chain([first], objects)
    reader = csv.DictReader(file)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    return list(reader.fieldnames), ((reader.line_num, row) for row in reader)


def _json_lines(file: TextIO, path: Path) -> Iterator[NumberedRow]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise TraceError(f"{path}:{line}: not JSON ({error.msg}); {ACCEPTED}") from None
        if not isinstance(row, dict):
            raise TraceError(f"{path}:{line}: not a JSON object; {ACCEPTED}")
        yield line, row


def _layout(columns: list[str], path: Path) -> Layout:
    def missing(layout: Layout) -> list[str]:
        return [column for column in layout.columns if column not in columns]

    nearest = min(LAYOUTS, key=lambda layout: len(missing(layout)))
    lacking = missing(nearest)
    if len(lacking) == len(nearest.columns):
        found = ", ".join(columns)[:200]
        raise TraceError(f"{path}:1: unknown format with columns {found}; {ACCEPTED}")
    if lacking:
        names = ", ".join(repr(column) for column in lacking)
        raise TraceError(f"{path}:1: missing column {names}; columns of {nearest}")
    return nearest


def _requests(
    layout: Layout, rows: Iterable[NumberedRow], path: Path
) -> tuple[tuple[Request, ...], dict[str, int]]:
    requests: list[Request] = []
    dropped: Counter[str] = Counter()
    first_us = last_us = 0
    for line, row in rows:
        at_us, input_tokens, output_tokens = layout.parse(row, f"{path}:{line}")
        if not (input_tokens and output_tokens):
            dropped["no output tokens" if input_tokens else "no input tokens"] += 1
            continue
        if not requests:
            first_us = last_us = at_us
        if at_us < last_us:
            back = f"{(last_us - at_us) / 1e6:g} s back in time; sort the file by this column first"
            raise TraceError(f"{path}:{line}: column {layout.arrival!r}: {back}")
        last_us = at_us
        requests.append(Request((at_us - first_us) / 1e6, input_tokens, output_tokens))
    return tuple(requests), dict(dropped)
