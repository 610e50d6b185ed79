"""The SLO policy an operator writes: what latency is promised and how far k' may move for it.

Takes plain data (a parsed YAML or JSON document); gives a frozen `SloPolicy`, or one `PolicyError`
listing every problem. Knows no file, no clock and no model: whether a model has that many experts
is checked where the two meet. Reading a file, with line numbers, is `policy_file`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NumExperts = Annotated[int, Field(ge=1)]
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


class Experts(_Section):
    floor: NumExperts = Field(description="lowest k', an integer from 1")
    ceiling: NumExperts = Field(description="highest k', an integer from floor up")
    safe: NumExperts = Field(
        default_factory=lambda valid: valid.get("ceiling", 1),
        description="k' a replica takes when the governor is silent; the ceiling unless given",
    )

    @field_validator("ceiling")
    @classmethod
    def _ceiling_reaches_floor(cls, ceiling: int, info: ValidationInfo) -> int:
        if ceiling < info.data.get("floor", ceiling):
            raise _refusal(f"should be at least floor ({info.data['floor']})")
        return ceiling

    @field_validator("safe")
    @classmethod
    def _safe_is_within_bounds(cls, safe: int, info: ValidationInfo) -> int:
        floor, ceiling = info.data.get("floor", safe), info.data.get("ceiling", safe)
        if not floor <= safe <= ceiling:
            raise _refusal(f"should be within floor..ceiling ({floor}..{ceiling})")
        return safe


class PolicyChoice(_Section):
    name: PolicyName = Field(
        description="who chooses k': predictive, ladder, fixed, aimd, gradient, pid, slackfit or lp"
    )
    k: NumExperts | None = Field(
        default=None, description="the constant k' of fixed, within floor..ceiling"
    )

    @field_validator("k")
    @classmethod
    def _only_fixed_takes_k(cls, k: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("name")
        if name == "fixed" and k is None:
            raise _refusal("should be the k' to hold, an integer within floor..ceiling")
        if name not in ("fixed", None) and k is not None:
            raise _refusal("should be left out: only the policy named fixed takes k")
        return k


class Guard(_Section):
    dwell_s: Seconds = Field(
        default=1.0, description="least time between a change and a following raise of k', seconds"
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
            raise _refusal(f"should be above heartbeat_s ({heartbeat_s:g})")
        return stale_s

    @field_validator("lease_s")
    @classmethod
    def _lease_outlasts_lost_heartbeats(cls, lease_s: float, info: ValidationInfo) -> float:
        # One or two lost heartbeats are everyday: they must not throw a replica back to safe.
        least_s = 3 * info.data.get("heartbeat_s", 0.0)
        if lease_s <= least_s:
            raise _refusal(f"should be above three times heartbeat_s ({least_s:g})")
        return lease_s


class SloPolicy(_Section):
    version: int = Field(description="the format of this file, 1")
    slo: Slo = Field(description="the objectives")
    experts: Experts = Field(description="bounds of k', the experts a token is given")
    policy: PolicyChoice = Field(description="who chooses k' within the bounds")
    guard: Guard = Field(default=Guard(), description="what keeps k' from flapping")
    cadence: Cadence = Field(default=Cadence(), description="how often, and how late")
    mode: Literal["act", "dry-run"] = Field(
        default="act",
        description="act, or dry-run: k' is decided and journalled, and replicas keep the safe one",
    )

    @field_validator("version")
    @classmethod
    def _version_is_known(cls, version: int) -> int:
        if version != 1:
            raise _refusal("should be 1, the only version so far")
        return version

    @field_validator("policy")
    @classmethod
    def _k_is_within_bounds(cls, policy: PolicyChoice, info: ValidationInfo) -> PolicyChoice:
        experts = info.data.get("experts")
        if experts and policy.k and not experts.floor <= policy.k <= experts.ceiling:
            bounds = f"({experts.floor}..{experts.ceiling})"
            raise _refusal(f"should be within floor..ceiling {bounds}", k=policy.k)
        return policy

    @property
    def dry_run_k(self) -> int | None:
        """The k' that is served whatever is decided; None if decisions count."""
        return self.experts.safe if self.mode == "dry-run" else None


@dataclass(frozen=True, slots=True)
class Problem:
    key: str  # dotted; empty for the document as a whole
    message: str
    line: int | None = None  # counted from 1

    def text(self, file: str = "") -> str:
        place = ":".join(str(part) for part in (file, self.line) if part)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class PolicyError(ValueError):
    """Everything wrong with one policy document, one line a problem."""

    def __init__(self, problems: list[Problem], file: str = "") -> None:
        super().__init__(problems, file)  # both: or the error could not be pickled
        self.problems = problems
        self.file = file

    def __str__(self) -> str:
        return "\n".join(problem.text(self.file) for problem in self.problems)


def parse_policy(data: object) -> SloPolicy:
    """Validates a whole document; raises PolicyError naming every problem in it."""
    try:
        return SloPolicy.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # A default that could not be worked out follows from a problem that is listed already.
    raise PolicyError(
        [_problem(each) for each in details if each["type"] != "default_factory_not_called"]
    )


def _refusal(message: str, **inner: object) -> PydanticCustomError:
    """Refuses the value being validated or, if that is a section, one `key=value` within it."""
    return PydanticCustomError("refused", "{message}", {"message": message, "inner": inner})


def _problem(detail: ErrorDetails) -> Problem:
    path = [str(part) for part in detail["loc"]]
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden" | "invalid_key":
            return Problem(".".join(path), _unknown_key(path))
        case "missing":
            description = _section(path[:-1]).model_fields[path[-1]].description
            return Problem(".".join(path), f"is missing: {description}")
        case "model_type":
            message = f"should be a mapping with the keys {', '.join(_section(path).model_fields)}"
        case _:
            message = detail["msg"].replace("Input should", "should")
    for key, inner_value in detail.get("ctx", {}).get("inner", {}).items():
        path, value = [*path, key], inner_value
    return Problem(".".join(path), f"{message}, given {_describe(value)}")


def _unknown_key(path: list[str]) -> str:
    accepted = list(_section(path[:-1]).model_fields)
    closest = get_close_matches(path[-1], accepted, n=1)
    hint = f"; did you mean {closest[0]}?" if closest else ""
    return f"is not a known key, accepted: {', '.join(accepted)}{hint}"


def _section(path: list[str]) -> type[BaseModel]:
    """The model a path leads to; the document is two levels deep."""
    section = SloPolicy.model_fields[path[0]].annotation if path else SloPolicy
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return section


def _describe(value: object) -> str:
    """A value as an operator would recognise it, on one short line."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) > 10**15:  # repr refuses integers of many digits
        return "an integer of more than 15 digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
