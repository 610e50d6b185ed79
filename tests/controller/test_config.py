"""What an SLO policy accepts, defaults to and refuses."""

import copy
import math
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.config import Cadence, Guard, Replicas, SloPolicy, parse_policy
from controller.problems import PolicyError, Problem

MINIMAL: dict[str, Any] = {
    "version": 1,
    "slo": {"ttft_s": 1.0, "tpot_s": 0.1},
    "experts": {"floor": 1, "ceiling": 8},
    "policy": {"name": "predictive"},
}


def changed(key: str, value: object) -> dict[str, Any]:
    """MINIMAL with one dotted key set."""
    data = copy.deepcopy(MINIMAL)
    *sections, last = key.split(".")
    section = data
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = value
    return data


def problems(data: object) -> dict[str, str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(data)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_a_minimal_policy_gets_the_defaults() -> None:
    policy = parse_policy(MINIMAL)
    assert (policy.slo.ttft_s, policy.slo.tpot_s, policy.slo.margin) == (1.0, 0.1, 0.8)
    assert (policy.experts.floor, policy.experts.ceiling) == (1, 8)
    assert policy.policy.k is None
    assert policy.guard == Guard(dwell_s=0.4, tolerance=0.25, step_time_error=0.25)
    assert policy.replicas == Replicas(
        utilisation=0.8, up_at=0.5, up_after_s=15.0, down_after_s=300.0
    )
    assert policy.cadence == Cadence(tick_s=0.2, heartbeat_s=0.2, stale_s=1.0, lease_s=5.0)


def test_safe_is_the_ceiling_unless_given() -> None:
    assert parse_policy(changed("experts.ceiling", 4)).experts.safe == 4
    assert parse_policy(changed("experts.safe", 2)).experts.safe == 2


def test_an_integer_is_taken_for_a_duration() -> None:
    assert parse_policy(changed("slo.ttft_s", 2)).slo.ttft_s == 2.0


def test_a_fixed_policy_holds_its_k() -> None:
    policy = parse_policy(changed("policy", {"name": "fixed", "k": 4}))
    assert (policy.policy.name, policy.policy.k) == ("fixed", 4)


def test_the_k_of_a_fixed_policy_may_be_a_mean_of_layers() -> None:
    assert parse_policy(changed("policy", {"name": "fixed", "k": 6.75})).policy.k == 6.75
    below = problems(changed("policy", {"name": "fixed", "k": 0.5}))
    assert below == {"policy.k": "should be greater than or equal to 1, given 0.5"}


@pytest.mark.parametrize("name", ["ladder", "aimd", "gradient", "pid", "slackfit", "lp"])
def test_only_the_fixed_policy_takes_a_k(name: str) -> None:
    assert parse_policy(changed("policy.name", name)).policy.name == name
    outside = problems(changed("policy", {"name": name, "k": 4}))
    left_out = "should be left out: only the policy named fixed takes k, given 4"
    assert outside == {"policy.k": left_out}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "should be 1, the only version so far, given 2"),
        ("version", True, "should be a valid integer, given True"),
        ("slo.ttft_s", "1.0", "should be a valid number, given '1.0'"),
        ("slo.ttft_s", True, "should be a valid number, given True"),
        ("slo.ttft_s", math.nan, "should be a finite number, given nan"),
        ("slo.tpot_s", math.inf, "should be a finite number, given inf"),
        ("slo.tpot_s", 0, "should be greater than 0, given 0"),
        ("slo.margin", 1.1, "should be less than or equal to 1, given 1.1"),
        ("slo.margin", 0, "should be greater than 0, given 0"),
        ("slo.margin", math.nan, "should be a finite number, given nan"),
        ("slo.miss_weight", 0.5, "should be greater than or equal to 1, given 0.5"),
        ("experts.floor", 0, "should be greater than or equal to 1, given 0"),
        ("experts.floor", 1.0, "should be a valid integer, given 1.0"),
        ("experts.ceiling", 0, "should be greater than or equal to 1, given 0"),
        ("experts.safe", 9, "should be within floor..ceiling (1..8), given 9"),
        (
            "policy.name",
            "fast",
            "should be 'predictive', 'ladder', 'fixed', 'aimd', 'gradient', 'pid', 'slackfit' "
            "or 'lp', given 'fast'",
        ),
        ("policy.k", 8, "should be left out: only the policy named fixed takes k, given 8"),
        ("guard.dwell_s", -1.0, "should be greater than 0, given -1.0"),
        ("guard.tolerance", math.inf, "should be a finite number, given inf"),
        ("guard.step_time_error", 0, "should be greater than 0, given 0"),
        ("guard.step_time_error", -0.25, "should be greater than 0, given -0.25"),
        ("guard.step_time_error", math.nan, "should be a finite number, given nan"),
        ("guard.step_time_error", "25 %", "should be a valid number, given '25 %'"),
        ("replicas.utilisation", 0, "should be greater than 0, given 0"),
        ("replicas.utilisation", 1.1, "should be less than or equal to 1, given 1.1"),
        ("replicas.up_at", -0.1, "should be greater than or equal to 0, given -0.1"),
        ("replicas.up_at", math.nan, "should be a finite number, given nan"),
        ("replicas.up_after_s", 0, "should be greater than 0, given 0"),
        ("replicas.down_after_s", 14, "should be at least up_after_s (15), given 14"),
        ("cadence.tick_s", [1], "should be a valid number, given a list"),
        ("cadence.heartbeat_s", {}, "should be a valid number, given a mapping"),
        ("cadence.stale_s", 0.2, "should be above heartbeat_s (0.2), given 0.2"),
        ("cadence.lease_s", 0.6, "should be above three times heartbeat_s (0.6), given 0.6"),
        (
            "guard",
            None,
            "should be a mapping with the keys dwell_s, tolerance, step_time_error, given nothing",
        ),
    ],
)
def test_each_refusal_says_what_was_given_and_what_is_accepted(
    key: str, value: object, message: str
) -> None:
    assert problems(changed(key, value)) == {key: message}


