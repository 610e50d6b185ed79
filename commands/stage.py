"""Two local replicas of the shipped model, under one SLO policy and schedule after the other.

What `kprime demo` and the live benchmarks share: they say what to run, and compare. Ends with one
message and an exit status when the replicas do not come up.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commands.exits import FAILED, bad_input, clean_up_on_signals, stop
from commands.here import profile_here
from commands.schedules import CONTEXT_TOKENS
from controller.config import PolicyChoice, SloClass, SloPolicy
from controller.policy_file import load_policy
from controller.profiles import Profile, load_profile
from simulations.load import LoadError, capacity, replay
from simulations.prompts import Prompts
from simulations.results import Record, summarise
from simulations.schedule import Requests, cut, fit_lengths
from simulations.timeline import Tick, read_ticks, step_time_error, switches_per_min
from simulations.traces import read_trace

if TYPE_CHECKING:
    from runtime.cluster import LocalCluster

CHECKPOINT = Path("checkpoints/prose-52m")
REPLICAS = 2
CAPACITY_S, CAPACITY_CONCURRENCY = 15.0, 16
SETTLE_S = 2.0  # a new policy's first ticks
SEED = 1


@dataclass(frozen=True)
class Material:
    """What is served, and what requests are made of."""

    slo_policy: SloPolicy
    profile_file: Path  # for this machine
    profile: Profile
    requests: Requests  # of a trace, fitted to the model's context
    length_factor: float


def prepare(
    console: Console, policy_file: Path, trace: Path, start_s: float, duration_s: float
) -> Material:
    """Ends the command where a file or a part of the trace is not what it should be."""
    with bad_input():
        slo_policy = load_policy(policy_file)
        profile_file = profile_here(console, CHECKPOINT, CHECKPOINT / "profile.json")
        requests, length_factor = fit_lengths(
            cut(read_trace(trace), start_s, duration_s), CONTEXT_TOKENS
        )
        return Material(
            slo_policy, profile_file, load_profile(profile_file), requests, length_factor
        )


@dataclass(frozen=True)
class Run:
    """One arm as it ran."""

    records: list[Record]
    ticks: list[Tick]
    actuation_ms: list[float]

    def figures(self, slo_classes: Mapping[str, SloClass]) -> dict[str, Any]:
        """What the users saw, and what the journal adds."""
        return {
            **summarise(self.records, slo_classes),
            "switches_per_min": switches_per_min(self.ticks),
            "step_time_error": step_time_error(self.ticks),
        }


@dataclass(frozen=True)
class Capacity:
    """Completed requests a second, closed loop."""

    full_rps: float
    floor_rps: float

    @property
    def headroom(self) -> float:
        return self.floor_rps / self.full_rps

    def between(self, share: float) -> float:
        """The rate so far on the way from full k' (0) to the floor (1)."""
        return self.full_rps + share * (self.floor_rps - self.full_rps)

    def __str__(self) -> str:
        return f"{self.full_rps:.1f} requests/s at full k', {self.floor_rps:.1f} at the floor"


class Stage:
    """The running system."""

    def __init__(
        self,
        console: Console,
        cluster: "LocalCluster",
        config: dict[str, Any],
        prompts: Prompts,
        journal: Path,
    ) -> None:
        self._console = console
        self._cluster = cluster
        self._config = config
        self._prompts = prompts
        self._journal = journal

    @property
    def url(self) -> str:
        return self._cluster.url

    def capacity(self, slo_policy: SloPolicy, requests: Requests) -> Capacity:
        """At the policy's ceiling and at its floor, with nobody refused for being late."""
        experts, admission = slo_policy.experts, slo_policy.admission
        patient = slo_policy.model_copy(
            update={"admission": admission.model_copy(update={"late": "serve"})}
        )
        return Capacity(
            *(self._rate(fixed(patient, k), requests) for k in (experts.ceiling, experts.floor))
        )

    def run(
        self,
        name: str,
        slo_policy: SloPolicy,
        requests: Requests,
        *,
        watch_s: float,
        seed: int = SEED,
        timeout_s: float = 600,
    ) -> Run:
        """Replay the schedule once, and watch the controller for a while after the last answer."""
        self._adopt(slo_policy)
        known = len(self._actuations())
        started_s: list[float] = []
        columns = (TextColumn(f"{name:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Drawn rarely: the processor is the server's too.
        with Progress(*columns, console=self._console, refresh_per_second=2) as progress:
            task = progress.add_task(name, total=len(requests))
            records = asyncio.run(
                replay(
                    self._cluster.url,
                    None,
                    requests,
                    self._prompts,
                    seed=seed,
                    timeout_s=timeout_s,
                    on_start=started_s.append,
                    on_event=lambda _: progress.advance(task),
                )
            )
        with self._console.status("watching k' settle"):
            time.sleep(watch_s)
        with self._journal.open() as lines:
            ticks = read_ticks(lines, started_s[0], time.monotonic())
        return Run(records, ticks, self._actuations()[known:])

    def _rate(self, slo_policy: SloPolicy, requests: Requests) -> float:
        """Under a policy that holds k' still."""
        self._adopt(slo_policy)
        with self._console.status(f"measuring capacity at k' = {slo_policy.policy.k:g}"):
            return asyncio.run(
                capacity(
                    self._cluster.url,
                    None,
                    requests,
                    self._prompts,
                    concurrency=CAPACITY_CONCURRENCY,
                    duration_s=CAPACITY_S,
                    seed=SEED,
                )
            )

    def _adopt(self, slo_policy: SloPolicy) -> None:
        """The hot path of `serve deploy`: a new policy in `user_config`, nothing restarted."""
        from runtime.deployment import configure

        self._cluster.deploy(configure(self._config, slo_policy=slo_policy))
        wanted = slo_policy.model_dump(mode="json")
        while self._cluster.status()["slo_policy"] != wanted:
            time.sleep(0.1)
        time.sleep(SETTLE_S)

    def _actuations(self) -> list[float]:
        return [entry["ms"] for entry in self._cluster.status()["actuations"]]


@contextmanager
def staged(console: Console, material: Material, journal: Path, port: int) -> Iterator[Stage]:
    """The stage, and nothing left of it afterwards. A journal of that name is written anew.

    Ends the command if the port is taken, the replicas do not come up, nothing can be measured, or
    on Ctrl-C.
    """
    from runtime.cluster import DeployError, LocalCluster
    from runtime.deployment import configure, read_serve_yaml

    journal.unlink(missing_ok=True)
    with bad_input():
        config = configure(
            read_serve_yaml(Path("serve.yaml")),
            slo_policy=material.slo_policy,
            profile=material.profile_file,
            replicas=REPLICAS,
            journal=journal,
        )
        # All arms are sent the same prompts: none may find what another has left in the cache.
        config["applications"][0]["args"]["share_prefixes"] = False
        cluster = LocalCluster(config, port=port)
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    try:
        with console.status("starting Ray and two replicas of the model"):
            cluster.start()
        clean_up_on_signals()
        yield Stage(console, cluster, config, prompts, journal)
    except (DeployError, LoadError) as error:
        stop(str(error), FAILED)
    except KeyboardInterrupt:
        stop("interrupted", FAILED)
    finally:
        with console.status("stopping Ray"):
            cluster.stop()


def fixed(slo_policy: SloPolicy, k: int) -> SloPolicy:
    """The same with a k' that never moves."""
    return under(slo_policy, PolicyChoice(name="fixed", k=k))


def under(slo_policy: SloPolicy, policy: PolicyChoice) -> SloPolicy:
    """The same with another policy."""
    return slo_policy.model_copy(update={"policy": policy})
