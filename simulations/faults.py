"""What goes wrong in a simulated cluster, and when. Replicas are numbered from 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class ReplicaLost:
    """It dies with its requests, and is started anew."""

    at_s: float
    replica: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing passes between the governor and a replica, or any of them."""

    from_s: float
    until_s: float
    replica: int | None = None  # None: all

    def holds(self, replica: int, now_s: float) -> bool:
        return self.from_s <= now_s < self.until_s and self.replica in (None, replica)


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Steps take `factor` times as long: a slow replica, or, of all, a wrong profile."""

    factor: float
    from_s: float = 0.0
    until_s: float = inf
    replica: int | None = None  # None: all

    def __post_init__(self) -> None:
        if not 0 < self.factor < inf:
            raise ValueError(f"steps {self.factor:g} times as long: expected a number above 0")

    def holds(self, replica: int, now_s: float) -> bool:
        return self.from_s <= now_s < self.until_s and self.replica in (None, replica)


Fault = ReplicaLost | Silence | Slowdown


class Faults:
    """All of a run, sorted by what they do."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.losses = [each for each in faults if isinstance(each, ReplicaLost)]
        self._silences = [each for each in faults if isinstance(each, Silence)]
        self._slowdowns = [each for each in faults if isinstance(each, Slowdown)]

    def silent(self, replica: int, now_s: float) -> bool:
        return any(each.holds(replica, now_s) for each in self._silences)

    def factor(self, replica: int, now_s: float) -> float:
        """How many times as long a step takes."""
        if not self._slowdowns:
            return 1.0
        product = 1.0
        for each in self._slowdowns:
            if each.holds(replica, now_s):
                product *= each.factor
        return product