def test_a_ceiling_below_the_floor_is_refused() -> None:
    data = changed("experts", {"floor": 4, "ceiling": 2, "safe": 4})
    assert problems(data) == {"experts.ceiling": "should be at least floor (4), given 2"}


def test_prompts_may_run_below_the_floor_and_not_above_the_ceiling() -> None:
    low = changed("experts", {"floor": 2, "ceiling": 8, "prefill_ceiling": 1})
    assert parse_policy(low).experts.prefill_ceiling == 1
    above = problems(changed("experts.prefill_ceiling", 9))
    assert above == {"experts.prefill_ceiling": "should be at most ceiling (8), given 9"}
    assert "experts.prefill_ceiling" in problems(changed("experts.prefill_ceiling", 0))


def test_a_fixed_policy_needs_a_k_within_bounds() -> None:
    accepted = "should be the k' to hold, within floor..ceiling, given nothing"
    assert problems(changed("policy.name", "fixed")) == {"policy.k": accepted}
    outside = problems(changed("policy", {"name": "fixed", "k": 9}))
    assert outside == {"policy.k": "should be within floor..ceiling (1..8), given 9.0"}


def test_a_heartbeat_is_compared_with_the_default_lease_and_staleness() -> None:
    assert problems(changed("cadence.heartbeat_s", 2.0)) == {
        "cadence.stale_s": "should be above heartbeat_s (2), given 1.0",
        "cadence.lease_s": "should be above three times heartbeat_s (6), given 5.0",
    }


def test_an_unknown_key_is_named_with_the_closest_one() -> None:
    assert problems(changed("experts.celing", 8)) == {
        "experts.celing": "is not a known key, accepted: floor, ceiling, safe, "
        "prefill_ceiling; did you mean ceiling?"
    }
    assert problems(changed("zzz", 8)) == {
        "zzz": "is not a known key, accepted: version, slo, experts, policy, classes, api_keys, "
        "admission, guard, replicas, cadence, mode"
    }


def test_a_key_that_is_no_text_is_unknown() -> None:
    data = MINIMAL | {"guard": {7: 1}}
    assert problems(data) == {
        "guard.7": "is not a known key, accepted: dwell_s, tolerance, step_time_error"
    }


def test_a_missing_key_is_named_with_its_meaning() -> None:
    data = changed("experts", {"floor": 1})
    assert problems(data) == {"experts.ceiling": "is missing: highest k', an integer from floor up"}


@pytest.mark.parametrize("data", [None, [], "slo", 3])
def test_a_document_that_is_no_mapping_is_refused_as_a_whole(data: object) -> None:
    (message,) = problems(data).values()
    assert message.startswith("should be a mapping with the keys version, slo, experts")


def test_all_problems_are_listed_one_a_line() -> None:
    data = changed("slo.ttft_s", -1) | {"policy": {"name": "fixed", "k": 9}}
    with pytest.raises(PolicyError) as caught:
        parse_policy(data)
    assert str(caught.value).splitlines() == [
        "slo.ttft_s: should be greater than 0, given -1",
        "policy.k: should be within floor..ceiling (1..8), given 9.0",
    ]


def test_long_values_are_cut_and_huge_integers_described() -> None:
    assert len(problems(changed("slo.ttft_s", "x" * 999))["slo.ttft_s"]) < 120
    huge = problems(changed("slo.ttft_s", 10**5000))["slo.ttft_s"]
    assert huge == "should be a valid number, given an integer of more than 15 digits"


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_policy(MINIMAL).slo.ttft_s = 2.0  # type: ignore[misc]


