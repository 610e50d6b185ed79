"""Profiles: what they hold, and which files are refused with which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.profiles import Profile, ProfileError, load_profile, write_profile
from tests.fakes import profile, profile_data, rung_data


def saved(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "profile.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def complaints(file: Path) -> list[str]:
    """What is said of this file, without its name, which every line has to open with."""
    with pytest.raises(ProfileError) as caught:
        load_profile(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def written(tmp_path: Path) -> Path:
    """The profile as calibration writes it, with its digest."""
    file = tmp_path / "profile.json"
    write_profile(profile(), file)
    return file


def test_a_profile_survives_being_written_and_read(tmp_path: Path) -> None:
    assert load_profile(written(tmp_path)) == profile()


def test_a_profile_is_the_same_file_each_time(tmp_path: Path) -> None:
    first = written(tmp_path).read_bytes()
    write_profile(load_profile(tmp_path / "profile.json"), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == first


def test_reformatting_changes_nothing_that_was_measured(tmp_path: Path) -> None:
    data = json.loads(written(tmp_path).read_text())
    shuffled = json.dumps(dict(reversed(data.items())), indent=None)
    assert load_profile(saved(tmp_path, shuffled)) == profile()


EDITED = (
    "digest: does not fit the rest, which was changed since it was measured; "
    "make it anew with kprime calibrate"
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("calibrated", "2026-01-02"),
        ("step_time.base_s", 0.009),
        ("rungs.0.quality", 0.7),
        ("digest", "0" * 64),
        ("digest", None),
    ],
)
def test_a_profile_edited_by_hand_is_refused(tmp_path: Path, key: str, value: object) -> None:
    data = json.loads(written(tmp_path).read_text())
    assert complaints(saved(tmp_path, changed(data, key, value))) == [EDITED]


def test_a_profile_without_a_digest_is_refused(tmp_path: Path) -> None:
    assert complaints(saved(tmp_path, profile_data())) == [EDITED]


def test_a_profile_of_which_the_end_is_missing_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path).read_text()
    (only,) = complaints(saved(tmp_path, whole[: len(whole) // 2]))
    assert only.startswith("not JSON (")
    assert only.endswith("; write one with kprime calibrate")


def test_a_profile_knows_its_layers() -> None:
    assert {len(rung.plan) for rung in profile().rungs} == {4}


def test_the_full_rung_is_that_of_full_k() -> None:
    assert profile().full.plan == (8, 8, 8, 8)
    beyond = profile_data()
    beyond["rungs"].append(rung_data(12, 1.01))
    assert Profile.model_validate_json(json.dumps(beyond)).full.plan == (8, 8, 8, 8)


def test_a_machine_describes_itself_in_a_line() -> None:
    machine = profile().machine
    assert str(machine) == "abacus, 1 of 1 cores, float32"
    assert str(machine.model_copy(update={"gpu": "fast"})) == "abacus, fast, 1 of 1 cores, float32"


@pytest.mark.parametrize(
    ("mean_k", "nearest"), [(0.5, 1), (1.4, 1), (1.5, 2), (3.0, 4), (5.9, 4), (6.0, 8), (99, 8)]
)
def test_the_nearest_rung_is_the_higher_of_two(mean_k: float, nearest: float) -> None:
    assert profile().nearest(mean_k).mean_k == nearest


def test_a_rung_may_say_what_its_layers_gain_over_uniform_ones() -> None:
    data = profile_data()
    data["rungs"][1] |= {
        "plan": [1, 2, 2, 3],
        "over_uniform": {"mean": -0.02, "low": -0.03, "high": -0.01},
    }
    read = Profile.model_validate_json(json.dumps(data))
    assert read.rungs[1].over_uniform is not None
    assert read.rungs[1].over_uniform.high == -0.01
    assert read.rungs[0].over_uniform is None


def changed(data: Any, key: str, value: object) -> Any:  # noqa: ANN401  (a JSON document)
    """A copy with one dotted key set."""
    data = json.loads(json.dumps(data))  # what is shared within it is shared no more
    *outer, last = (int(part) if part.isdigit() else part for part in key.split("."))
    section = data
    for part in outer:
        section = section[part]
    section[last] = value
    return data


ANEW = "this kprime reads 3: make it anew with kprime calibrate"


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (1, f"schema_version: 1; {ANEW}"),
        (2, f"schema_version: 2; {ANEW}"),
        (4, "schema_version: 4; this kprime reads 3: update kprime"),
        ("3", f"schema_version: '3'; {ANEW}"),
        (True, f"schema_version: True; {ANEW}"),
        (None, f"schema_version: None; {ANEW}"),
    ],
)
def test_another_schema_is_refused_with_the_way_out(
    tmp_path: Path, version: object, complaint: str
) -> None:
    assert complaints(saved(tmp_path, profile_data() | {"schema_version": version})) == [complaint]


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("engine", 3, "engine: Input should be a valid string"),
        ("machine", None, "machine: Input should be an object"),
        ("full_k", 0, "full_k: Input should be greater than 0"),
        ("full_k", 3, "profile: Value error, full_k 3 is not the mean_k of a rung"),
        ("full_k", "8", "full_k: Input should be a valid integer"),
        ("max_batch_tokens", 1.5, "max_batch_tokens: Input should be a valid integer"),
        ("max_batch_tokens", "many", "max_batch_tokens: Input should be a valid integer"),
        ("rungs", [], "rungs: Tuple should have at least 1 item"),
        ("speed", 9, "speed: Extra inputs are not permitted"),
        ("machine.tpu", "none", "machine.tpu: Extra inputs are not permitted"),
        ("machine.gpu", 1, "machine.gpu: Input should be a valid string"),
        ("machine.cores", 0, "machine.cores: Input should be greater than 0"),
        ("step_time", None, "step_time: Input should be an object"),
        ("step_time.base_s", -1, "step_time.base_s: Input should be greater than or equal to 0"),
        ("step_time.slot_s", "fast", "step_time.slot_s: Input should be a valid number"),
        ("step_time.expert_s", True, "step_time.expert_s: Input should be a valid number"),
        ("step_time.key_s", 0, "step_time.key_s: Extra inputs are not permitted"),
        ("step_time.layers", [], "step_time.layers: Tuple should have at least 1 item"),
        ("step_time.layers.1.size", 0, "step_time.layers.1.size: Input should be greater than 0"),
        ("step_time.layers.1.spread", 1.1, "step_time.layers.1.spread: Input should be less than"),
        ("step_time.layers.1.num_experts", 0, "step_time.layers.1.num_experts: Input should be"),
        ("fit.mape_held_out", -0.1, "fit.mape_held_out: Input should be greater than or equal"),
        ("fit.interval", None, "fit.interval: Input should be a valid number"),
        ("headroom.decode", 0, "headroom.decode: Input should be greater than 0"),
        ("headroom.by_decode_batch.1.tokens", 0, "headroom.by_decode_batch.1.tokens: Input should"),
        ("headroom.by_prefill_tokens.0.ratio", 0, "headroom.by_prefill_tokens.0.ratio: Input"),
        ("sensitivity.ks.0", 0, "sensitivity.ks.0: Input should be greater than 0"),
        ("sensitivity.losses.direct.2.1", "x", "sensitivity.losses.direct.2.1: Input should be"),
        ("sensitivity.rank_correlation", None, "sensitivity.rank_correlation: Input should be an"),
        ("sensitivity.plans", None, "sensitivity.plans: Input should be a valid array"),
        ("rungs.2.plan", [], "rungs.2.plan: Tuple should have at least 1 item"),
        ("rungs.2.plan.1", 0, "rungs.2.plan.1: Input should be greater than 0"),
        ("rungs.0.nll", None, "rungs.0.nll: Input should be a valid number"),
        ("rungs.0.quality", -1, "rungs.0.quality: Input should be greater than 0"),
        ("rungs.0.quality", True, "rungs.0.quality: Input should be a valid number"),
        ("rungs.0.accuracy", 0.9, "rungs.0.accuracy: Input should be an object"),
        ("rungs.0.agreement.low", None, "rungs.0.agreement.low: Input should be a valid number"),
        ("rungs.0.contradicted_by", [1], "rungs.0.contradicted_by.0: Input should be a valid str"),
        ("rungs.1.mean_k", 4, "rungs.1: Value error, mean_k 4 is not the mean of the plan, 2"),
        ("rungs.0", rung_data(2, 0.7), "profile: Value error, rungs must go from the lowest"),
        ("rungs.0.plan", [1], "profile: Value error, the plans of the rungs and step_time have"),
        ("rungs.3.cost", {}, "rungs.3.cost: Extra inputs are not permitted"),
        ("rescaled", 2.0, "rescaled: Input should be an object"),
    ],
)
def test_a_bad_value_is_named_with_file_and_key(
    tmp_path: Path, key: str, value: object, complaint: str
) -> None:
    (only,) = complaints(saved(tmp_path, changed(profile_data(), key, value)))
    assert only.startswith(complaint)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    data = profile_data()
    del data["rungs"][1]["nll"]
    del data["step_time"]["base_s"]
    del data["headroom"]["prefill"]
    del data["sensitivity"]["ks"]
    assert complaints(saved(tmp_path, data)) == [
        "step_time.base_s: Field required",
        "headroom.prefill: Field required",
        "sensitivity.ks: Field required",
        "rungs.1.nll: Field required",
    ]


def test_all_problems_are_listed_one_a_line(tmp_path: Path) -> None:
    data = profile_data() | {"engine": None, "speed": 9}
    del data["fit"]
    assert complaints(saved(tmp_path, data)) == [
        "engine: Input should be a valid string",
        "fit: Field required",
        "speed: Extra inputs are not permitted",
    ]


@pytest.mark.parametrize("content", ["null", "[]", "{}", "7", '"schema_version"'])
def test_what_has_no_version_is_refused_for_that(tmp_path: Path, content: str) -> None:
    assert complaints(saved(tmp_path, content)) == [f"schema_version: None; {ANEW}"]


@pytest.mark.parametrize("content", ["", "{", "schema_version: 3"])
def test_what_is_not_json_is_refused_with_a_way_out(tmp_path: Path, content: str) -> None:
    (only,) = complaints(saved(tmp_path, content))
    assert only.startswith("not JSON (")
    assert only.endswith("; write one with kprime calibrate")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_bytes(b"\xff\xfe\x00")
    (only,) = complaints(file)
    assert only.startswith("not JSON (")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert complaints(tmp_path / "none.json") == ["cannot be read: No such file or directory"]
    assert complaints(tmp_path) == ["cannot be read: Is a directory"]


mean_ks = st.floats(0.5, 9.0)


@settings(deadline=None)
@given(mean_ks, mean_ks)
def test_more_experts_never_give_a_worse_answer(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert profile().nearest(low).quality <= profile().nearest(high).quality


def test_infinity_is_no_cost(tmp_path: Path) -> None:
    data = profile_data()
    data["step_time"]["token_s"] = float("inf")
    (only,) = complaints(saved(tmp_path, data))
    assert only.startswith("step_time.token_s: Input should be a finite number")


def test_a_file_nested_too_deeply_is_refused_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ProfileError, match="not JSON"):
        load_profile(path)
