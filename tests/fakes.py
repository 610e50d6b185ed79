"""Stand-ins that several tests share, with numbers easy to reckon with."""

import json
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from controller.allocator import Allocator
from controller.config import DEFAULT_CLASS, SloPolicy, parse_policy
from controller.levels import Level
from controller.policy import Policy
from controller.profiles import SCHEMA_VERSION, Profile
from controller.signals import Budget, ClassSample, Load, Plan, Sample


def profile_data() -> dict[str, Any]:
    """A step takes 10 ms and, times k', 0.1 ms a token: prefilled or decoded, at any context."""
    layer = {"num_experts": 16, "size": 1.0, "spread": 1.0}
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint_sha256": "0" * 64,
        "engine": "by hand",
        "machine": {"cpu": "abacus", "gpu": None, "cores": 1, "threads": 1, "dtype": "float32"},
        "calibrated": "2026-01-01",
        "full_k": 8,
        "max_batch_tokens": 100,
        "step_time": {
            "base_s": 0.01,
            "token_s": 0.0,
            "expert_s": 0.0,
            "slot_s": 0.0001 / 4,
            "prefill_key_s": 0.0,
            "decode_key_s": 0.0,
            "layers": [layer] * 4,
        },
        "fit": {
            "mape_held_out": 0.0,
            "p95_held_out": 0.0,
            "points": 8,
            "points_held_out": 4,
            "interval": 0.0,
            "distinct_experts_error": 0.0,
        },
        "headroom": {
            "decode": 1.5,
            "prefill": 4.5,
            "by_decode_batch": [{"tokens": 1, "ratio": 1.07}, {"tokens": 8, "ratio": 1.5}],
            "by_prefill_tokens": [{"tokens": 100, "ratio": 4.5}],
        },
        "sensitivity": {
            "ks": [1, 2, 4, 8],
            "losses": {"direct": [[0.3, 0.2, 0.1, 0.0]] * 4},
            "rank_correlation": {},
            "plans": [],
        },
        "rungs": [rung_data(k, quality) for k, quality in [(1, 0.6), (2, 0.8), (4, 0.9), (8, 1.0)]],
        "rescaled": None,
    }


def rung_data(k: int, quality: float) -> dict[str, Any]:
    interval = {"mean": quality, "low": quality - 0.01, "high": quality + 0.01}
    return {
        "plan": [k, k, k, k],
        "mean_k": k,
        "nll": 4.0 - quality,
        "quality": quality,
        "quality_low": quality - 0.01,
        "quality_high": quality + 0.01,
        "accuracy": interval,
        "agreement": interval,
        "contradicted_by": [],
        "over_uniform": None,
    }


def profile() -> Profile:
    """A full chunk of 100 tokens takes 20, 30, 50 and 90 ms at k' 1, 2, 4 and 8."""
    return Profile.model_validate_json(json.dumps(profile_data()))


def phased_profile() -> Profile:
    """That knows what lower prompts cost: answers at full k' keep 0.99 after prompts at k' 1."""
    data = profile_data()
    for rung, kept in zip(data["rungs"], (0.99, 0.995, 1.0, 1.0), strict=True):
        rung["prefill"] = {"mean": kept, "low": kept - 0.01, "high": kept + 0.01}
    return Profile.model_validate_json(json.dumps(data))


def load(**changes: Any) -> Load:  # noqa: ANN401  (any field of a Load)
    """One idle replica, whose requests have had 100 prompt and 100 output tokens."""
    quiet = Load(
        at_s=0.0,
        mean_k=8.0,
        replicas=1,
        waiting_requests=0,
        waiting_tokens=0,
        worst_waiting_tokens=0,
        running_requests=0,
        oldest_wait_s=0.0,
        arrival_rps=0.0,
        arrival_rps_sustained=0.0,
        prompt_tokens=100.0,
        output_tokens=100.0,
    )
    return replace(quiet, **changes)


def sample(**changes: Any) -> Sample:  # noqa: ANN401  (any field of a Sample or a ClassSample)
    """Replica a has nothing to do and nothing to tell; what it tells is of the default class."""
    of_class = {f.name: changes.pop(f.name) for f in fields(ClassSample) if f.name in changes}
    if of_class:
        changes.setdefault("classes", {DEFAULT_CLASS: ClassSample(**of_class)})
    return replace(Sample("a", 1), **changes)


def plan_at(profile: Profile, mean_k: float, epoch: int) -> Plan:
    """The rung nearest to a mean k', as a plan."""
    rung = profile.nearest(mean_k)
    return Plan(epoch, rung.plan, rung.quality)


def allocator(profile: Profile) -> Allocator:
    """Of all rungs, for one class."""
    return Allocator([Level({DEFAULT_CLASS: each}) for each in profile.ladder(1, 100, None)])


def slo_policy(**changes: object) -> SloPolicy:
    """The default policy over the whole profile: TTFT 1 s and TPOT 0.1 s, without margin."""
    data: dict[str, object] = {
        "version": 1,
        "slo": {"ttft_s": 1.0, "tpot_s": 0.1, "margin": 1.0},
        "experts": {"floor": 1, "ceiling": 8},
        "policy": {"name": "predictive"},
    }
    return parse_policy(data | changes)


class ScriptedPolicy:
    """Wants one mean k' after the other and keeps the loads it was shown."""

    def __init__(self, budgets: Iterable[float]) -> None:
        self._budgets = iter(budgets)
        self.loads: list[Load] = []

    def decide(self, load: Load) -> Budget:
        self.loads.append(load)
        return Budget(next(self._budgets), "scripted")


class Running:
    """A policy whose budgets become what runs, as the controller makes them."""

    def __init__(self, policy: Policy, mean_k: float) -> None:
        self._policy = policy
        self._mean_k = mean_k
        self._epoch = 1

    def decide(self, load: Load) -> Budget:
        budget = self._policy.decide(replace(load, mean_k=self._mean_k, epoch=self._epoch))
        self._epoch += budget.mean_k != self._mean_k
        self._mean_k = budget.mean_k
        return budget


class MemoryJournal:
    """Keeps what every tick wrote."""

    def __init__(self) -> None:
        self.rows: list[tuple[Load, Budget, Plan]] = []

    def write(self, load: Load, budget: Budget, plan: Plan) -> None:
        self.rows.append((load, budget, plan))
