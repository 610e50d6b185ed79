"""Overload by class: whom the mix is of, and what a run looks like by class, phase and second."""

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from benchmarks import overload
from benchmarks.overload import ROWS, arm_of, by_phase, by_priority, table, time_line
from commands.stage import Run
from controller.config import SloPolicy
from simulations.arrivals import Phase
from simulations.results import Record
from simulations.timeline import Tick
from simulations.traces import Request
from tests.benchmarks.fake_stage import FakeStage, answer, material
from tests.fakes import slo_policy

CLASSES = {
    "premium": {"ttft_s": 0.5, "tpot_s": 0.1, "priority": 10},
    "batch": {"ttft_s": 5.0, "tpot_s": 1.0, "priority": -10},
}
POLICY = slo_policy(classes=CLASSES)


def record(index: int, scheduled_s: float, slo_class: str, *, shed: bool = False) -> Record:
    """Answered after a second, or refused."""
    return answer(index, Request(scheduled_s, 100, 10, slo_class), ttft_s=1.0, shed=shed)


RUN = Run(
    [
        record(0, 0.1, "premium"),
        record(1, 0.2, "batch", shed=True),
        record(2, 1.5, "batch"),
        record(3, 3.2, "batch"),
    ],
    [
        Tick(0.2, 8.0, 1, 0, "calm"),
        Tick(0.8, 4.0, 2, 5, "busy", class_k={"batch": 1.0}, class_waiting={"batch": 4}),
        Tick(1.8, 6.0, 3, 2, "less so"),
    ],
    [3.0],
)


def test_the_mix_is_a_quarter_of_the_first_and_the_rest_of_the_last() -> None:
    assert by_priority(POLICY) == {"premium": 0.25, "batch": 0.75}


def test_requests_that_name_no_class_may_be_the_first_or_the_last() -> None:
    assert by_priority(slo_policy(classes={"batch": CLASSES["batch"]})) == {
        "default": 0.25,
        "batch": 0.75,
    }


def test_without_two_priorities_the_shares_have_to_be_given() -> None:
    with pytest.raises(ValueError, match="give their shares"):
        by_priority(slo_policy())


def test_each_phase_has_the_requests_that_were_due_in_it() -> None:
    loaded, quiet = by_phase(RUN.records, [Phase(2, 2), Phase(2, 1)], POLICY)
    assert (loaded["offered"], quiet["offered"]) == (3, 1)
    # The one of premium came in a second, late for it and in time for batch.
    assert loaded["attainment"] == pytest.approx(1 / 3)
    assert quiet["classes"]["batch"]["attainment"] == 1


def test_the_time_line_counts_second_by_second() -> None:
    first, second, third, fourth = time_line(RUN, ["premium", "batch"])
    assert first["premium"] == {"completed": 1, "shed": 0, "failed": 0}
    assert first["batch"] == {"completed": 0, "shed": 1, "failed": 0}
    assert (first["waiting"], first["reason"]) == (5, "busy")
    assert first["mean_k"] == {"premium": 4.0, "batch": 1.0}
    assert second["mean_k"] == {"premium": 6.0, "batch": 6.0}
    assert (third["at_s"], third["batch"]["completed"], third["waiting"]) == (2, 0, None)
    assert fourth["batch"]["completed"] == 1


def test_a_class_is_drawn_with_its_own_requests_and_k() -> None:
    batch = arm_of(RUN, "batch")
    assert (batch.name, len(batch.records)) == ("batch", 3)
    assert [tick.mean_k for tick in batch.ticks] == [8.0, 1.0, 6.0]
    assert [tick.waiting_requests for tick in batch.ticks] == [None, 4, None]


def test_the_table_has_a_column_for_all_and_for_every_class() -> None:
    shown = table(RUN.figures(POLICY.slo_classes))
    assert [column.header for column in shown.columns] == ["", "all", "premium", "batch"]
    assert shown.row_count == len(ROWS)
    text = io.StringIO()
    Console(file=text, width=200).print(shown)
    assert "longest answer, s" in text.getvalue()


def refused_if_batch(index: int, request: Request, _: SloPolicy) -> Record:
    return answer(index, request, shed=request.slo_class == "batch" and index % 2 == 0)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> FakeStage:
    fake = FakeStage(refused_if_batch)
    monkeypatch.setattr(overload, "staged", fake.staged)
    monkeypatch.setattr(overload, "prepare", material(POLICY))
    return fake


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(overload.main)
    return CliRunner().invoke(app, list(arguments))


def test_help_needs_no_server() -> None:
    assert run("--help").exit_code == 0


def test_a_run_ends_with_figures_by_class_and_a_picture(stage: FakeStage, tmp_path: Path) -> None:
    file = tmp_path / "figures" / "overload.json"
    result = run("--seconds", "60", "--quiet", "20", "--json", str(file))
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert figures["mix"] == {"premium": 0.25, "batch": 0.75}
    # One and a half times the 8 a second of the floor, then 0.3 of the 4 at full k'.
    assert figures["phases"] == [[60, 12], [20, pytest.approx(1.2)]]
    premium, batch = (figures["overload"]["classes"][name] for name in ("premium", "batch"))
    assert premium["offered"] + batch["offered"] == len(stage.runs[0][1])
    assert premium["attainment"] == 1
    assert batch["shed_with_retry_after"] == batch["shed"] > 0
    assert len(figures["time_line"]) <= 80
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_class_that_the_policy_lacks_is_one_message(stage: FakeStage, tmp_path: Path) -> None:
    result = run("--slo-class", "gold", "--json", str(tmp_path / "overload.json"))
    assert result.exit_code == 2
    assert result.stderr == (
        "--slo-class: 'gold' is not a class of the policy, use: default, premium, batch\n"
    )
    assert not stage.runs
