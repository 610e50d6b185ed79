"""One governor over 1 to 1,000 replicas: what their number does to the objectives, and its cost.

Per replica the load is the same whatever their number: three hours of ServeGen's m-large in ten
seconds, 1.2 times what full k' serves in the mean, with bursts that all replicas share, those of
one replica's gamma process of CV 2.5; lengths of Azure's conversations, fitted to 2,048 tokens.

The live controller is timed by the processor time of its thread, journal and unpickled heartbeats
included; what Ray takes for a call is not, nor what a live heartbeat says of device and experts.

    python -m benchmarks.scale [--replicas 1,10,100,1000] [--seeds 8] [--json runs/scale.json]
"""

import argparse
import json
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from controller.journal import FileJournal
from controller.levels import ladder_of
from controller.loop import Controller
from controller.policy_file import load_policy
from controller.profiles import Profile, load_profile
from controller.signals import Plan, Sample
from simulations.arms import STATIC_FULL, simulated_arms
from simulations.arrivals import Phase, gamma, poisson, sent_at
from simulations.bound import bound
from simulations.cluster import Cluster
from simulations.comparison import means
from simulations.events import Events
from simulations.faults import Faults
from simulations.governor import Governor
from simulations.host import Host
from simulations.machine import Machine
from simulations.oracle import regret
from simulations.rate_windows import SHIPPED, read_rate_windows
from simulations.rates import FloatArray, full_rate
from simulations.results import Record, summarise
from simulations.schedule import Requests, fit_lengths, mean_lengths
from simulations.settings import Settings
from simulations.shapes import day
from simulations.simulate import simulate
from simulations.step_cost import StepCost
from simulations.traces import read_trace

CHECKPOINT, POLICY = Path("checkpoints/prose-52m"), Path("policies/interactive.yaml")
LENGTHS, CONTEXT_TOKENS = Path("traces/azure_llm_2023_conv.csv"), 2048
MODEL, FROM_S, HOURS = "m-large", 12 * 3600.0, 3.0
DURATION_S, BURST_S, CV, LOAD = 10.0, 1.0, 2.5, 1.2
CONSTANTS = (STATIC_FULL, "static-4", "static-3")
MOST_CONSTANTS = 100  # replicas: with more, only full k' and the best of the number before
PREDICTIVE, WORTH = "predictive", "effective_quality"
SHOWN = "attainment", "served_quality", "mean_k", WORTH
MOST_SIMULATED = 200  # replicas of all seeds together, unless one seed has more
KEPT_EVERY = 7  # heartbeats, to be pickled


@dataclass(frozen=True, slots=True)
class Costs:
    """Of the governor: processor time, and what comes in."""

    tick_p50_ms: float
    tick_p99_ms: float
    observe_us: float  # a heartbeat
    unpickle_us: float
    heartbeats_per_s: float
    heartbeat_bytes: float  # pickled
    core_share: float  # of ticks and heartbeats
    mean_tokens: float  # that wait on a replica, at a tick
    worst_tokens: float  # on the one with the most


