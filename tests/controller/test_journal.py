"""The journal on disk: a JSON line a tick, readable back, and no more than a few files."""

import json
from pathlib import Path

import pytest

from controller.journal import FileJournal
from controller.signals import Budget, Correction, Load, Plan
from tests.fakes import load

PLAN = Plan(epoch=3, k=(2, 2, 2, 2), quality=0.8, class_k={"batch": (1, 1, 2, 2)})


def test_a_tick_is_one_line_that_reads_back(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.jsonl")
    written = load(at_s=1.5, arrival_rps=2.0, gpu_throttled=None, correction=Correction(1.0, 2.0))
    journal.write(written, Budget(2.0, 'quoted "k\'"\nand a new line'), PLAN)
    journal.close()
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    row = json.loads(line)
    correction = Correction(**row["load"].pop("correction"))
    assert Load(**row["load"], correction=correction) == written
    assert row["budget"] == {"mean_k": 2.0, "reason": 'quoted "k\'"\nand a new line'}
    assert row["plan"] == {
        "epoch": 3,
        "k": [2, 2, 2, 2],
        "quality": 0.8,
        "class_k": {"batch": [1, 1, 2, 2]},
        "expert_cap": None,
    }


def test_what_is_not_known_is_null_and_not_zero(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.jsonl")
    journal.write(Load(mean_k=8.0, at_s=0.0, replicas=0), Budget(2.0, "hold"), PLAN)
    journal.close()
    row = json.loads((tmp_path / "journal.jsonl").read_text())
    assert row["load"]["arrival_rps"] is None
    assert row["load"]["waiting_tokens"] is None


def test_a_line_is_on_disk_before_the_journal_closes(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.jsonl")
    journal.write(load(), Budget(2.0, "hold"), PLAN)
    assert (tmp_path / "journal.jsonl").read_text().endswith("}\n")
    journal.close()


def test_a_journal_makes_its_folder_and_appends_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "today" / "journal.jsonl"
    for at_s in (1.0, 2.0):
        journal = FileJournal(path)
        journal.write(load(at_s=at_s), Budget(2.0, "hold"), PLAN)
        journal.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["load"]["at_s"] for row in rows] == [1.0, 2.0]


def test_old_lines_move_to_numbered_files_and_are_dropped_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.journal.MAX_BYTES", 1000)  # a row has about 600
    journal = FileJournal(tmp_path / "journal.jsonl")
    for tick in range(9):
        journal.write(load(at_s=float(tick)), Budget(2.0, "hold"), PLAN)
    journal.close()
    left = {
        file.name: [json.loads(line)["load"]["at_s"] for line in file.read_text().splitlines()]
        for file in tmp_path.iterdir()
    }
    assert left == {
        "journal.jsonl": [8.0],
        "journal.jsonl.1": [7.0],
        "journal.jsonl.2": [6.0],
        "journal.jsonl.3": [5.0],
    }