def test_every_field_has_a_description() -> None:
    schema = SloPolicy.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model["properties"].items():
            assert field.get("description"), name


def test_a_policy_survives_its_own_dump() -> None:
    policy = parse_policy(changed("experts.safe", 3))
    assert parse_policy(policy.model_dump(mode="json")) == policy


def test_an_error_survives_the_way_between_processes() -> None:
    error = PolicyError([Problem("slo.ttft_s", "is missing", 3)], "policy.yaml")
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == "policy.yaml:3: slo.ttft_s: is missing"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.sampled_from([*MINIMAL, "guard", "cadence", "slo.ttft_s", "policy.k", "x"]), anything)
def test_any_plain_data_gives_a_policy_or_a_list_of_problems(key: str, value: object) -> None:
    try:
        policy = parse_policy(changed(key, value))
    except PolicyError as error:
        assert error.problems and str(error)
    else:
        assert policy.experts.floor <= policy.experts.safe <= policy.experts.ceiling


def test_k_is_served_as_decided_unless_it_is_a_dry_run() -> None:
    assert parse_policy(MINIMAL).dry_run is False
    experts = {"floor": 1, "ceiling": 8, "safe": 4}
    dry = parse_policy(MINIMAL | {"experts": experts, "mode": "dry-run"})
    assert (dry.mode, dry.dry_run) == ("dry-run", True)
    wrong = {"mode": "should be 'act' or 'dry-run', given 'dry'"}
    assert problems(MINIMAL | {"mode": "dry"}) == wrong


GOLD = {"ttft_s": 0.5, "tpot_s": 0.05, "priority": 2, "floor": 4}


def test_classes_stand_beside_that_of_requests_that_name_none() -> None:
    policy = parse_policy(MINIMAL | {"classes": {"gold": GOLD}})
    assert list(policy.slo_classes) == ["default", "gold"]
    default, gold = policy.slo_classes.values()
    assert (default.ttft_s, default.tpot_s, default.priority, default.floor) == (1.0, 0.1, 0, None)
    assert (gold.ttft_s, gold.priority, gold.floor, gold.late) == (0.5, 2, 4, None)


def test_a_policy_with_classes_survives_the_way_through_json() -> None:
    policy = parse_policy(MINIMAL | {"classes": {"gold": GOLD}, "api_keys": {"0" * 64: "gold"}})
    assert parse_policy(policy.model_dump(mode="json")) == policy


OUT_OF_BOUNDS = "should be within floor..ceiling (1..8), given 9"
AT_LEAST_ONE = "should be greater than or equal to 1, given 0"
CLASS_KEYS = "ttft_s, tpot_s, priority, floor, max_waiting, late"


@pytest.mark.parametrize(
    ("section", "value", "key", "message"),
    [
        ("classes", {"gold": GOLD | {"floor": 9}}, "classes.gold.floor", OUT_OF_BOUNDS),
        (
            "classes",
            {"gold": GOLD | {"priorty": 1}},
            "classes.gold.priorty",
            f"is not a known key, accepted: {CLASS_KEYS}; did you mean priority?",
        ),
        (
            "classes",
            {"gold": {"ttft_s": 1.0}},
            "classes.gold.tpot_s",
            "is missing: mean gap between a request's later tokens, seconds",
        ),
        (
            "classes",
            {"gold": None},
            "classes.gold",
            f"should be a mapping with the keys {CLASS_KEYS}, given nothing",
        ),
        (
            "classes",
            {"go ld": GOLD},
            "classes.go ld",
            "should be named by letters, digits, _ and -, at most 64",
        ),
        (
            "classes",
            {"default": {"ttft_s": 1.0, "tpot_s": 1.0}},
            "classes.default",
            "should be left out: those are the requests that name no class, of slo, "
            "given a mapping",
        ),
        ("classes", 3, "classes", "should be a mapping, given 3"),
        (
            "api_keys",
            {"secret": "gold"},
            "api_keys.secret",
            "should be named by the SHA-256 of an API key, 64 hex digits in lower case",
        ),
        (
            "api_keys",
            {"0" * 64: "gold"},
            f"api_keys.{'0' * 64}",
            "should be a class: default, given 'gold'",
        ),
        ("admission", {"max_waiting": 0}, "admission.max_waiting", AT_LEAST_ONE),
        (
            "admission",
            {"late": "drop"},
            "admission.late",
            "should be 'refuse' or 'serve', given 'drop'",
        ),
        (
            "admission",
            {"standing_s": 0},
            "admission.standing_s",
            "should be greater than 0, given 0",
        ),
    ],
)
def test_classes_keys_and_admission_are_refused_by_name(
    section: str, value: object, key: str, message: str
) -> None:
    assert problems(MINIMAL | {section: value}) == {key: message}
