"""A whole run on virtual time: requests in, a record of each out, and what every tick decided.

The same seed gives the same outcome; arms that differ in policy have the draws in common.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.config import DEFAULT_CLASS, SloPolicy
from controller.profiles import Profile
from controller.signals import Plan
from simulations.cluster import Cluster
from simulations.events import Events
from simulations.faults import Faults
from simulations.host import Host
from simulations.machine import Machine
from simulations.results import Record
from simulations.settings import Settings
from simulations.step_cost import StepCost
from simulations.timeline import Tick
from simulations.traces import Request


@dataclass(frozen=True, slots=True)
class Outcome:
    records: list[Record]  # one of every request, in order
    ticks: list[Tick]
    plans: Mapping[int, Plan]  # all that were decided, by epoch
    replicas: list[tuple[float, int]]  # from when on, in seconds, so many took requests
    num_steps: int  # engine steps of all replicas
    end_s: float  # of the last request


def simulate(
    requests: Sequence[Request],
    slo_policy: SloPolicy,
    profile: Profile,
    settings: Settings,
    seed: int,
) -> Outcome:
    """Clients do not retry. A ValueError for requests that no replica could serve."""
    _check(requests, slo_policy, settings)
    machine = Machine(
        events=Events(),
        slo_policy=slo_policy,
        profile=profile,
        cost=StepCost(profile.step_time.corrected(settings.actual)),
        settings=settings,
        faults=Faults(settings.faults),
        host=Host(settings.contention),
        seed=seed,
    )
    cluster = Cluster(machine, requests)
    cluster.run()
    journal = cluster.governor.journal
    return Outcome(
        cluster.records,
        journal.ticks,
        journal.plans,
        cluster.sizes,
        cluster.num_steps,
        machine.events.now_s,
    )


def _check(requests: Sequence[Request], slo_policy: SloPolicy, settings: Settings) -> None:
    last_s = 0.0
    for index, request in enumerate(requests):
        tokens = request.input_tokens + request.output_tokens
        if tokens > settings.cache_tokens:
            raise ValueError(
                f"request {index} has {tokens} tokens: the cache holds {settings.cache_tokens}"
            )
        if min(request.input_tokens, request.output_tokens) < 1:
            raise ValueError(f"request {index} has no tokens to read, or none to write")
        if request.arrival_s < last_s:
            raise ValueError(f"request {index} arrives before the one ahead of it, or before 0 s")
        if (request.slo_class or DEFAULT_CLASS) not in slo_policy.slo_classes:
            known = ", ".join(slo_policy.slo_classes)
            raise ValueError(f"request {index}: {request.slo_class!r} is no class, use: {known}")
        last_s = request.arrival_s
