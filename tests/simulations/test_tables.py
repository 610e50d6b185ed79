"""Rows come with the number of the line they are on, by whatever way the text is kept."""

import gzip
from pathlib import Path

import pytest

from simulations.tables import TableError, open_table, parse_cell

CSV = 'a, b\n1,2\n"3\n",4\n'
JSON = '{"a": 1, "b": 2}\n\n{"a": 3}\n'


@pytest.mark.parametrize("compress", [False, True])
def test_csv_rows_have_the_number_of_their_last_line(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "table"
    path.write_bytes(gzip.compress(CSV.encode()) if compress else CSV.encode())
    with open_table(path) as table:
        assert table.columns == ["a", "b"]
        assert list(table.rows) == [(2, {"a": "1", "b": "2"}), (4, {"a": "3\n", "b": "4"})]


@pytest.mark.parametrize("compress", [False, True])
def test_json_rows_count_empty_lines(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "table"
    path.write_bytes(gzip.compress(JSON.encode()) if compress else JSON.encode())
    with open_table(path) as table:
        assert table.columns == ["a", "b"]
        assert list(table.rows) == [(1, {"a": 1, "b": 2}), (3, {"a": 3})]


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="Is a directory"), open_table(tmp_path):
        pass


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"n": "x"}, r"^file:7: column 'n': 'x', expected a number$"),
        ({"n": None}, r"^file:7: column 'n': no value, expected a number$"),
        ({}, r"^file:7: column 'n': no value, expected a number$"),
    ],
)
def test_a_bad_cell_is_named(row: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        parse_cell(row, "file:7", "n", float, "a number")
