"""The SLO policy an operator writes: what latency is promised and how far k' may move for it.

Takes plain data (a parsed YAML or JSON document); gives a frozen `SloPolicy`, or one `PolicyError`
listing every problem. Knows no file, no clock and no model: whether a model has that many experts
is checked where the two meet. Reading a file, with line numbers, is `policy_file`'s.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from controller.problems import PolicyError, problems_of, refusal

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NumExperts = Annotated[int, Field(ge=1)]
MeanK = Annotated[float, Field(ge=1, allow_inf_nan=False)]
NumWaiting = Annotated[int, Field(ge=1)]
Late = Literal["refuse", "serve"]
ClassName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="letters, digits, _ and -, at most 64",
    ),
]
KeyDigest = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$",
        description="the SHA-256 of an API key, 64 hex digits in lower case",
    ),
]
DEFAULT_CLASS = "default"  # of requests that name none
PolicyName = Literal["predictive", "ladder", "fixed", "aimd", "gradient", "pid", "slackfit", "lp"]


class _Section(BaseModel):
    """Strict: a string or a boolean is never taken for a number; an integer may be a float."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Slo(_Section):
    ttft_s: Seconds = Field(description="from a request's arrival to its first token, seconds")
    tpot_s: Seconds = Field(description="mean gap between a request's later tokens, seconds")
    margin: float = Field(
        default=0.8,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="plan for this share of the objective, above 0, at most 1",
    )
    miss_weight: float = Field(
        default=1.0,
        ge=1,
        allow_inf_nan=False,
        description="of a miss, in answers at full k', from 1; more gives up experts sooner",
    )


class Experts(_Section):
    floor: NumExperts = Field(description="lowest k', an integer from 1")
    ceiling: NumExperts = Field(description="highest k', an integer from floor up")
    safe: NumExperts = Field(
        default_factory=lambda valid: valid.get("ceiling", 1),
        description="k' a replica takes when the governor is silent; the ceiling unless given",
    )
    prefill_ceiling: NumExperts | None = Field(
        default=None,
        description="highest k' of prompts, an integer from 1 up to ceiling, below floor too; "
        "that of their answers unless given",
    )

    @field_validator("ceiling")
    @classmethod
    def _ceiling_reaches_floor(cls, ceiling: int, info: ValidationInfo) -> int:
        if ceiling < info.data.get("floor", ceiling):
            raise refusal(f"should be at least floor ({info.data['floor']})")
        return ceiling

    @field_validator("prefill_ceiling")
    @classmethod
    def _prompts_keep_the_ceiling(
        cls, prefill_ceiling: int | None, info: ValidationInfo
    ) -> int | None:
        ceiling = info.data.get("ceiling")
        if ceiling and prefill_ceiling and prefill_ceiling > ceiling:
            raise refusal(f"should be at most ceiling ({ceiling})")
        return prefill_ceiling

    @field_validator("safe")
    @classmethod
    def _safe_is_within_bounds(cls, safe: int, info: ValidationInfo) -> int:
        floor, ceiling = info.data.get("floor", safe), info.data.get("ceiling", safe)
        if not floor <= safe <= ceiling:
            raise refusal(f"should be within floor..ceiling ({floor}..{ceiling})")
        return safe


