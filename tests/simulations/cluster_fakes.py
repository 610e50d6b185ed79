"""Short ways to say what a simulation is of."""

import json
from collections.abc import Sequence

import numpy as np

from controller.config import SloPolicy
from controller.profiles import Profile
from simulations.settings import Settings
from simulations.simulate import Outcome, simulate
from simulations.traces import Request
from tests.fakes import profile, profile_data, slo_policy

PATIENT = {"late": "serve", "max_waiting": 1_000_000}  # nobody is refused


def profile_with(noise: float = 0.0, **changes: object) -> Profile:
    """That of `tests.fakes`, with so large a mean error of its step times."""
    data = profile_data() | {key: each for key, each in changes.items() if key != "step_time"}
    data["fit"] |= {"mape_held_out": noise}
    data["step_time"] |= changes.get("step_time", {})
    return Profile.model_validate_json(json.dumps(data))


def every(
    gap_s: float,
    count: int,
    prompt: int = 100,
    output: int = 1,
    *,
    slo_class: str | None = None,
    from_s: float = 0.0,
) -> list[Request]:
    """Requests alike, at a steady pace."""
    return [Request(from_s + gap_s * n, prompt, output, slo_class) for n in range(count)]


def poisson(rate_rps: float, count: int, prompt: int = 100, output: int = 1) -> list[Request]:
    gaps_s = np.random.default_rng(0).exponential(1 / rate_rps, count)
    return [Request(float(at_s), prompt, output) for at_s in np.cumsum(gaps_s)]


def fixed(k: int = 8, **changes: object) -> SloPolicy:
    """Constant k' and nothing refused."""
    return slo_policy(**({"policy": {"name": "fixed", "k": k}, "admission": PATIENT} | changes))


def unheard() -> SloPolicy:
    """Nothing is ever decided: ticks and heartbeats take none of a test's time."""
    cadence = {"tick_s": 1e5, "heartbeat_s": 1e5, "stale_s": 2e5, "lease_s": 4e5}
    return fixed(cadence=cadence)


def run(
    requests: Sequence[Request],
    policy: SloPolicy | None = None,
    of: Profile | None = None,
    *,
    seed: int = 0,
    **settings: object,
) -> Outcome:
    """On one replica, unless said otherwise."""
    chosen = Settings(**({"replicas": 1} | settings))  # type: ignore[arg-type]  (any field)
    return simulate(requests, policy or fixed(), of or profile(), chosen, seed)


def statuses(outcome: Outcome) -> list[str]:
    return [record.status for record in outcome.records]
