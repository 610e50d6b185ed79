"""`kprime simulate` as an operator meets it: a table, fields by name, one message a mistake."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from controller.profiles import write_profile
from simulations.rates import full_rate, rung_rates
from tests.commands.command_line import invoked, refused
from tests.fakes import profile

REPOSITORY = Path(__file__).parents[2]
# A burst that full k' cannot take in.
LOAD = "step:base=2,peak=40,before=2,step=3,after=4,prompt=100,output=3"
FIELDS = {
    "offered",
    "completed",
    "shed",
    "failed",
    "attainment",
    "served_quality",
    "effective_quality",
    "served_quality_p5",
    "worst_minute_quality",
    "ttft_p50_s",
    "ttft_p95_s",
    "ttft_p99_s",
    "tpot_p50_s",
    "tpot_p95_s",
    "tpot_p99_s",
    "violating_windows_2s",
    "windows_2s",
    "switches_per_min",
    "over_degradation",
    "mean_k",
}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "profile.json"
    write_profile(profile(), file)
    return {
        "--trace": LOAD,
        "--profile": file,
        "--policy-file": REPOSITORY / "policies" / "interactive.yaml",
        "--seeds": 2,
        "--processes": 1,
    }


def run(options: dict[str, object]) -> Result:
    return invoked("simulate", options)


def refusal(options: dict[str, object]) -> str:
    return refused("simulate", options)


def done(options: dict[str, object]) -> str:
    result = run(options)
    assert result.exit_code == 0, result.output
    return result.stdout


def figures(options: dict[str, object], folder: Path) -> dict[str, Any]:
    file = folder / "simulate.json"
    done(options | {"--json": file})
    return json.loads(file.read_text())


def test_the_json_has_every_field_and_the_four_arms_of_the_default(
    options: dict[str, object], tmp_path: Path
) -> None:
    found = figures(options, tmp_path)
    assert (found["trace"], found["load"]) == (LOAD, None)
    assert list(found["arms"]) == ["static-full", "best-static", "predictive", "oracle"]
    for arm, fields in found["arms"].items():
        assert fields.keys() >= FIELDS, arm
        assert found["by_seed"][arm][1].keys() >= FIELDS, arm
    assert found["arms"]["predictive"]["classes"]["default"].keys() >= FIELDS - {
        "switches_per_min",
        "over_degradation",
    }
    assert found["regret"].keys() == found["arms"].keys()
    assert (found["regret"]["oracle"], found["regret"]["best-static"]) == (0.0, 1.0)
    over = found["effective_quality_over_best_static"]
    assert over["oracle"]["low"] <= over["oracle"]["mean"] <= over["oracle"]["high"]
    assert found["seeds"] == [0, 1]
    assert found["best_static"] in {f"static-{k}" for k in (1, 2, 4, 8)}
    low, *_, full = rung_rates(profile(), 100, 3, replicas=2)
    assert found["headroom"] == pytest.approx(low / full)


def test_an_arm_has_the_means_of_its_seeds(options: dict[str, object], tmp_path: Path) -> None:
    found = figures(options, tmp_path)
    for arm, fields in found["arms"].items():
        by_seed = [each["effective_quality"] for each in found["by_seed"][arm]]
        assert fields["effective_quality"] == pytest.approx(sum(by_seed) / 2)


def test_the_same_again_gives_the_same_file_and_the_number_of_processes_changes_nothing(
    options: dict[str, object], tmp_path: Path
) -> None:
    first = figures(options, tmp_path)
    assert figures(options, tmp_path) == first
    assert figures(options | {"--processes": 2}, tmp_path) == first


def test_a_table_says_what_was_asked_who_wins_and_what_was_held_fixed(
    options: dict[str, object],
) -> None:
    shown = done(options | {"--arms": "lp,best-static", "--seeds": 1})
    arms = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert arms[0] == "lp" and arms[1].startswith("best-static (static-")
    assert "static-full" not in arms
    assert "lengths scaled by 1" in shown
    assert "wins" in shown or "winner" in shown.lower()
    assert "Objectives: default: TTFT 1 s, TPOT 0.2 s" in shown


def test_all_is_every_arm(options: dict[str, object], tmp_path: Path) -> None:
    found = figures(options | {"--arms": "all", "--seeds": 1}, tmp_path)
    assert len(found["arms"]) == 15
    assert found["arms"]["static-8"]["mean_k"] == pytest.approx(8)
    most = found["arms"]["oracle"]["effective_quality"]
    assert max(each["effective_quality"] for each in found["arms"].values()) == most
    # One seed gives no interval.
    assert found["effective_quality_over_best_static"]["lp"]["low"] is None


def test_without_the_best_constant_there_is_no_regret(
    options: dict[str, object], tmp_path: Path
) -> None:
    found = figures(options | {"--arms": "predictive,oracle"}, tmp_path)
    assert found["regret"] == {"predictive": None, "oracle": None}
    assert (found["best_static"], found["effective_quality_over_best_static"]) == (None, {})


def test_load_is_a_share_of_what_full_k_can_do(options: dict[str, object], tmp_path: Path) -> None:
    load = "poisson:rate=3,duration=20,prompt=100,output=3"
    options |= {"--trace": load, "--arms": "static-full", "--load": 0.5, "--seeds": 1}
    offered = figures(options, tmp_path)["arms"]["static-full"]["offered"]
    assert offered == pytest.approx(20 * 0.5 * full_rate(profile(), 100, 3, 2), rel=0.25)
    assert figures(options, tmp_path)["load"] == 0.5


def test_requests_are_written_by_arm_and_seed(options: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    found = figures(options | {"--requests": file}, tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for arm in ("static-full", "best-static", "predictive"):
        for seed in (0, 1):
            own = [row for row in rows if (row["arm"], row["seed"]) == (arm, seed)]
            fields = found["by_seed"][arm][seed]
            assert len(own) == fields["offered"]
            assert sum(row["status"] == "completed" for row in own) == fields["completed"]
    assert {row["arm"] for row in rows} == {"static-full", "best-static", "predictive"}


def test_the_schedule_of_a_seed_is_the_one_that_load_sends(
    options: dict[str, object], tmp_path: Path
) -> None:
    sent, replayed = tmp_path / "sent.jsonl", tmp_path / "replayed.jsonl"
    seed_1 = {"--trace": LOAD, "--rate": 9, "--seed": 1, "--write-trace": sent}
    assert invoked("load", seed_1).exit_code == 0
    done(options | {"--rate": 9, "--requests": replayed, "--arms": "static-full"})
    due_s = [
        row["scheduled_s"]
        for row in map(json.loads, replayed.read_text().splitlines())
        if row["seed"] == 1
    ]
    written_s = [json.loads(line)["timestamp"] / 1000 for line in sent.read_text().splitlines()]
    assert len(due_s) == len(written_s)
    # A Mooncake file counts from its first request, in whole milliseconds.
    assert [at_s - due_s[0] for at_s in due_s] == pytest.approx(written_s, abs=2e-3)


CLASSES = """
version: 1
slo: {ttft_s: 1.0, tpot_s: 0.2}
experts: {floor: 1, ceiling: 8}
policy: {name: predictive}
classes:
  premium: {ttft_s: 1.0, tpot_s: 0.2, priority: 1}
  batch: {ttft_s: 4.0, tpot_s: 1.0, priority: -1}
