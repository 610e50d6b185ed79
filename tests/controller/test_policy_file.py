"""Policy files: every problem with its line, and the shipped examples."""

from pathlib import Path

import pytest

from controller.policy_file import load_policy
from controller.problems import PolicyError

POLICIES = Path(__file__).parents[2] / "policies"

VALID = """\
version: 1
slo: {ttft_s: 1.0, tpot_s: 0.1}
experts:
  floor: 1
  ceiling: 8
policy:
  name: predictive
"""


def complaints(tmp_path: Path, content: str | bytes) -> list[str]:
    """What is said of a file with this content, without the file's name."""
    file = tmp_path / "policy.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PolicyError) as caught:
        load_policy(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


@pytest.mark.parametrize("file", sorted(POLICIES.glob("*.yaml")), ids=lambda file: file.name)
def test_a_shipped_policy_is_valid(file: Path) -> None:
    assert load_policy(file).version == 1


def test_the_shipped_policies_are_what_they_say() -> None:
    interactive = load_policy(POLICIES / "interactive.yaml")
    assert interactive.policy.name == "predictive"
    assert (interactive.slo.ttft_s, interactive.slo.tpot_s) == (1.0, 0.2)
    assert (interactive.experts.floor, interactive.experts.ceiling) == (1, 8)
    full = load_policy(str(POLICIES / "fixed-full.yaml"))
    assert (full.policy.name, full.policy.k) == ("fixed", 8)


def test_the_commented_defaults_are_the_defaults() -> None:
    interactive = load_policy(POLICIES / "interactive.yaml")
    full = load_policy(POLICIES / "fixed-full.yaml")
    assert (interactive.guard, interactive.cadence) == (full.guard, full.cadence)
    assert (interactive.slo, interactive.experts) == (full.slo, full.experts)
    assert (interactive.admission, interactive.replicas) == (full.admission, full.replicas)
    assert load_policy(POLICIES / "two-classes.yaml").admission == full.admission


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(VALID, encoding="utf-8-sig")
    assert load_policy(file).experts.ceiling == 8


def test_anchors_and_merges_work_and_keep_their_lines(tmp_path: Path) -> None:
    shared = VALID + "guard: &shared {dwell_s: 1.0}\ncadence:\n  <<: *shared\n"
    assert complaints(tmp_path, shared) == [
        "8: cadence.dwell_s: is not a known key, accepted: tick_s, heartbeat_s, stale_s, lease_s"
    ]


def test_every_problem_has_its_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    content = VALID.replace("floor: 1", "floor: 9").replace("name: p", "nmae: p") + "guards: 3\n"
    assert complaints(tmp_path, content) == [
        "5: experts.ceiling: should be at least floor (9), given 8",
        "6: policy.name: is missing: who chooses k': predictive, ladder, fixed, aimd, "
        "gradient, pid, slackfit or lp",
        "7: policy.nmae: is not a known key, accepted: name, k; did you mean name?",
        "8: guards: is not a known key, accepted: version, slo, experts, policy, classes, "
        "api_keys, admission, guard, replicas, cadence, mode; did you mean guard?",
    ]


def test_a_missing_section_is_a_problem_of_the_first_line(tmp_path: Path) -> None:
    content = VALID.replace("slo: {ttft_s: 1.0, tpot_s: 0.1}\n", "")
    assert complaints(tmp_path, "# mine\n" + content) == ["2: slo: is missing: the objectives"]


def test_a_key_given_twice_is_refused_though_valid_each_time(tmp_path: Path) -> None:
    content = VALID.replace("  ceiling: 8\n", "  ceiling: 8\n  ceiling: 4\n") + "version: 1\n"
    assert complaints(tmp_path, content) == [
        "6: experts.ceiling: is given twice, first on line 5",
        "9: version: is given twice, first on line 1",
    ]


def test_duplicates_are_listed_beside_other_problems(tmp_path: Path) -> None:
    assert complaints(tmp_path, VALID + "policy: {name: fixed, k: 9}\n") == [
        "8: policy: is given twice, first on line 6",
        "8: policy.name: is given twice, first on line 7",
        "8: policy.k: should be within floor..ceiling (1..8), given 9.0",
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "1: is empty"),
        ("# nothing yet\n", "1: is empty"),
        ("- slo\n", "1: should be a mapping with the keys version, slo"),
        ("null\n", "1: should be a mapping with the keys version, slo"),
        ("version: 1\nslo: [1\nx: 2\n", "3: is not valid YAML: while parsing a flow sequence"),
        ("version: 1\nslo: *none\n", "2: is not valid YAML: found undefined alias 'none'"),
        ("version: 1\n---\nversion: 1\n", "2: is not valid YAML: expected a single document"),
        ("slo: !!python/name:os.system\n", "1: is not valid YAML: could not determine a const"),
        ("version: 1\n? [a]\n: 1\n", "2: is not valid YAML: while constructing a mapping"),
        ("version: 1\nslo: \x01\n", "2: is not valid YAML: holds the character '\\x01'"),
        (b"version: 1\nslo: \xff\n", "2: is not UTF-8: byte 0xff"),
        ("slo: 2026-13-45\n", "1: holds a value that cannot be read: month must be in 1..12"),
        ("slo: " + "[" * 5000, "1: is not an SLO policy: nested too deeply"),
    ],
)
def test_what_is_no_policy_at_all_is_refused_with_one_line(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    (only,) = complaints(tmp_path, content)
    assert only.startswith(complaint)


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    only = complaints(tmp_path, VALID + "guard: &loop [*loop]\n")
    keys = "dwell_s, tolerance, step_time_error"
    assert only == [f"8: guard: should be a mapping with the keys {keys}, given a list"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none.yaml:1: cannot be read: No such file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(PolicyError, match=r":1: cannot be read: Is a directory"):
        load_policy(tmp_path)
