"""The calibrated profile: what each rung costs (step time) and gives (quality) for one checkpoint.

Takes the JSON that `kprime calibrate` writes; refuses what it does not know, and what was changed
since.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from controller.signals import KByLayer, Phased
from controller.step_time import StepTime, Strict

SCHEMA_VERSION = 3


class ProfileError(ValueError):
    """The file is not a profile this version can use; the message says where and why."""


class Interval(Strict):
    """A mean with its paired bootstrap interval of 95 %."""

    mean: float
    low: float
    high: float


class Rung(Strict):
    """A plan and its measured quality (retention, full k' = 1.0)."""

    plan: tuple[PositiveInt, ...] = Field(min_length=1)
    mean_k: PositiveFloat
    nll: PositiveFloat  # held-out, nats a token
    quality: PositiveFloat
    quality_low: PositiveFloat
    quality_high: PositiveFloat
    accuracy: Interval  # next tokens foreseen, over that at full k'
    agreement: Interval  # tokens it generates that full k' would have, share
    contradicted_by: tuple[str, ...] = ()  # measures that find a cheaper rung better
    over_uniform: Interval | None = None  # nats a token, of a plan whose layers differ
    # Quality of answers at full k' to prompts that ran at this rung; None: not measured, and no
    # prompt runs fewer experts than its answer.
    prefill: Interval | None = None

    @model_validator(mode="after")
    def _mean_is_the_plans(self) -> "Rung":
        mean_k = sum(self.plan) / len(self.plan)
        if abs(mean_k - self.mean_k) > 1e-6:
            raise ValueError(f"mean_k {self.mean_k:g} is not the mean of the plan, {mean_k:g}")
        return self


@dataclass(frozen=True, slots=True)
class Served:
    """What requests are served at: a rung, and the one of their prompts, which may be lower."""

    rung: Rung
    prompts: Rung

    @property
    def mean_k(self) -> float:
        """Of answers."""
        return self.rung.mean_k

    @property
    def prefill_k(self) -> tuple[int, ...] | None:
        return None if self.prompts is self.rung else self.prompts.plan

    @property
    def quality(self) -> float:
        """What lower prompts cost at full k' they are taken to cost at any (docs/log.md)."""
        if self.prompts is self.rung or self.prompts.prefill is None:
            return self.rung.quality
        return self.rung.quality * self.prompts.prefill.mean

    @property
    def layers(self) -> KByLayer:
        decode = tuple(map(float, self.rung.plan))
        if self.prompts is self.rung:
            return decode
        return Phased(tuple(map(float, self.prompts.plan)), decode)


class Fit(Strict):
    """How far the step-time model can be trusted; shares of the step time."""

    mape_held_out: float = Field(ge=0)  # mean error on points the fit has not seen
    p95_held_out: float = Field(ge=0)
    points: PositiveInt
    points_held_out: PositiveInt
    interval: float = Field(ge=0)  # what the machine's noise leaves open, to either side
    distinct_experts_error: float = Field(ge=0)  # of T where it is planned and not counted


class HeadroomAt(Strict):
    tokens: PositiveInt  # of a prompt's step, or requests that decode together
    ratio: PositiveFloat


class Headroom(Strict):
    """Cheapest rung's throughput over full k', as measured."""

    decode: PositiveFloat  # of `controller.step_time.REFERENCE_BATCH`
    prefill: PositiveFloat  # of a full step
    by_decode_batch: tuple[HeadroomAt, ...]
    by_prefill_tokens: tuple[HeadroomAt, ...]


class MethodPlan(Strict):
    """The plan that one way of measuring sensitivity leads to, at the experts of a uniform k'."""

    method: str
    uniform_k: PositiveInt
    plan: tuple[PositiveInt, ...]
    over_uniform: Interval  # nats a token, held-out


class Sensitivity(Strict):
    """What each layer loses at each k', by three ways of measuring it."""

    ks: tuple[PositiveInt, ...]
    losses: dict[str, tuple[tuple[float, ...], ...]]  # by method; by layer, at every k'
    rank_correlation: dict[str, float]  # Spearman's, of two methods
    plans: tuple[MethodPlan, ...]


class Machine(Strict):
    cpu: str
    gpu: str | None
    cores: PositiveInt
    threads: PositiveInt
    dtype: str

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ""
        return f"{self.cpu}{gpu}, {self.threads} of {self.cores} cores, {self.dtype}"


class Rescaled(Strict):
    """Step times were made anew on another machine by a short probe; all else is as measured."""

    measured_on: Machine
    ratio: PositiveFloat  # of a full step at full k', here over there


class Profile(Strict):
    schema_version: int
    checkpoint_sha256: str
    engine: str
    machine: Machine
    calibrated: str
    full_k: PositiveInt
    max_batch_tokens: PositiveInt  # of a step; bounds how long a plan change has to wait
    step_time: StepTime
    fit: Fit
    headroom: Headroom
    sensitivity: Sensitivity
    rungs: tuple[Rung, ...] = Field(min_length=1)  # from cheapest to best
    rescaled: Rescaled | None = None

    @model_validator(mode="after")
    def _is_a_ladder(self) -> "Profile":
        mean_ks = [rung.mean_k for rung in self.rungs]
        if mean_ks != sorted(set(mean_ks)):
            raise ValueError("rungs must go from the lowest mean_k to the highest")
        if self.full_k not in mean_ks:
            raise ValueError(f"full_k {self.full_k} is not the mean_k of a rung")
        if {len(rung.plan) for rung in self.rungs} != {len(self.step_time.layers)}:
            raise ValueError(
                "the plans of the rungs and step_time have different numbers of layers"
            )
        return self

    @property
    def full(self) -> Rung:
        return next(rung for rung in self.rungs if rung.mean_k == self.full_k)

    def nearest(self, mean_k: float) -> Rung:
        """The rung of that mean k', or the nearest; of two as near the higher one."""
        return min(self.rungs, key=lambda rung: (abs(rung.mean_k - mean_k), -rung.mean_k))

    def served(self, rung: Rung, prefill_ceiling: float | None) -> Served:
        """With prompts at the highest rung up to that, or the lowest; never above their answers."""
        if prefill_ceiling is None or rung.mean_k <= prefill_ceiling:
            return Served(rung, rung)
        lower = [each for each in self.rungs if each.mean_k <= prefill_ceiling]
        return Served(rung, lower[-1] if lower else self.rungs[0])

    def ladder(self, floor: float, ceiling: float, prefill_ceiling: float | None) -> list[Served]:
        """As `within`, with what prompts run at; ValueError also where nothing says what lower
        ones cost.
        """
        if prefill_ceiling is not None and any(rung.prefill is None for rung in self.rungs):
            raise ValueError(
                f"prefill_ceiling {prefill_ceiling:g}: the profile does not say what lower prompts "
                "cost; kprime calibrate measures it, where tokens of a step may differ in k'"
            )
        return [self.served(rung, prefill_ceiling) for rung in self.within(floor, ceiling)]

    def within(self, floor: float, ceiling: float) -> list[Rung]:
        """From the lowest up; raises ValueError if there is none."""
        rungs = [rung for rung in self.rungs if floor <= rung.mean_k <= ceiling]
        if not rungs:
            raise ValueError(f"the profile has no rung between floor {floor} and ceiling {ceiling}")
        return rungs


def write_profile(profile: Profile, path: Path) -> None:
    """With a digest over all of it, which tells that it was changed."""
    data = profile.model_dump(mode="json")
    path.write_text(json.dumps(data | {"digest": _digest(data)}, indent=2) + "\n")


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises ProfileError naming the file and every problem in it."""
    try:
        text = path.read_text()
        data = json.loads(text)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(
            f"{path}: not JSON ({error}); write one with kprime calibrate"
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is True or version != SCHEMA_VERSION:
        newer = type(version) is int and version > SCHEMA_VERSION
        way_out = "update kprime" if newer else "make it anew with kprime calibrate"
        raise ProfileError(
            f"{path}: schema_version: {version!r}; this kprime reads {SCHEMA_VERSION}: {way_out}"
        )
    digest = data.pop("digest", None)
    try:
        profile = Profile.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}"
            for e in error.errors()
        ]
        raise ProfileError("\n".join(problems)) from error
    if digest != _digest(data):
        raise ProfileError(
            f"{path}: digest: does not fit the rest, which was changed since it was measured; "
            "make it anew with kprime calibrate"
        )
    return profile


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
