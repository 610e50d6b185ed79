"""The vocabulary between stages: Sample -> Load -> Budget -> Plan. Imports nothing of kprime's.

None always means "not known", never zero.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul

PROMPT_SHARES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0)  # quantiles of lengths


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine step has to compute."""

    prefill_tokens: float
    decode_tokens: float
    prefill_keys: float  # that attention reads, summed over the prompts' tokens
    decode_keys: float  # likewise over the decoding requests

    @property
    def tokens(self) -> float:
        return self.prefill_tokens + self.decode_tokens


@dataclass(frozen=True, slots=True)
class Phased:
    """k' of every MoE layer, where prompts run fewer experts than their answers."""

    prefill: tuple[float, ...]
    decode: tuple[float, ...]

    def over(self, work: Work) -> tuple[float, ...]:
        """The mean of a step's tokens."""
        share = work.prefill_tokens / work.tokens if work.tokens else 0.0
        return tuple(
            after + share * (before - after)
            for before, after in zip(self.prefill, self.decode, strict=True)
        )


KByLayer = Sequence[float] | Phased


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step as it ran."""

    work: Work
    duration_s: float
    # By MoE layer: token-expert pairs that ran, and the distinct experts among them, T.
    expert_slots: tuple[int, ...] = ()
    distinct_experts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """Which experts a replica's tokens ran, by MoE layer."""

    distinct: tuple[float, ...]  # in a step, mean since the last sample
    worst_load: tuple[float, ...]  # tokens of the busiest expert over the mean of all, likewise
    never_used: tuple[int, ...]  # experts that no token has run since the replica started


@dataclass(frozen=True, slots=True)
class Device:
    """What the accelerator and the host say of themselves; each field None where unreadable.

    `gpu_busy` is NVML's utilisation: the share of the last period with any kernel running. It
    saturates early, so it may only gate a decision, never size one.
    """

    gpu_busy: float | None = None  # 0..1
    gpu_memory_used: float | None = None  # 0..1
    gpu_power_w: float | None = None
    gpu_sm_clock_mhz: float | None = None
    gpu_clock_reasons: tuple[str, ...] | None = None  # why the clock is not higher, slowdown or not
    gpu_throttled: bool | None = None  # one of them is a slowdown of a GPU that has work
    gpu_own_busy: float | None = None  # 0..1, by this process alone
    gpu_own_memory_bytes: int | None = None
    gpu_sm_busy: float | None = None  # 0..1, share of the SMs, by the GPU's own counters
    gpu_dram_busy: float | None = None  # 0..1, share of the memory bandwidth, likewise
    host_cpu_busy: float | None = None  # 0..1, all cores
    unreadable: Mapping[str, str] = field(default_factory=dict)  # field that is None -> why


