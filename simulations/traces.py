"""Reads a public workload trace: a file in, requests with arrival times and lengths out.

Azure LLM CSV, BurstGPT CSV and Mooncake JSON lines are recognised by the names of their columns,
plain or gzip; other columns are ignored, Mooncake's `hash_ids` of shared prefixes too. Knows
nothing of models, prompts or rates. Bad input is a TraceError that names the file, the line and
the column.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from simulations.tables import NumberedRow, Row, TableError, open_table, parse_cell

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TOKENS_FORM = "a whole number of tokens"


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
    """A whole file or synthetic load, in order of arrival."""

    name: str
    requests: tuple[Request, ...]
    dropped: dict[str, int]  # rows left out, by reason
    sorted_input: bool  # always true of what read_trace returns: it refuses the rest
    sha256: str  # of the file, or of the requests where there is none


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
        try:
            return (
                parse_cell(row, place, self.arrival, self.to_us, self.arrival_form),
                parse_cell(row, place, self.input_tokens, _num_tokens, TOKENS_FORM),
                parse_cell(row, place, self.output_tokens, _num_tokens, TOKENS_FORM),
            )
        except TableError as error:
            raise TraceError(f"{error}; columns of {self}") from None


# Azure: github.com/Azure/AzurePublicDataset, its files of 2023 and of 2024. BurstGPT: Wang et al.,
# KDD 2025; a failed request has no response tokens. Mooncake: Qin et al., FAST 2025.
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
        with open_table(path) as table:
            requests, dropped = _requests(_layout(table.columns, path), table.rows, path)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except TableError as error:
        raise TraceError(f"{error}; {ACCEPTED}") from None
    if not requests:
        left_out = f" ({sum(dropped.values())} rows without tokens left out)" if dropped else ""
        raise TraceError(f"{path}: no requests{left_out}; {ACCEPTED}")
    name = Path(path.name.removesuffix(".gz")).stem
    return Trace(name, requests, dropped, sorted_input=True, sha256=sha256)


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
