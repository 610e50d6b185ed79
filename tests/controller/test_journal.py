"""The journal on disk: a JSON line a tick, readable back, and no more than a few files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from controller.journal import (
    Adoption,
    FileJournal,
    JournalError,
    JournalReader,
    Tick,
    code_digest,
    files_of,
    profile_digest,
)
from controller.profiles import write_profile
from controller.signals import Budget, Correction, Load, Plan
from tests.fakes import load, profile, slo_policy

PLAN = Plan(
    epoch=3,
    k=(2, 2, 2, 2),
    quality=0.8,
    class_k={"batch": (1, 1, 2, 2)},
    class_quality={"batch": 0.7},
)

ADOPTED = Adoption(slo_policy(), "/some/profile.json", "ab" * 32, "c0de", PLAN, 4, True)
TICK = Tick(load(at_s=0.1 + 0.2, correction=Correction(1 / 3, 2.0)), Budget(2.0, "hold"), PLAN)


def written(path: Path, *entries: Adoption | Tick) -> Path:
    journal = FileJournal(path)
    for each in entries:
        if isinstance(each, Adoption):
            journal.adopt(each)
        else:
            journal.write(each.load, each.budget, each.plan)
    journal.close()
    return path


def read(*files: Path) -> list[Adoption | Tick]:
    return [entry.what for entry in JournalReader(files)]


def test_a_tick_is_one_line_that_reads_back(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.jsonl")
    believed = load(at_s=1.5, arrival_rps=2.0, gpu_throttled=None, correction=Correction(1.0, 2.0))
    journal.write(believed, Budget(2.0, 'quoted "k\'"\nand a new line'), PLAN)
    journal.close()
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    row = json.loads(line)
    correction = Correction(**row["load"].pop("correction"))
    assert Load(**row["load"], correction=correction) == believed
    assert row["budget"] == {"mean_k": 2.0, "reason": 'quoted "k\'"\nand a new line'}
    assert row["plan"] == {
        "epoch": 3,
        "k": [2, 2, 2, 2],
        "quality": 0.8,
        "class_k": {"batch": [1, 1, 2, 2]},
        "class_quality": {"batch": 0.7},
        "expert_cap": None,
        "prefill_k": None,
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


def test_what_was_adopted_and_decided_reads_back_equal(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl", ADOPTED, TICK)
    assert read(path) == [ADOPTED, TICK]


def test_every_further_file_begins_with_what_is_in_force_and_the_plan_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.journal.MAX_BYTES", 2700)  # a header and two ticks
    now = replace(TICK, plan=replace(PLAN, epoch=9))
    path = written(tmp_path / "journal.jsonl", ADOPTED, TICK, now, now)
    files = files_of(path)
    assert [file.name for file in files] == ["journal.jsonl.1", "journal.jsonl"]
    goes_on = replace(ADOPTED, continued=True)
    assert read(*files)[-3:] == [now, replace(goes_on, plan=now.plan), now]


def test_older_files_come_first_and_others_are_none_of_the_journals(tmp_path: Path) -> None:
    names = ["journal.jsonl.10", "journal.jsonl.2", "journal.jsonl.1", "journal.jsonl"]
    for name in [*names, "journal.jsonl.bak", "journal.jsonl.1.gz", "other.jsonl.3"]:
        (tmp_path / name).touch()
    assert [file.name for file in files_of(tmp_path / "journal.jsonl")] == names


def test_a_last_line_that_is_cut_off_is_dropped_with_a_note(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl", ADOPTED, TICK, TICK)
    path.write_bytes(path.read_bytes()[:-30])
    reader = JournalReader([path])
    assert [entry.what for entry in reader] == [ADOPTED, TICK]
    assert reader.notes == [f"{path}:3: cut off when its writer ended; dropped"]


def test_the_next_writer_does_not_go_on_in_a_line_that_is_cut_off(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl", ADOPTED, TICK, TICK)
    path.write_bytes(path.read_bytes()[:-30])
    written(path, ADOPTED, TICK)
    reader = JournalReader([path])
    assert [entry.what for entry in reader] == [ADOPTED, TICK, ADOPTED, TICK]
    assert reader.notes == [f"{path}:3: cut off when its writer ended; dropped"]


def test_damage_in_the_middle_is_named_by_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl", ADOPTED, TICK, TICK, TICK)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2][:40] + "\n", lines[3]]))
    with pytest.raises(JournalError, match=r"jsonl:3: damaged: not a JSON line"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"replicas": 1', '"replicas": "one"', "jsonl:2: damaged, .*: load.replicas: Input should"),
        ('"replicas": 1', '"replicas": 1, "zzz": 1', "jsonl:2: damaged, .*: load.zzz: Unexpected"),
        ('"budget": ', '"budgets": ', "jsonl:2: damaged, .*: budget: Field required"),
        ('"format": 1', '"format": 2', "jsonl:1: adopted.format: 2; this kprime reads 1"),
        ('"floor": 1', '"floor": 0', "jsonl:1: slo_policy: experts.floor: should be greater"),
        ('"code": "c0de"', '"code": 7', "jsonl:1: adopted: damaged, .*: code: Input should"),
    ],
)
def test_a_line_of_json_that_is_none_of_a_journal_is_named_with_the_key(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    path = written(tmp_path / "journal.jsonl", ADOPTED, TICK)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(JournalError, match=complaint):
        read(path)


def test_lines_before_the_first_adoption_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"load": {"of": "an older kprime"}}\n' * 3)
    written(path, ADOPTED, TICK)
    reader = JournalReader([path])
    assert [entry.what for entry in reader] == [ADOPTED, TICK]
    assert reader.before_adoption == 3


@pytest.mark.parametrize("content", ["", "no JSON\n"])
def test_a_journal_of_nothing_has_no_entries(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(content)
    assert read(path) == []


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"none.jsonl: no such file"):
        files_of(tmp_path / "none.jsonl")
    with pytest.raises(JournalError, match=r"none.jsonl: cannot be read: No such file"):
        read(tmp_path / "none.jsonl")


def test_the_digest_is_the_one_in_the_profiles_file(tmp_path: Path) -> None:
    write_profile(profile(), tmp_path / "profile.json")
    assert (
        profile_digest(profile()) == json.loads((tmp_path / "profile.json").read_text())["digest"]
    )


def test_the_digest_of_the_code_is_short_and_stays() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest()) == 12