@dataclass(frozen=True, slots=True)
class Row:
    replicas: int
    seeds: int
    requests: int  # of the first seed
    arms: Mapping[str, Mapping[str, Any]]  # figures of `summarise`, means over seeds
    oracle: float  # effective quality
    costs: Costs

    @property
    def best_static(self) -> str:
        return max(self.arms.keys() - {PREDICTIVE}, key=lambda arm: self.arms[arm][WORTH])

    @property
    def over_best_static(self) -> float:
        return float(self.arms[PREDICTIVE][WORTH] - self.arms[self.best_static][WORTH])

    @property
    def regret(self) -> float | None:
        return regret(self.arms[PREDICTIVE][WORTH], self.oracle, self.arms[self.best_static][WORTH])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", default="1,10,100,1000")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("runs/scale.json"))
    options = parser.parse_args()
    console, rows = Console(width=130), list[Row]()
    for number in sorted(map(int, options.replicas.split(","))):
        few = not rows or number <= MOST_CONSTANTS
        constants = CONSTANTS if few else tuple({STATIC_FULL, rows[-1].best_static})
        seeds = min(options.seeds, max(1, MOST_SIMULATED // number))
        rows.append(measure(number, seeds, constants))
    said = conclusion(rows)
    console.print(_table(rows), said)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    derived = "best_static", "over_best_static", "regret"
    data = [asdict(row) | {name: getattr(row, name) for name in derived} for row in rows]
    options.json.write_text(json.dumps({"rows": data, "conclusion": said}, indent=1) + "\n")


def measure(
    replicas: int, seeds: int, constants: Sequence[str], duration_s: float = DURATION_S
) -> Row:
    profile, slo_policy = load_profile(CHECKPOINT / "profile.json"), load_policy(POLICY)
    slo_classes, rungs = slo_policy.slo_classes, ladder_of(slo_policy, profile)
    arms, settings = simulated_arms(slo_policy, profile), Settings(replicas=replicas)
    cost = StepCost(profile.step_time.corrected(settings.actual))
    loads = [requests_of(profile, replicas, seed, duration_s) for seed in range(seeds)]
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in (*constants, PREDICTIVE)}
    bounds, meters = [], []
    for seed, load in enumerate(track(loads, f"{replicas:,} replicas", transient=True)):
        for arm in constants:
            records = simulate(load, arms[arm], profile, settings, seed).records
            found[arm].append(summarise(records, slo_classes))
        faults, host, ours = Faults(settings.faults), Host(settings.contention), arms[PREDICTIVE]
        machine = Machine(Events(), ours, profile, cost, settings, faults, host, seed)
        records, meter = metered(machine, load, duration_s)
        found[PREDICTIVE].append(summarise(records, slo_classes))
        meters.append(meter)
        most = bound(load, slo_classes, profile, rungs, replicas, settings.cache_tokens)
        bounds.append(most.effective_quality)
    return Row(
        replicas,
        seeds,
        len(loads[0]),
        {arm: means(by_seed) for arm, by_seed in found.items()},
        float(np.mean(bounds)),
        costs_of(meters, duration_s),
    )


def requests_of(profile: Profile, replicas: int, seed: int, duration_s: float) -> Requests:
    requests, _ = fit_lengths(read_trace(LENGTHS).requests, CONTEXT_TOKENS)
    one_rps = LOAD * full_rate(profile, *mean_lengths(requests), 1)
    rates_rps = replicas * bursts(one_rps, seed, duration_s)
    phases = [Phase(BURST_S, float(rate_rps)) for rate_rps in rates_rps]
    return sent_at(requests, poisson(phases, seed))


def bursts(rate_rps: float, seed: int, duration_s: float) -> FloatArray:
    """The rates of one replica by second, as a gamma process brings them; their mean is kept.

    Bursts of each replica's own would cancel out: of 1,000 replicas nothing would be left of them.
    """
    windows = read_rate_windows(SHIPPED, MODEL)
    shape = day(windows, rate_rps, FROM_S, duration_s, 3600 * HOURS / duration_s)
    seconds = np.arange(0.0, duration_s + BURST_S / 2, BURST_S)
    counts, _ = np.histogram(gamma(shape, CV, seed), seconds)
    rates_rps: FloatArray = rate_rps * counts / counts.mean()
    return rates_rps


class Meter(Controller):
    """The live controller as it was built; takes the time of what it does until `until_s`."""

    def __init__(self, live: Controller, file: FileJournal, until_s: float) -> None:
        super().__init__(
            live.estimator, live.policy, live.allocator, live.journal, live.plan, live.dry_run
        )
        self._file, self._until_s = file, until_s
        self.tick_s: list[float] = []
        self.observe_s: list[float] = []
        self.kept: list[Sample] = []
        self.tokens: list[tuple[float, float]] = []  # that wait on a replica: the mean, the most

    def observe(self, sample: Sample, now_s: float) -> None:
        began_s = time.thread_time()
        super().observe(sample, now_s)
        took_s = time.thread_time() - began_s
        if now_s <= self._until_s:
            if len(self.observe_s) % KEPT_EVERY == 0:
                self.kept.append(sample)
            self.observe_s.append(took_s)

    def tick(self, now_s: float) -> Plan:
        began_s = time.thread_time()
        plan = super().tick(now_s)
        assert self.load and self.budget
        self._file.write(self.load, self.budget, plan)
        took_s = time.thread_time() - began_s
        if now_s <= self._until_s and self.load.replicas:
            self.tick_s.append(took_s)
            mean = (self.load.waiting_tokens or 0) / self.load.replicas
            self.tokens.append((mean, self.load.worst_waiting_tokens or 0))
        return plan


class MeteredGovernor(Governor):
    def __init__(self, machine: Machine, file: FileJournal, until_s: float) -> None:
        super().__init__(machine, lambda _: None)
        self.meter = Meter(self._controller, file, until_s)
        self._controller = self.meter


def metered(machine: Machine, requests: Requests, until_s: float) -> tuple[list[Record], Meter]:
    """As `simulate` has it."""
    cluster = Cluster(machine, requests)
    with TemporaryDirectory() as folder:
        file = FileJournal(Path(folder) / "journal.jsonl")
        cluster.governor = governor = MeteredGovernor(machine, file, until_s)
        cluster.run()
        file.close()
    return cluster.records, governor.meter


def costs_of(meters: Sequence[Meter], duration_s: float) -> Costs:
    """Of runs of so long each."""
    tick_s = np.concatenate([meter.tick_s for meter in meters])
    observe_s = np.concatenate([meter.observe_s for meter in meters])
    mean_tokens, worst_tokens = np.concatenate([meter.tokens for meter in meters]).mean(axis=0)
    pickles = [pickle.dumps(sample, 5) for meter in meters for sample in meter.kept]
    began_s = time.thread_time()
    for each in pickles:
        pickle.loads(each)
    unpickle_s = (time.thread_time() - began_s) / len(pickles)
    span_s = duration_s * len(meters)
    busy_s = tick_s.sum() + observe_s.sum() + unpickle_s * len(observe_s)
    return Costs(
        tick_p50_ms=float(1e3 * np.quantile(tick_s, 0.5)),
        tick_p99_ms=float(1e3 * np.quantile(tick_s, 0.99)),
        observe_us=float(1e6 * observe_s.mean()),
        unpickle_us=1e6 * unpickle_s,
        heartbeats_per_s=len(observe_s) / span_s,
        heartbeat_bytes=float(np.mean([len(each) for each in pickles])),
        core_share=float(busy_s / span_s),
        mean_tokens=float(mean_tokens),
        worst_tokens=float(worst_tokens),
    )


def limit(shares: Mapping[int, float]) -> float | None:
    """The number of replicas that takes one core: on a line between its neighbours, or beyond the
    last two. None: of one number there is no line, or it does not rise.
    """
    numbers = sorted(shares)
    for low, high in pairwise(numbers):
        rise = (shares[high] - shares[low]) / (high - low)
        if (shares[high] >= 1 or high == numbers[-1]) and rise > 0:
            return low + (1 - shares[low]) / rise
    return None


def conclusion(rows: Sequence[Row]) -> str:
    """Of costs alone: rows differ in their seeds, and so in their loads."""
    last = rows[-1]
    said = f"With {last.replicas:,} replicas the governor takes {last.costs.core_share:.2f} cores"
    most = limit({row.replicas: row.costs.core_share for row in rows})
    if most is None:
        return f"{said}."
    shard = rows[-2]
    number, share = last.replicas / shard.replicas, shard.costs.core_share
    return (
        f"{said}; one core is enough up to about {most:,.0f}. {number:.0f} shards of "
        f"{shard.replicas:,} would take {number * share:.2f} cores, {share:.3f} each."
    )


def _table(rows: Sequence[Row]) -> Table:
    table = Table("", *(f"{row.replicas:,}" for row in rows))
    for arm, name in product((*CONSTANTS, PREDICTIVE), SHOWN):
        figures = [row.arms.get(arm, {}).get(name) for row in rows]
        table.add_row(f"{arm}: {name}", *("-" if of is None else f"{of:.4f}" for of in figures))
    for name in ("seeds", "requests", "best_static", "over_best_static", "oracle", "regret"):
        cells = [getattr(row, name) for row in rows]
        table.add_row(name, *(f"{of:.4f}" if isinstance(of, float) else str(of) for of in cells))
    for name in Costs.__annotations__:
        table.add_row(name, *(f"{getattr(row.costs, name):,.4g}" for row in rows))
    return table


if __name__ == "__main__":
    main()
