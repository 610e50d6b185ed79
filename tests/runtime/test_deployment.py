"""serve.yaml is what Serve accepts, agrees with the shipped policy, and takes overrides."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from controller.config import parse_policy
from controller.policy_file import load_policy
from runtime.deployment import configure, most_replicas, read_serve_yaml

REPOSITORY = Path(__file__).parents[2]
INTERACTIVE = REPOSITORY / "policies" / "interactive.yaml"
FIXED_FULL = REPOSITORY / "policies" / "fixed-full.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return read_serve_yaml(REPOSITORY / "serve.yaml")


def deployment(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][0]["deployments"][0]


def test_the_shipped_policy_is_the_one_served(config: dict[str, Any]) -> None:
    served = parse_policy(deployment(config)["user_config"]["slo_policy"])
    assert served == load_policy(INTERACTIVE)


def test_the_shipped_checkpoint_is_the_one_served(config: dict[str, Any]) -> None:
    assert config["applications"][0]["args"]["checkpoint"] == "checkpoints/prose-52m"


def test_it_listens_on_loopback_alone(config: dict[str, Any]) -> None:
    assert config["http_options"]["host"] == "127.0.0.1"


# Ray's own models still use a spelling that pydantic has deprecated.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("overridden", [False, True])
def test_serve_accepts_it(config: dict[str, Any], tmp_path: Path, overridden: bool) -> None:
    from ray.serve.schema import ServeDeploySchema

    if overridden:
        slo_policy = load_policy(FIXED_FULL)
        config = configure(config, slo_policy=slo_policy, checkpoint=tmp_path, replicas=3)
    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    assert application.import_path == "runtime.app:build"
    (elastic,) = application.deployments
    assert elastic.name == "ElasticMoE"
    assert elastic.num_replicas == (3 if overridden else 2)


def test_no_override_changes_nothing(config: dict[str, Any]) -> None:
    assert configure(config) == config


def test_what_is_given_replaces_what_was_there(config: dict[str, Any], tmp_path: Path) -> None:
    slo_policy = load_policy(FIXED_FULL)
    changed = configure(
        config,
        slo_policy=slo_policy,
        checkpoint=tmp_path / "other",
        replicas=5,
        journal=tmp_path / "journal.jsonl",
    )
    assert deployment(changed)["num_replicas"] == 5
    assert parse_policy(deployment(changed)["user_config"]["slo_policy"]) == slo_policy
    arguments = changed["applications"][0]["args"]
    assert arguments["checkpoint"] == str(tmp_path / "other")
    assert arguments["journal"] == str(tmp_path / "journal.jsonl")


def test_one_override_leaves_the_rest(config: dict[str, Any]) -> None:
    changed = configure(config, replicas=5)
    deployment(changed)["num_replicas"] = 2
    assert changed == config


def test_a_policy_alone_does_not_touch_what_would_reload_the_model(config: dict[str, Any]) -> None:
    """Serve restarts replicas when `args` change; a new policy must be adopted in flight."""
    changed = configure(config, slo_policy=load_policy(FIXED_FULL))
    assert changed["applications"][0]["args"] == config["applications"][0]["args"]
    del deployment(changed)["user_config"], deployment(config)["user_config"]
    assert changed == config


def test_relative_paths_become_absolute(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = configure(config, checkpoint=Path("tiny"))["applications"][0]["args"]
    assert arguments["checkpoint"] == str(tmp_path.resolve() / "tiny")


def test_the_original_stays_as_it_was(config: dict[str, Any], tmp_path: Path) -> None:
    before = deepcopy(config)
    configure(config, slo_policy=load_policy(FIXED_FULL), checkpoint=tmp_path, replicas=7)
    assert config == before


@pytest.fixture
def autoscaling() -> dict[str, Any]:
    return read_serve_yaml(REPOSITORY / "serve-autoscaling.yaml")


def test_with_autoscaling_nothing_but_the_number_of_replicas_differs(
    config: dict[str, Any], autoscaling: dict[str, Any]
) -> None:
    fixed, scaled = deployment(config), deployment(autoscaling)
    assert parse_policy(scaled.pop("user_config")["slo_policy"]) == parse_policy(
        fixed.pop("user_config")["slo_policy"]
    )
    assert fixed.pop("num_replicas") == 2
    assert scaled.pop("num_replicas") == "auto"
    del scaled["autoscaling_config"]
    assert autoscaling == config


# Of a setting whose announced successor Ray 2.60 does not read yet.
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_serve_accepts_the_autoscaling(autoscaling: dict[str, Any]) -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    from runtime.scaling import replicas_wished

    ServeDeploySchema.model_validate(autoscaling)
    accepted = AutoscalingConfig(**deployment(autoscaling)["autoscaling_config"])
    assert accepted.policy.get_policy().__name__ == replicas_wished.__name__
    # The governor waits, and a first number would come back with every new SLO policy.
    assert (accepted.upscale_delay_s, accepted.downscale_delay_s) == (0, 0)
    assert accepted.initial_replicas is None


def test_a_fixed_number_takes_the_place_of_autoscaling(autoscaling: dict[str, Any]) -> None:
    changed = deployment(configure(autoscaling, replicas=3))
    assert changed["num_replicas"] == 3
    assert "autoscaling_config" not in changed


def test_the_most_replicas_are_those_asked_for_or_what_autoscaling_may_reach(
    config: dict[str, Any], autoscaling: dict[str, Any]
) -> None:
    assert most_replicas(configure(config, replicas=5)) == 5
    assert most_replicas(autoscaling) == 2


def test_a_replica_that_goes_has_time_for_its_longest_answer() -> None:
    """A whole context, each token as late as the shipped SLO policy allows."""
    from runtime.app import DRAIN_S

    model = json.loads((REPOSITORY / "checkpoints/prose-52m/config.json").read_text())
    assert load_policy(INTERACTIVE).slo.tpot_s * model["max_position_embeddings"] < DRAIN_S
