"""Reads arrival rates of production models over days: a file in, the windows of one model out.

The columns `model`, `t_s` and `rate_rps` are found by name, plain or gzip; others are ignored.
Knows nothing of requests. Bad input is a TableError that names the file, the line and the column.
"""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from simulations.rates import FloatArray
from simulations.tables import Table, TableError, open_table, parse_cell

COLUMNS = ("model", "t_s", "rate_rps")
# From ServeGen (arXiv 2505.09999): see traces/README.md.
SHIPPED = Path(__file__).parents[1] / "traces" / "servegen_rates_600s.csv.gz"


@dataclass(frozen=True, slots=True)
class RateWindows:
    """The mean rates, in requests/s, of windows that follow one another from 0 s on."""

    model: str
    window_s: float
    rates_rps: FloatArray

    @property
    def span_s(self) -> float:
        return self.window_s * len(self.rates_rps)


def read_rate_windows(path: Path, model: str) -> RateWindows:
    """The windows of one model of the file."""
    with open_table(path) as table:
        missing = [column for column in COLUMNS if column not in table.columns]
        if missing:
            raise TableError(
                f"{path}:1: missing column {missing[0]!r}; expected {', '.join(COLUMNS)}"
            )
        return _of_model(table, path, model)


def _of_model(table: Table, path: Path, model: str) -> RateWindows:
    models: dict[str, None] = {}  # in their order
    starts_s: list[float] = []
    rates_rps: list[float] = []
    for line, row in table.rows:
        place = f"{path}:{line}"
        models[str(row.get("model"))] = None
        start_s = parse_cell(row, place, "t_s", _not_negative, "a number of seconds from 0")
        rate_rps = parse_cell(row, place, "rate_rps", _not_negative, "a rate from 0 in requests/s")
        if row.get("model") != model:
            continue
        if not _in_step(start_s, starts_s):
            raise TableError(
                f"{place}: column 't_s': {start_s:g}, expected windows of one length from 0 on"
            )
        starts_s.append(start_s)
        rates_rps.append(rate_rps)
    if len(starts_s) < 2:
        raise TableError(f"{path}: no windows of model {model!r}; it has {', '.join(models)}")
    return RateWindows(model, starts_s[1], np.array(rates_rps))


def _in_step(start_s: float, earlier_s: list[float]) -> bool:
    """The first window starts at 0; where the second does is their length."""
    if len(earlier_s) < 2:
        return start_s > 0 if earlier_s else start_s == 0
    return start_s == len(earlier_s) * earlier_s[1]


def _not_negative(value: str) -> float:
    number = float(value)
    if not (isfinite(number) and number >= 0):
        raise ValueError
    return number