class PolicyChoice(_Section):
    name: PolicyName = Field(
        description="who chooses k': predictive, ladder, fixed, aimd, gradient, pid, slackfit or lp"
    )
    k: MeanK | None = Field(
        default=None,
        description="the constant k' of fixed, in the mean of layers, within floor..ceiling",
    )

    @field_validator("k")
    @classmethod
    def _only_fixed_takes_k(cls, k: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("name")
        if name == "fixed" and k is None:
            raise refusal("should be the k' to hold, within floor..ceiling")
        if name not in ("fixed", None) and k is not None:
            raise refusal("should be left out: only the policy named fixed takes k")
        return k


class SloClass(_Section):
    """Requests that share objectives. What is left out is as for requests that name no class."""

    ttft_s: Seconds = Field(description="from a request's arrival to its first token, seconds")
    tpot_s: Seconds = Field(description="mean gap between a request's later tokens, seconds")
    priority: int = Field(
        default=0,
        description="an integer; a higher one goes first, and gives up experts and requests last",
    )
    floor: NumExperts | None = Field(
        default=None, description="lowest k' of this class, within floor..ceiling of experts"
    )
    max_waiting: NumWaiting | None = Field(
        default=None, description="as admission.max_waiting, of this class"
    )
    late: Late | None = Field(default=None, description="as admission.late, of this class")


class Admission(_Section):
    max_waiting: NumWaiting = Field(
        default=256,
        description="the most requests of a class that wait for their first token on a replica",
    )
    late: Late = Field(
        default="refuse",
        description="refuse the longest prompts of what cannot all be in time, or serve late",
    )
    standing_s: Seconds = Field(
        default=1.0,
        description="a queue that has stood for so long is shed from, seconds",
    )


class Guard(_Section):
    dwell_s: Seconds = Field(
        default=0.4, description="least time between a change and a following raise of k', seconds"
    )
    tolerance: float = Field(
        default=0.25,
        ge=0,
        allow_inf_nan=False,
        description="smaller raises of mean k' are not made",
    )
    step_time_error: float = Field(
        default=0.25,
        gt=0,
        allow_inf_nan=False,
        description="above this error of predicted step times, a share, the ladder takes over "
        "from predictive; above 0",
    )


class Replicas(_Section):
    """When to ask for another number of replicas; what bounds it is Serve's to know."""

    utilisation: float = Field(
        default=0.8,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="plan for this share of an engine's time, above 0, at most 1",
    )
    up_at: float = Field(
        default=0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="more are asked for once the sustained load takes k' so far from full (0) "
        "to the floor (1)",
    )
    up_after_s: Seconds = Field(
        default=15.0,
        description="and has done so for this long, less its breaks, seconds; k' bridges it",
    )
    down_after_s: Seconds = Field(
        default=300.0,
        description="fewer are asked for once full k' would have held with them for this long, "
        "less its breaks, seconds; at least up_after_s",
    )

    @field_validator("down_after_s")
    @classmethod
    def _going_takes_no_less_than_coming(cls, down_after_s: float, info: ValidationInfo) -> float:
        up_after_s = info.data.get("up_after_s", 0.0)
        if down_after_s < up_after_s:
            raise refusal(f"should be at least up_after_s ({up_after_s:g})")
        return down_after_s


class Cadence(_Section):
    tick_s: Seconds = Field(default=0.2, description="the controller decides this often, seconds")
    heartbeat_s: Seconds = Field(
        default=0.2, description="a replica reports at least this often, seconds"
    )
    stale_s: Seconds = Field(
        default=1.0,
        description="a sample older than this is not believed, seconds; above heartbeat_s",
    )
    lease_s: Seconds = Field(
        default=5.0,
        description="silence after which a replica takes the safe k', seconds; "
        "above three times heartbeat_s",
    )

    @field_validator("stale_s")
    @classmethod
    def _stale_outlasts_a_heartbeat(cls, stale_s: float, info: ValidationInfo) -> float:
        heartbeat_s = info.data.get("heartbeat_s", 0.0)
        if stale_s <= heartbeat_s:
            raise refusal(f"should be above heartbeat_s ({heartbeat_s:g})")
        return stale_s

    @field_validator("lease_s")
    @classmethod
    def _lease_outlasts_lost_heartbeats(cls, lease_s: float, info: ValidationInfo) -> float:
        # One or two lost heartbeats are everyday: they must not throw a replica back to safe.
        least_s = 3 * info.data.get("heartbeat_s", 0.0)
        if lease_s <= least_s:
            raise refusal(f"should be above three times heartbeat_s ({least_s:g})")
        return lease_s


class SloPolicy(_Section):
    version: int = Field(description="the format of this file, 1")
    slo: Slo = Field(description="the objectives")
    experts: Experts = Field(description="bounds of k', the experts a token is given")
    policy: PolicyChoice = Field(description="who chooses k' within the bounds")
    classes: Mapping[ClassName, SloClass] = Field(
        default={}, description="SLO classes, by name, beside that of requests that name none"
    )
    api_keys: Mapping[KeyDigest, str] = Field(
        default={}, description="the class of requests with an API key, by the key's SHA-256 in hex"
    )
    admission: Admission = Field(default=Admission(), description="which requests are refused")
    guard: Guard = Field(default=Guard(), description="what keeps k' from flapping")
    replicas: Replicas = Field(
        default=Replicas(), description="when another number of replicas is asked for"
    )
    cadence: Cadence = Field(default=Cadence(), description="how often, and how late")
    mode: Literal["act", "dry-run"] = Field(
        default="act",
        description="act, or dry-run: k' is decided and journalled, and replicas keep the safe one",
    )

    @field_validator("version")
    @classmethod
    def _version_is_known(cls, version: int) -> int:
        if version != 1:
            raise refusal("should be 1, the only version so far")
        return version

    @field_validator("policy")
    @classmethod
    def _k_is_within_bounds(cls, policy: PolicyChoice, info: ValidationInfo) -> PolicyChoice:
        experts = info.data.get("experts")
        if experts and policy.k and not experts.floor <= policy.k <= experts.ceiling:
            bounds = f"({experts.floor}..{experts.ceiling})"
            raise refusal(f"should be within floor..ceiling {bounds}", k=policy.k)
        return policy

    @field_validator("classes")
    @classmethod
    def _classes_keep_the_bounds(
        cls, classes: Mapping[str, SloClass], info: ValidationInfo
    ) -> Mapping[str, SloClass]:
        if DEFAULT_CLASS in classes:
            raise refusal(
                "should be left out: those are the requests that name no class, of slo",
                **{DEFAULT_CLASS: classes[DEFAULT_CLASS].model_dump()},
            )
        experts = info.data.get("experts")
        for name, each in classes.items():
            if experts and each.floor and not experts.floor <= each.floor <= experts.ceiling:
                bounds = f"({experts.floor}..{experts.ceiling})"
                raise refusal(
                    f"should be within floor..ceiling {bounds}", **{f"{name}.floor": each.floor}
                )
        return classes

    @field_validator("api_keys")
    @classmethod
    def _keys_lead_to_classes(
        cls, api_keys: Mapping[str, str], info: ValidationInfo
    ) -> Mapping[str, str]:
        known = [DEFAULT_CLASS, *info.data.get("classes", {})]
        for digest, name in api_keys.items():
            if name not in known:
                raise refusal(f"should be a class: {', '.join(known)}", **{digest: name})
        return api_keys

    @property
    def slo_classes(self) -> Mapping[str, SloClass]:
        """All of them, that of requests that name none included."""
        default = SloClass(ttft_s=self.slo.ttft_s, tpot_s=self.slo.tpot_s)
        return {DEFAULT_CLASS: default, **self.classes}

    @property
    def dry_run(self) -> bool:
        return self.mode == "dry-run"


def parse_policy(data: object) -> SloPolicy:
    """Validates a whole document; raises PolicyError naming every problem in it."""
    try:
        return SloPolicy.model_validate(data)
    except ValidationError as error:
        raise PolicyError(problems_of(error, SloPolicy)) from None
