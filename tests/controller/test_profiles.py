"""Profiles: what lies between rungs, and which files are refused with which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from controller.profiles import Profile, ProfileError, load_profile
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


def test_a_profile_survives_its_own_dump(tmp_path: Path) -> None:
    assert load_profile(saved(tmp_path, profile().model_dump_json())) == profile()


def test_a_profile_knows_its_layers() -> None:
    assert {len(rung.plan) for rung in profile().rungs} == {4}


@pytest.mark.parametrize(
    ("mean_k", "step_s"),
    [(1, 0.025), (2, 0.04), (3, 0.055), (4, 0.07), (8, 0.13)],
)
def test_step_time_is_linear_between_rungs(mean_k: float, step_s: float) -> None:
    # base 10 ms, and a k'-th of 0.1 ms for each of 100 tokens and 1 ms for each of 5 requests
    assert profile().step_s(mean_k, 100, 5) == approx(step_s)


def test_beyond_the_ends_the_outermost_rung_counts() -> None:
    assert profile().step_s(0.5, 100, 0) == approx(0.02)
    assert profile().step_s(16, 100, 0) == approx(0.09)


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


def test_a_request_costs_its_share_of_full_chunks_and_of_decoding() -> None:
    best = profile().rungs[-1].cost
    assert best.step_s(100, 10) == approx(0.17)
    assert best.request_s(100, 0, 100) == approx(0.09)
    assert best.request_s(250, 0, 100) == approx(0.225)  # 90 ms a chunk, the last one by its share
    assert best.request_s(100, 10, 100) == approx(0.17)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("schema_version", 1, "schema_version: 1; this kprime reads 2"),
        ("schema_version", "2", "schema_version: '2'; this kprime reads 2"),
        ("engine", 3, "engine: Input should be a valid string"),
        ("machine", None, "machine: Input should be an object"),
        ("full_k", 0, "full_k: Input should be greater than 0"),
        ("full_k", 3, "profile: Value error, full_k 3 is not the mean_k of a rung"),
        ("max_batch_tokens", 1.5, "max_batch_tokens: Input should be a valid integer"),
        ("max_batch_tokens", "many", "max_batch_tokens: Input should be a valid integer"),
        ("rungs", [], "rungs: Tuple should have at least 1 item"),
        ("speed", 9, "speed: Extra inputs are not permitted"),
        ("machine.gpu", "none", "machine.gpu: Extra inputs are not permitted"),
        ("machine.cores", 0, "machine.cores: Input should be greater than 0"),
        ("fit.mape_held_out", -0.1, "fit.mape_held_out: Input should be greater than or equal"),
        ("headroom.decode", 0, "headroom.decode: Input should be greater than 0"),
        ("rungs.2.plan", [], "rungs.2.plan: Tuple should have at least 1 item"),
        ("rungs.2.plan.1", 0, "rungs.2.plan.1: Input should be greater than 0"),
        ("rungs.0.nll", None, "rungs.0.nll: Input should be a valid number"),
        ("rungs.0.quality", -1, "rungs.0.quality: Input should be greater than 0"),
        ("full_k", "8", "full_k: Input should be a valid integer"),
        ("rungs.0.quality", True, "rungs.0.quality: Input should be a valid number"),
        ("rungs.1.mean_k", 4, "rungs.1: Value error, mean_k 4 is not the mean of the plan, 2"),
        ("rungs.0", rung_data(2, 0.7), "profile: Value error, rungs must go from the lowest"),
        ("rungs.0.plan", [1], "profile: Value error, the plans of the rungs have different"),
        ("rungs.3.cost.base_s", -1, "rungs.3.cost.base_s: Input should be greater than or equal"),
        ("rungs.3.cost.decode_token_s", 0, "rungs.3.cost.decode_token_s: Input should be greater"),
    ],
)
def test_a_bad_value_is_named_with_file_and_key(
    tmp_path: Path, key: str, value: object, complaint: str
) -> None:
    data: Any = profile_data()
    *outer, last = (int(part) if part.isdigit() else part for part in key.split("."))
    section = data
    for part in outer:
        section = section[part]
    section[last] = value
    (only,) = complaints(saved(tmp_path, data))
    assert only.startswith(complaint)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = profile_data()
    del data["rungs"][1]["cost"]
    assert complaints(saved(tmp_path, data)) == ["rungs.1.cost: Field required"]


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
    assert complaints(saved(tmp_path, content)) == ["schema_version: None; this kprime reads 2"]


@pytest.mark.parametrize("content", ["", "{", "schema_version: 2"])
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
tokens = st.floats(0, 1e4)


@settings(deadline=None)
@given(mean_ks, mean_ks, tokens, tokens)
def test_more_experts_never_give_a_faster_step_or_a_worse_answer(
    one: float, other: float, prefill: float, decode: float
) -> None:
    p, (low, high) = profile(), sorted((one, other))
    assert p.nearest(low).quality <= p.nearest(high).quality
    assert p.step_s(low, prefill, decode) <= p.step_s(high, prefill, decode) * (1 + 1e-12)


@st.composite
def uneven_profiles(draw: st.DrawFn) -> Profile:
    """As measured: noise may make a higher rung cheaper or worse than a lower one."""
    ks = sorted(draw(st.sets(st.integers(1, 16), min_size=2, max_size=6)))
    positive = st.floats(1e-6, 10.0)
    rungs = [rung_data(k, draw(st.floats(0.1, 2.0))) for k in ks]
    for rung in rungs:
        rung["cost"] = {name: draw(positive) for name in rung["cost"]}
    return Profile.model_validate_json(
        json.dumps(profile_data() | {"full_k": ks[-1], "rungs": rungs})
    )


@settings(deadline=None)
@given(uneven_profiles(), st.data(), st.floats(0, 1), st.floats(0, 1))
def test_between_two_rungs_step_times_go_one_way_from_the_one_to_the_other(
    uneven: Profile, data: st.DataObject, one: float, other: float
) -> None:
    index = data.draw(st.integers(0, len(uneven.rungs) - 2))
    left, right = uneven.rungs[index : index + 2]
    shares = [0.0, *sorted((one, other)), 1.0]
    mean_ks = [left.mean_k + share * (right.mean_k - left.mean_k) for share in shares]
    values = [uneven.step_s(mean_k, 100, 5) for mean_k in mean_ks]
    rising = values if values[-1] >= values[0] else values[::-1]
    assert rising == approx(sorted(rising))


def test_infinity_is_no_cost(tmp_path: Path) -> None:
    data = profile_data()
    data["rungs"][0]["cost"]["decode_token_s"] = float("inf")
    (only,) = complaints(saved(tmp_path, data))
    assert only.startswith("rungs.0.cost.decode_token_s: Input should be a finite number")


def test_a_file_nested_too_deeply_is_refused_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ProfileError, match="not JSON"):
        load_profile(path)