"""


def test_a_mix_of_classes_is_judged_by_class(options: dict[str, object], tmp_path: Path) -> None:
    policy_file = tmp_path / "classes.yaml"
    policy_file.write_text(CLASSES)
    mix = {"--policy-file": policy_file, "--slo-class": "premium=0.4,batch=0.6"}
    found = figures(options | mix | {"--arms": "predictive,oracle"}, tmp_path)
    classes = found["arms"]["predictive"]["classes"]
    assert classes.keys() == {"premium", "batch"}
    assert sum(each["offered"] for each in classes.values()) == pytest.approx(
        found["arms"]["predictive"]["offered"]
    )


def test_a_fault_is_felt(options: dict[str, object], tmp_path: Path) -> None:
    options |= {"--arms": "static-full", "--seeds": 1}
    well = figures(options, tmp_path)["arms"]["static-full"]
    slow = figures(options | {"--fault": "slow:factor=2"}, tmp_path)["arms"]["static-full"]
    assert slow["attainment"] < well["attainment"]


def test_a_report_is_written_with_pictures_beside_it(
    options: dict[str, object], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    done(options | {"--html": page, "--seeds": 1, "--arms": "static-full,best-static,predictive"})
    assert "predictive" in page.read_text()
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--trace", "step:base=4", "--trace: step:base=4: 'peak' is missing; expected step:base="),
        ("--trace", "none.csv", "--trace: none.csv"),
        ("--start", 500, "--start, --duration: no request of step"),
        ("--profile", "none.json", "--profile: none.json: cannot be read"),
        ("--policy-file", "none.yaml", "--policy-file: none.yaml:1: cannot be read"),
        ("--arms", "static-7", "--arms: 'static-7' is no arm: expected all, or, each once, some"),
        ("--arms", "lp,lp", "--arms: 'lp' is given twice"),
        ("--rate", 0, "--rate 0: "),
        ("--context", 1, "--context: context of 1 tokens: expected 2 or more"),
        ("--slo-class", "gold", "--slo-class: 'gold' is not a class of the policy, use: default"),
        ("--slo-class", "a=0.5,b=0.4", "--slo-class: 'a=0.5,b=0.4': the shares sum to 0.9"),
        ("--fault", "fire", "--fault: fire: 'fire' is no fault; expected slow:factor=1.3"),
        ("--fault", "lost:at=1,replica=2", "--replicas, --min-replicas, --max-replicas, --fault: "),
        ("--min-replicas", 1, "--replicas, --min-replicas, --max-replicas, --fault: min_replicas"),
    ],
)
def test_an_impossible_value_is_refused_by_the_name_of_its_option(
    options: dict[str, object], option: str, value: object, complaint: str
) -> None:
    assert refusal(options | {option: value}).startswith(complaint)


def test_bounds_without_a_rung_are_named_with_both_files(
    options: dict[str, object], tmp_path: Path
) -> None:
    policy_file = tmp_path / "narrow.yaml"
    policy_file.write_text(CLASSES.replace("floor: 1, ceiling: 8", "floor: 5, ceiling: 7"))
    line = refusal(options | {"--policy-file": policy_file})
    assert line.startswith(f"--policy-file {policy_file}, --profile {options['--profile']}: ")
    assert line.endswith("no rung between floor 5 and ceiling 7")


def test_the_rate_is_set_in_one_way(options: dict[str, object]) -> None:
    line = refusal(options | {"--load": 0.5, "--rate": 3})
    assert line == "--load and --rate both set the rate: give one"


@pytest.mark.parametrize("option", ["--json", "--html", "--requests"])
@pytest.mark.parametrize("place", [".", "none/figures.json"])
def test_an_output_with_nowhere_to_go_is_refused_before_the_run(
    options: dict[str, object], tmp_path: Path, option: str, place: str
) -> None:
    line = refusal(options | {option: tmp_path / place})
    assert line == f"{option} {tmp_path / place}: expected a file name in an existing folder"


def test_a_study_needs_neither_torch_nor_ray(options: dict[str, object], tmp_path: Path) -> None:
    options |= {"--html": tmp_path / "page.html", "--seeds": 1, "--arms": "predictive,oracle"}
    code = (
        "import sys; from commands.main import app; app(sys.argv[1:], standalone_mode=False); "
        "print(*sorted({'torch', 'ray', 'transformers'} & sys.modules.keys()), file=sys.stderr)"
    )
    arguments = [str(part) for option in options.items() for part in option]
    ran = subprocess.run(
        [sys.executable, "-c", code, "simulate", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.strip() == ""
