"""One load under several arms, several seeds each: what is compared, and what came of it.

The same seed gives every arm the same schedule and the same draws. Knows no policy by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.config import SloPolicy
from controller.profiles import Profile
from simulations.schedule import Requests
from simulations.settings import Settings
from simulations.simulate import Outcome


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str  # of the trace or load
    load: float | None  # mean offered work over the capacity at full k', if it was set
    schedules: Mapping[int, Requests]  # by seed
    slo_policy: SloPolicy
    profile: Profile
    settings: Settings


@dataclass(frozen=True, slots=True)
class ArmRun:
    seed: int
    figures: Mapping[str, Any]  # of `simulations.results.summarise`, and what the ticks add
    outcome: Outcome | None  # kept of the first seed; the oracle has none


@dataclass(frozen=True, slots=True)
class Study:
    scenario: Scenario
    runs: Mapping[str, Sequence[ArmRun]]  # by arm, in the order asked for; a run for every seed
    best_static: str  # the arm that `best-static` is, in hindsight
