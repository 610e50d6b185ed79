"""The arms of the step, its phases, and whose turn it is."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks import live_step
from benchmarks.live_step import arm_of, arms_in, over_rounds, step_of, turned
from controller.config import SloPolicy
from simulations.arrivals import Phase
from simulations.results import Record
from simulations.traces import Request
from tests.benchmarks.fake_stage import FakeStage, answer, material
from tests.fakes import slo_policy

EXPERTS = slo_policy().experts  # floor 1, ceiling 8


def test_the_rate_doubles_and_comes_back() -> None:
    phases = [Phase(40, 6), Phase(60, 12), Phase(30, 6)]
    assert step_of(12, before_s=40, step_s=60, after_s=30) == phases


def test_arms_are_constants_and_policies() -> None:
    names = ["static-full", "best-static", "static-3", "predictive", "aimd"]
    assert arms_in(",".join(names), EXPERTS) == names


@pytest.mark.parametrize(
    "text", ["", "static", "static-", "static-0", "static-9", "fixed", "aimd,aimd", "aimd, pid"]
)
def test_what_is_no_arm_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected, each once, some of static-full, .*, aimd"):
        arms_in(text, EXPERTS)


@pytest.mark.parametrize(
    ("name", "policy", "k"),
    [
        ("static-full", "fixed", 8),
        ("static-3", "fixed", 3),
        ("best-static", "fixed", 5),
        ("aimd", "aimd", None),
        ("predictive", "predictive", None),
    ],
)
def test_an_arm_changes_the_policy_and_nothing_else(name: str, policy: str, k: int | None) -> None:
    arm = arm_of(name, slo_policy(), best_k=5)
    assert (arm.policy.name, arm.policy.k) == (policy, k)
    assert arm.model_copy(update={"policy": slo_policy().policy}) == slo_policy()


def test_an_arm_may_have_lower_prompts_and_differs_in_nothing_else() -> None:
    assert arms_in("predictive-prompts-1,static-full-prompts-8", EXPERTS)
    lower, plain = (arm_of(each, slo_policy(), 5) for each in ("aimd-prompts-2", "aimd"))
    assert lower.experts.prefill_ceiling == 2
    assert lower.model_copy(update={"experts": plain.experts}) == plain
    for beyond in ("aimd-prompts-9", "aimd-prompts-", "aimd-prompts-1,aimd-prompts-1"):
        with pytest.raises(ValueError, match="or one of them-prompts-K"):
            arms_in(beyond, EXPERTS)


def test_every_arm_begins_a_round_in_its_turn() -> None:
    rounds = [turned(["a", "b", "c"], number) for number in range(4)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_rounds_are_put_together_by_arm() -> None:
    rounds = [{"arms": {"aimd": {"shed": shed}}, "oracle": {}} for shed in (4, 1, 2)]
    together = over_rounds(rounds)
    assert together["oracle"] == {}
    assert together["arms"]["aimd"]["rounds"] == [{"shed": 4}, {"shed": 1}, {"shed": 2}]
    assert together["arms"]["aimd"]["median"]["shed"] == 2


def late_at_full_k(index: int, request: Request, slo_policy: SloPolicy) -> Record:
    return answer(index, request, ttft_s=3.0 if slo_policy.policy.k == 8 else 0.1)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> FakeStage:
    fake = FakeStage(late_at_full_k)
    monkeypatch.setattr(live_step, "staged", fake.staged)
    monkeypatch.setattr(live_step, "prepare", material(slo_policy()))
    return fake


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(live_step.main)
    return CliRunner().invoke(app, list(arguments))


def test_help_needs_no_server() -> None:
    assert run("--help").exit_code == 0


def test_all_arms_of_a_round_are_sent_the_same(stage: FakeStage, tmp_path: Path) -> None:
    file = tmp_path / "figures" / "step.json"
    result = run("--repeats", "2", "--seed", "5", "--arms", "static-full,aimd", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert [(name, seed) for name, _, seed in stage.runs] == [
        ("static-full", 5),
        ("aimd", 5),
        ("aimd", 6),
        ("static-full", 6),
    ]
    first, second, third, fourth = (requests for _, requests, _ in stage.runs)
    assert first == second != third == fourth
    figures = json.loads(file.read_text())
    # 0.3 of the way from 4 to 8 a second, and half of that before and after.
    assert figures["phases"] == [[40, 2.6], [60, 5.2], [40, 2.6]]
    assert figures["requests"] == [len(first), len(third)]
    assert figures["arms"]["static-full"]["median"]["attainment"] == 0
    assert figures["arms"]["aimd"]["median"]["fewer_violating"] == 1
    assert figures["oracle"]["first_token, attainment"]["median"]["attainment"] > 0.9
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "headroom 2.00" in result.stdout


def test_no_arm_is_one_message(stage: FakeStage, tmp_path: Path) -> None:
    result = run("--arms", "nobody", "--json", str(tmp_path / "step.json"))
    assert result.exit_code == 2
    assert result.stderr.startswith("--arms: 'nobody': expected, each once, some of static-full")
    assert not stage.runs
