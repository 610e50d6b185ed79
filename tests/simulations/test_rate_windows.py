"""Rates are read by column name for one model, and a bad file says what and where."""

import hashlib
from pathlib import Path

import pytest

from simulations.rate_windows import SHIPPED, read_rate_windows
from simulations.tables import TableError

HEADER = "t_s,active_clients,model,rate_rps\n"
ROWS = "0,7,a,1.5\n0,7,b,3\n600,7,a,2.5\n600,7,b,4\n1200,7,a,0\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rates.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_one_model_by_column_name(tmp_path: Path) -> None:
    windows = read_rate_windows(written(tmp_path, HEADER + ROWS), "a")
    assert (windows.model, windows.window_s, windows.span_s) == ("a", 600, 1800)
    assert windows.rates_rps.tolist() == [1.5, 2.5, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model,t_s\na,0\n", ":1: missing column 'rate_rps'; expected model, t_s, rate_rps"),
        (HEADER + ROWS.replace("2.5", "fast"), ":4: column 'rate_rps': 'fast', expected a rate"),
        (HEADER + ROWS.replace("2.5", "-1"), ":4: column 'rate_rps': '-1', expected a rate"),
        (HEADER + ROWS.replace("1200", "1800"), ":6: column 't_s': 1800, expected windows of one"),
        (HEADER + "600,7,a,1\n", ":2: column 't_s': 600, expected windows of one length from 0"),
        (HEADER + "0,7,a,1\n0,7,a,1\n", ":3: column 't_s': 0, expected windows of one length"),
        (HEADER + ROWS.replace(",a,", ",c,"), ": no windows of model 'a'; it has c, b"),
        ('{"t_s": 0, "rate_rps": 1, "model": "b"}\n{"t_s": 0, "rate_rps": 1}\n', "it has b, None"),
    ],
)
def test_names_place_and_what_is_accepted(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TableError) as raised:
        read_rate_windows(path, "a")
    assert str(raised.value).startswith(str(path))
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("model", "num_windows", "mean_rps"),
    [("m-small", 2016, 1174.4), ("m-mid", 2016, 1790.1), ("m-large", 2016, 195.8)],
)
def test_reads_the_shipped_rates(model: str, num_windows: int, mean_rps: float) -> None:
    windows = read_rate_windows(SHIPPED, model)
    assert (windows.window_s, len(windows.rates_rps)) == (600, num_windows)
    assert windows.rates_rps.mean() == pytest.approx(mean_rps, abs=0.1)


def test_the_shipped_rates_are_those_of_the_readme() -> None:
    readme = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() in readme
