"""`kprime replay` as an operator meets it: what is printed, what is written, the exit status."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from commands.main import app
from controller.journal import Adoption, FileJournal, code_digest, profile_digest
from controller.profiles import write_profile
from controller.signals import Budget
from tests.fakes import load, plan_at, profile, slo_policy

POLICIES = Path(__file__).parents[2] / "policies"
PROFILE = profile()
EIGHT = plan_at(PROFILE, 8, epoch=1)


def run(*arguments: object) -> Result:
    # Rich wraps at the terminal's width, which is not what is asked here.
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, ["replay", *words], env={"COLUMNS": "200"})


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Five ticks at k' 8, with its profile beside it."""
    write_profile(PROFILE, tmp_path / "profile.json")
    return write(tmp_path / "journal.jsonl", ["fixed at 8"] * 5)


def write(path: Path, reasons: list[str], **changes: str) -> Path:
    fields = {
        "profile": str(path.with_name("profile.json")),
        "profile_digest": profile_digest(PROFILE),
        "code": code_digest(),
    }
    policy = slo_policy(policy={"name": "fixed", "k": 8})
    writer = FileJournal(path)
    writer.adopt(Adoption(policy, plan=EIGHT, **fields | changes))
    for n, reason in enumerate(reasons):
        writer.write(load(at_s=0.2 * n), Budget(8.0, reason), EIGHT)
    writer.close()
    return path


def test_decisions_that_come_out_the_same_are_counted(journal: Path) -> None:
    figures = journal.with_name("figures.json")
    result = run(journal, "--json", figures)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "5 ticks, 1 adoptions of an SLO policy; 5 decisions made again, 0 differ"
    ]
    assert json.loads(figures.read_text()) == {
        "before_adoption": 0,
        "ticks": 5,
        "replayed": 5,
        "without_memory": 0,
        "adoptions": 1,
        "epoch_jumps": 0,
        "differences": 0,
        "first": [],
        "codes": [code_digest()],
        "notes": [],
    }


def test_a_decision_that_differs_is_shown_with_both_reasons(journal: Path) -> None:
    figures = journal.with_name("figures.json")
    write(journal, ["fixed at 8", "[by] a whim"])
    result = run(journal, "--json", figures)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-3:] == [
        f"{journal}:9: at 0.200 s",
        "  journal: k' 8, plan 8 8 8 8 epoch 1: [by] a whim",
        "  again:   k' 8, plan 8 8 8 8 epoch 1: fixed at 8",
    ]
    assert result.stderr == "1 of 7 decisions differ\n"
    (first,) = json.loads(figures.read_text())["first"]
    assert first["budget"]["reason"] == "[by] a whim"
    assert first["budget_again"]["reason"] == "fixed at 8"


def test_many_differences_are_not_all_shown(journal: Path) -> None:
    write(journal, ["a whim"] * 8)
    result = run(journal)
    assert result.exit_code == 1
    assert result.stdout.count("a whim") == 5
    assert result.stdout.splitlines()[-1] == "... and 3 more"


def test_what_could_not_be_replayed_is_said(journal: Path) -> None:
    old = '{"load": {}, "budget": {}, "plan": {}}\n' * 2
    journal.write_text(old + journal.read_text() + '{"load": {"at_')
    write(journal, [], code="0ther")
    result = run(journal)
    assert result.exit_code == 0, result.output
    note, _, before, code = result.stdout.splitlines()
    assert note == f"{journal}:9: cut off when its writer ended; dropped"
    assert before.startswith("2 ticks stand before the first adoption: ")
    assert code.startswith(f"decided by other code than this kprime's: 0ther, here {code_digest()}")


def test_a_file_that_goes_on_from_one_that_is_gone_is_replayed_but_for_its_memory(
    journal: Path,
) -> None:
    journal.write_text(journal.read_text().replace('"continued": false', '"continued": true'))
    result = run(journal)
    assert result.exit_code == 0, result.output
    assert "0 decisions made again, 0 differ" in result.stdout
    assert "5 ticks not compared: the file goes on from one that is gone" in result.stdout


def test_older_files_are_read_first(journal: Path) -> None:
    journal.rename(journal.with_name("journal.jsonl.1"))
    write(journal, ["fixed at 8"] * 2)
    first, second = run(journal).stdout.splitlines()
    assert first == "2 files, from journal.jsonl.1 to journal.jsonl"
    assert second.startswith("7 ticks, 2 adoptions")


def test_an_epoch_counted_on_is_said(journal: Path) -> None:
    text = journal.read_text().splitlines(keepends=True)
    text[-1] = text[-1].replace('"epoch": 1', '"epoch": 42')
    journal.write_text("".join(text))
    result = run(journal)
    assert result.exit_code == 0, result.output
    assert "1 times the epoch went ahead" in result.stdout


def test_another_policy_is_compared_by_time(journal: Path) -> None:
    figures, policy = journal.with_name("figures.json"), journal.with_name("four.yaml")
    text = (POLICIES / "fixed-full.yaml").read_text()
    policy.write_text(text.replace("k: 8", "k: 4"))
    result = run(journal, "--policy-file", policy, "--json", figures)
    assert result.exit_code == 0, result.output
    for line in ("time at k' 8 │ 100.0%", "time at k' 4 │ 0.0%", "changes of plan"):
        assert line in " ".join(result.stdout.split())
    assert "queues and latencies would have been others" in result.stdout
    said = json.loads(figures.read_text())
    assert said["seconds"] == pytest.approx(1.0)
    assert said["arms"]["journal"] == {
        "share": {"8": 1.0},
        "mean_k": 8.0,
        "quality": pytest.approx(1.0),
        "changes": 0,
    }
    assert said["arms"][str(policy)]["share"] == {"4": 1.0}
    assert "would have been others" in said["notes"][-1]


def refusal(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def test_the_profile_given_has_to_be_the_one_that_decided(journal: Path) -> None:
    journal.with_name("profile.json").rename(journal.with_name("moved.json"))
    complaint = refusal(journal)
    assert f"{journal.with_name('profile.json')}: cannot be read" in complaint
    assert f"give --profile: {journal}:1 has {profile_digest(PROFILE)[:12]}" in complaint
    assert run(journal, "--profile", journal.with_name("moved.json")).exit_code == 0
    write_profile(PROFILE.model_copy(update={"engine": "another"}), journal.with_name("other.json"))
    complaint = refusal(journal, "--profile", journal.with_name("other.json"))
    assert complaint.startswith(f"{journal}:1: decided by the profile ")


@pytest.mark.parametrize("content", ["", '{"load": {}}\n', "plain text"])
def test_a_journal_without_an_adoption_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "journal.jsonl").write_text(content)
    complaint = refusal(tmp_path / "journal.jsonl")
    assert complaint.startswith(f"{tmp_path}/journal.jsonl: no adopted SLO policy in it")


def test_damage_is_named_by_file_and_line(journal: Path) -> None:
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:3], "\x00\x00\n", *lines[3:]]))
    assert refusal(journal).startswith(f"{journal}:4: damaged: not a JSON line")


def test_missing_files_and_bad_policies_are_named(journal: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jsonl").startswith(f"{tmp_path}/none.jsonl: no such file")
    assert f"{tmp_path}/none.yaml:1: " in refusal(journal, "--policy-file", tmp_path / "none.yaml")
    assert "--json" in refusal(journal, "--json", tmp_path / "none" / "figures.json")
