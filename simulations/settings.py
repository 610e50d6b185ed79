"""What a simulated cluster is like. Knows neither load nor policy."""

from dataclasses import dataclass, field
from math import inf

from controller.signals import Correction
from simulations.faults import Fault, ReplicaLost


@dataclass(frozen=True, slots=True)
class Noise:
    """Steps that take longer or shorter by chance, lognormally, and not in the mean.

    What a replica shares its cores with takes longer than a step: of full steps, 45 ms long, the
    next one has 0.45 in common and the third 0.2 (docs/log.md), and so all that begin within some
    time, be they long or short.
    """

    sigma: float  # of the logarithm
    lasts_s: float = 0.0  # after which 1 / e of it is left; 0: each step alone

    def __post_init__(self) -> None:
        if not (0 <= self.sigma < inf and 0 <= self.lasts_s < inf):
            raise ValueError(
                f"noise of sigma {self.sigma:g} that lasts {self.lasts_s:g} s: expected 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Way:
    """From the sender to a replica and back, beside what the replica does: of the first token and
    of the last, each with a lognormal delay of its own. Replicas know nothing of it.
    """

    mean_s: float
    sigma: float  # of the logarithm

    def __post_init__(self) -> None:
        if not (0 < self.mean_s < inf and 0 <= self.sigma < inf):
            raise ValueError(
                f"a way of {self.mean_s:g} s and sigma {self.sigma:g}: expected a time above 0, "
                "and 0 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Cache and drain limit are those of runtime/app.py; delays are of replicas on one machine."""

    replicas: int = 2  # at the start
    # Between which the governor's wish is followed; both None: their number stays.
    min_replicas: int | None = None
    max_replicas: int | None = None
    start_up_s: float = 20.0  # from the wish, or a loss, until a replica serves
    drain_limit_s: float = 900.0  # a replica that goes ends what it has begun, for so long
    network_s: float = 0.002  # of a heartbeat, and of an answer that brings no new plan
    actuation_s: float = 0.02  # from a new plan to a replica; then it waits for the running step
    way: Way | None = None  # of requests and answers; None: they take none
    cache_tokens: int = 65_536  # keys and values of so many tokens, by replica
    # How the machine differs from the profile, which the controller goes by all the same.
    actual: Correction = field(default_factory=Correction)
    # By how much steps take longer for every other replica that runs one: they share cores.
    contention: float = 0.0
    noise: Noise | None = None  # None: as far off as the profile's fit
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"{self.replicas} replicas: expected 1 or more")
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise ValueError("min_replicas and max_replicas: expected both or none")
        low, high = self.bounds
        if not 1 <= low <= self.replicas <= high:
            raise ValueError(
                f"{self.replicas} replicas between {low} and {high}: expected 1 or more, in order"
            )
        if not 0 <= self.contention < inf:
            raise ValueError(f"a contention of {self.contention:g}: expected 0 or more")
        delays = self.start_up_s, self.drain_limit_s, self.network_s, self.actuation_s
        if min(delays) < 0:
            raise ValueError(f"a delay of {min(delays):g} s: expected 0 or more")
        for fault in self.faults:
            if isinstance(fault, ReplicaLost) and not 0 <= fault.replica < self.replicas:
                raise ValueError(
                    f"replica {fault.replica} is lost: expected 0 to {self.replicas - 1}"
                )

    @property
    def scales(self) -> bool:
        return self.min_replicas is not None

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas."""
        return self.min_replicas or self.replicas, self.max_replicas or self.replicas