@dataclass(frozen=True, slots=True)
class ClassSample:
    """A replica's requests of one SLO class: its queue now, and what came since the last sample."""

    waiting_requests: int = 0  # without a first token
    waiting_tokens: int = 0  # their prompt tokens not yet prefilled
    running_requests: int = 0
    oldest_wait_s: float = 0.0  # age of the oldest request without a first token; 0 with none
    standing_wait_s: float = 0.0  # the least that `oldest_wait_s` has been of late
    # Prompt tokens of each that came and was taken since the last heartbeat, like the following.
    arrived_prompts: tuple[int, ...] = ()
    arrived_output_tokens: int = 0  # the tokens they asked for, at most
    refused_requests: int = 0  # on arrival
    shed_requests: int = 0  # from the queue
    ttfts_s: tuple[float, ...] = ()
    tpots_s: tuple[float, ...] = ()

    @property
    def arrived_requests(self) -> int:
        return len(self.arrived_prompts)

    @property
    def arrived_tokens(self) -> int:
        return sum(self.arrived_prompts)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one replica saw since its last heartbeat, and what stands in its queue now."""

    replica: str
    epoch: int  # of the plan it serves under
    classes: Mapping[str, ClassSample] = field(default_factory=dict)  # SLO classes seen so far
    steps: tuple[Step, ...] = ()
    device: Device = Device()
    expert_use: ExpertUse | None = None  # None: no step since the last heartbeat


@dataclass(frozen=True, slots=True)
class Correction:
    """What meets the steps of late: multipliers of the parts of the profile's step time, and what a
    decoding token takes that the profile knows nothing of, since nobody was sent its answers.
    """

    base: float = 1.0
    experts: float = 1.0
    rest: float = 1.0  # what else grows with tokens and keys
    decode_token_s: float = 0.0  # of every decoding token, besides


@dataclass(frozen=True, slots=True)
class Pace:
    """How long steps take of late, as replicas are told."""

    correction: Correction = Correction()  # of the profile's step time
    error: float = 0.0  # of the corrected one: share of the last minute's steps


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """The part of a Load that is one SLO class's."""

    share: float = 0.0  # tokens a second that come in and are asked for: what shares go by
    waiting_requests: int = 0
    waiting_tokens: int = 0
    worst_waiting_tokens: int = 0  # of the replica with the most
    running_requests: int = 0
    oldest_wait_s: float = 0.0
    standing_wait_s: float = 0.0  # of the replica where the queue stands longest
    shed_rps: float | None = None  # refused on arrival, or later from the queue
    prompt_quantiles: tuple[int, ...] = ()  # tokens, at PROMPT_SHARES; none: nobody has come
    ttft_p95_s: float | None = None
    tpot_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What the estimator believes of all replicas together. None: too few fresh samples to say."""

    at_s: float
    mean_k: float  # of the plan that runs, over layers and, by their shares, over SLO classes
    replicas: int  # with a fresh sample
    stale_replicas: int = 0  # known, but silent for too long to be believed
    waiting_requests: int | None = None
    waiting_tokens: int | None = None
    worst_waiting_tokens: int | None = None  # of the replica with the most
    running_requests: int | None = None
    oldest_wait_s: float | None = None
    arrival_rps: float | None = None  # expected of the next second
    arrival_rps_sustained: float | None = None  # of the next four
    arrival_rps_upper: float | None = None  # likewise, exceeded about one time in ten
    prompt_tokens: float | None = None  # mean of a request
    output_tokens: float | None = None  # mean of a request
    correction: Correction | None = None  # of the profile's step time
    step_time_error: float | None = None  # of the corrected one: share of the last minute's steps
    ttft_p95_s: float | None = None
    tpot_p95_s: float | None = None
    gpu_busy: float | None = None
    gpu_throttled: bool | None = None
    host_cpu_busy: float | None = None
    epoch: int = 0  # of the plan that runs
    classes: Mapping[str, ClassLoad] = field(default_factory=dict)  # those with a fresh sample
    ages_s: Mapping[str, float] = field(default_factory=dict)  # of what the fields rest on

    @property
    def pace(self) -> Pace:
        return Pace(self.correction or Correction(), self.step_time_error or 0.0)

    @property
    def shares(self) -> dict[str, float]:
        """Of the tokens, by SLO class; adds up to 1 where anything is known, else empty."""
        total = sum(each.share for each in self.classes.values())
        return {name: each.share / total for name, each in self.classes.items()} if total else {}


@dataclass(frozen=True, slots=True)
class Budget:
    """How many experts a token deserves, averaged over layers and tokens, and why."""

    mean_k: float  # of answers, where prompts run lower; stays a float, the allocator rounds
    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaWish:
    """How many replicas the load deserves, and why. None: no other number than there is."""

    replicas: int | None
    reason: str


def mixed_k(parts: Iterable[tuple[float, Sequence[float]]]) -> tuple[float, ...]:
    """The mean k' of every MoE layer, of parts that have a share of the tokens and their own k'."""
    shares, ks = zip(*parts, strict=True)
    return tuple(sum(map(mul, shares, layer)) for layer in zip(*ks, strict=True))


@dataclass(frozen=True, slots=True)
class Plan:
    """k' of every MoE layer. Immutable; the epoch orders plans."""

    epoch: int
    k: tuple[int, ...]
    quality: float  # measured retention, full k' = 1.0
    # SLO classes that run at a k' of their own; all others at `k`.
    class_k: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    class_quality: Mapping[str, float] = field(default_factory=dict)  # of the same classes
    # The most distinct experts of a step that only decodes; None: as many as its tokens select.
    expert_cap: tuple[int, ...] | None = None
    # The most of a prompt's tokens, its last one excepted, which makes the first of the answer;
    # None: as its answer's.
    prefill_k: tuple[int, ...] | None = None

    @property
    def mean_k(self) -> float:
        """Over layers, of answers in classes without a k' of their own."""
        return self.mean_k_of(None)

    def k_of(self, slo_class: str | None) -> tuple[int, ...]:
        return self.k if slo_class is None else self.class_k.get(slo_class, self.k)

    def prefill_k_of(self, slo_class: str | None) -> tuple[int, ...]:
        own = self.k_of(slo_class)
        return own if self.prefill_k is None else min(self.prefill_k, own, key=sum)

    def mean_k_of(self, slo_class: str | None) -> float:
        k = self.k_of(slo_class)
        return sum(k) / len(k)

    def quality_of(self, slo_class: str) -> float:
        return self.class_quality.get(slo_class, self.quality)

    def layers_over(self, shares: Mapping[str, float]) -> KByLayer:
        """k' of every MoE layer, over SLO classes by their shares of the tokens."""
        decode = self._over(shares, self.k_of)
        if self.prefill_k is None:
            return decode
        return Phased(self._over(shares, self.prefill_k_of), decode)

    def _over(
        self, shares: Mapping[str, float], k_of: Callable[[str | None], tuple[int, ...]]
    ) -> tuple[float, ...]:
        if not self.class_k or not shares:
            return tuple(map(float, k_of(None)))
        return mixed_k((share, k_of(name)) for name, share in shares.items())

    def mean_k_over(self, shares: Mapping[str, float]) -> float:
        """Over layers and, by their shares of the tokens, over SLO classes."""
        if not self.class_k or not shares:
            return self.mean_k
        return sum(share * self.mean_k_of(name) for name, share in shares.items())
