"""What the simulated machine is taken to be, and how far it may be from the live one."""

import io
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import contention, fidelity
from benchmarks.fidelity import LIMITS, Limit, arms_of, off, table
from tests.benchmarks.fake_stage import FakeStage, answer, material
from tests.fakes import slo_policy

SHARE = Limit("ttft_p95_s", 0.15, is_share=True)
POINTS = Limit("attainment", 0.03, is_share=False)


def test_the_arms_are_both_ends_and_the_default_policy() -> None:
    arms = arms_of(slo_policy(experts={"floor": 2, "ceiling": 6, "safe": 6}))
    chosen = {name: (arm.policy.name, arm.policy.k) for name, arm in arms.items()}
    assert chosen == {
        "static-full": ("fixed", 6),
        "static-floor": ("fixed", 2),
        "predictive": ("predictive", None),
    }


def test_figures_are_off_by_points_or_by_a_share_of_the_live_one() -> None:
    assert off(SHARE, {"ttft_p95_s": 0.5}, {"ttft_p95_s": 0.6}) == pytest.approx(0.2)
    assert off(POINTS, {"attainment": 0.5}, {"attainment": 0.6}) == pytest.approx(0.1)
    assert off(SHARE, {"ttft_p95_s": None}, {"ttft_p95_s": 0.6}) is None


def test_what_is_beyond_its_limit_or_unknown_is_marked() -> None:
    live = {"attainment": 0.9, "ttft_p95_s": 0.5, "tpot_p95_s": 0.05, "served_quality": None}
    ours = {"attainment": 0.92, "ttft_p95_s": 0.6, "tpot_p95_s": 0.05, "served_quality": 1.0}
    found = {"round": 1, "arm": "predictive", "live": live, "simulated": ours, "by_profile": ours}
    console = Console(width=150, file=io.StringIO())
    console.print(table([found]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line for line in printed.splitlines() if "predictive" in line]
    assert ["!" in row for row in rows] == [False, True, False, True]
    assert len(rows) == len(LIMITS)


def test_each_arm_is_run_live_and_simulated_as_the_same_schedule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = FakeStage(lambda index, request, _: answer(index, request))
    monkeypatch.setattr(fidelity, "prepare", material(slo_policy()))
    monkeypatch.setattr(fidelity, "staged", stage.staged)
    monkeypatch.setattr(fidelity, "probed", lambda _: nullcontext([0.02, 0.02, 0.02]))
    app = typer.Typer()
    app.command()(fidelity.main)
    json_file = tmp_path / "fidelity.json"
    result = CliRunner().invoke(app, ["--rounds", "2", "--json", str(json_file)])
    assert result.exit_code == 0, result.output
    found = json.loads(json_file.read_text())["found"]
    assert [(each["round"], each["arm"]) for each in found] == [
        (number, name) for number in (1, 2) for name in arms_of(slo_policy())
    ]
    assert stage.runs[0][:2] == ("contention", contention.schedule())
    for each, (name, requests, seed) in zip(found, stage.runs[1:], strict=True):
        assert (each["arm"], each["round"], each["requests"]) == (name, seed, len(requests))
        assert each["live"]["ttft_p95_s"] == 0.1
        assert each["simulated"]["attainment"] == each["by_profile"]["attainment"] == 1.0
        assert each["actual"]["contention"] == 0
        assert each["actual"]["way"] == pytest.approx({"mean_s": 0.02, "sigma": 0.0})
        way_s = each["simulated"]["ttft_p95_s"] - each["by_profile"]["ttft_p95_s"]
        assert way_s == pytest.approx(0.02, abs=0.001)  # within the sketch's accuracy
