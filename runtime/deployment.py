"""The content of a serve.yaml with an operator's overrides. Pure: starts nothing."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from controller.config import SloPolicy


def read_serve_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def configure(
    config: dict[str, Any],
    *,
    slo_policy: SloPolicy | None = None,
    checkpoint: Path | None = None,
    profile: Path | None = None,
    replicas: int | None = None,
    journal: Path | None = None,
) -> dict[str, Any]:
    """A copy of `config` with what is given replaced."""
    changed = deepcopy(config)
    application = changed["applications"][0]
    deployment = application["deployments"][0]
    if slo_policy is not None:
        deployment["user_config"] = {"slo_policy": slo_policy.model_dump(mode="json")}
    if replicas is not None:
        deployment["num_replicas"] = replicas
        deployment.pop("autoscaling_config", None)  # Serve takes one of the two
    paths = {"checkpoint": checkpoint, "profile": profile, "journal": journal}
    application["args"] |= {name: str(path.resolve()) for name, path in paths.items() if path}
    return changed


def most_replicas(config: dict[str, Any]) -> int:
    """As many as the deployment can come to run at a time."""
    deployment = config["applications"][0]["deployments"][0]
    autoscaling = deployment.get("autoscaling_config")
    return autoscaling["max_replicas"] if autoscaling else deployment["num_replicas"]
