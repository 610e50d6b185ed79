"""The calibrated profile: what each rung costs (step time) and gives (quality) for one checkpoint.

Takes the JSON that `kprime calibrate` writes; refuses what it does not know. Between rungs the
step time is interpolated in mean k'.
"""

import json
from bisect import bisect_left
from pathlib import Path

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

SCHEMA_VERSION = 2


class ProfileError(ValueError):
    """The file is not a profile this version can use; the message says where and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StepCost(_Strict):
    """step time = base + prefill * prefill tokens + decode * decoding requests, in seconds."""

    base_s: float = Field(ge=0)
    prefill_token_s: PositiveFloat
    decode_token_s: PositiveFloat

    def request_s(self, prompt_tokens: float, output_tokens: float, chunk_tokens: int) -> float:
        """Engine time one request takes when steps are full: its prompt in chunks, its decodes."""
        token_s = self.step_s(chunk_tokens, 0) / chunk_tokens
        return prompt_tokens * token_s + output_tokens * self.decode_token_s

    def step_s(self, prefill_tokens: float, decode_tokens: float) -> float:
        return (
            self.base_s
            + self.prefill_token_s * prefill_tokens
            + self.decode_token_s * decode_tokens
        )


class OverUniform(_Strict):
    """Nats per token over the same number of experts in every layer, with its paired interval."""

    mean: float
    low: float
    high: float


class Rung(_Strict):
    """A plan with its measured quality (retention, full k' = 1.0) and cost."""

    plan: tuple[PositiveInt, ...] = Field(min_length=1)
    mean_k: PositiveFloat
    nll: PositiveFloat  # held-out, nats a token
    quality: PositiveFloat
    quality_low: PositiveFloat
    quality_high: PositiveFloat
    cost: StepCost
    over_uniform: OverUniform | None = None  # of a plan whose layers differ

    @model_validator(mode="after")
    def _mean_is_the_plans(self) -> "Rung":
        mean_k = sum(self.plan) / len(self.plan)
        if abs(mean_k - self.mean_k) > 1e-6:
            raise ValueError(f"mean_k {self.mean_k:g} is not the mean of the plan, {mean_k:g}")
        return self


class Fit(_Strict):
    mape_held_out: float = Field(ge=0)  # a fraction, on points the fit has not seen
    points: PositiveInt
    points_held_out: PositiveInt


class Headroom(_Strict):
    """Cheapest rung's throughput over full k'."""

    decode: PositiveFloat
    prefill: PositiveFloat


class Machine(_Strict):
    cpu: str
    cores: PositiveInt
    threads: PositiveInt
    dtype: str


class Profile(_Strict):
    schema_version: int
    checkpoint_sha256: str
    engine: str
    machine: Machine
    calibrated: str
    full_k: PositiveInt
    max_batch_tokens: PositiveInt  # of a step; bounds how long a plan change has to wait
    fit: Fit
    headroom: Headroom
    rungs: tuple[Rung, ...] = Field(min_length=1)  # from cheapest to best

    @model_validator(mode="after")
    def _is_a_ladder(self) -> "Profile":
        mean_ks = [rung.mean_k for rung in self.rungs]
        if mean_ks != sorted(set(mean_ks)):
            raise ValueError("rungs must go from the lowest mean_k to the highest")
        if self.full_k not in mean_ks:
            raise ValueError(f"full_k {self.full_k} is not the mean_k of a rung")
        if len({len(rung.plan) for rung in self.rungs}) > 1:
            raise ValueError("the plans of the rungs have different numbers of layers")
        return self

    def nearest(self, mean_k: float) -> Rung:
        """The rung of that mean k', or the nearest; of two as near the higher one."""
        return min(self.rungs, key=lambda rung: (abs(rung.mean_k - mean_k), -rung.mean_k))

    def step_s(self, mean_k: float, prefill_tokens: float, decode_tokens: float) -> float:
        """Linear between neighbouring rungs; the outermost rung beyond the ends."""
        mean_ks = [rung.mean_k for rung in self.rungs]
        steps_s = [rung.cost.step_s(prefill_tokens, decode_tokens) for rung in self.rungs]
        right = bisect_left(mean_ks, mean_k)
        if right in (0, len(mean_ks)):
            return steps_s[max(0, right - 1)]
        share = (mean_k - mean_ks[right - 1]) / (mean_ks[right] - mean_ks[right - 1])
        return steps_s[right - 1] + share * (steps_s[right] - steps_s[right - 1])


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
        raise ProfileError(
            f"{path}: schema_version: {version!r}; this kprime reads {SCHEMA_VERSION}"
        )
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}"
            for e in error.errors()
        ]
        raise ProfileError("\n".join(problems)) from error
