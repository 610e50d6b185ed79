"""One replica, a load that full k' needs two for: k' bridges the time until the second is there.

Serves the shipped model by `serve-autoscaling.yaml`, from one replica. The load needs more than one
at full k' and less than one at the floor; after it comes a quiet time, in which one is enough. Says
when k' dropped, a replica was asked for and was there, k' was full again, and what was lost.

    python -m benchmarks.scale_out [--rate 12] [--loaded 75] [--quiet 45] [--out runs/scale-out]
"""

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from controller.config import SloPolicy
from controller.policy_file import load_policy
from runtime.cluster import LocalCluster
from runtime.deployment import configure, read_serve_yaml
from simulations.load import replay
from simulations.prompts import Prompts
from simulations.results import Record
from simulations.timeline import Tick, read_ticks, recovery_s
from simulations.traces import Request

CHECKPOINT = Path("checkpoints/prose-52m")
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 8  # near the means of the code trace at 2048 tokens of context
QUIET_SHARE = 1 / 8  # of the rate
WINDOW_S = 2.0
LOOK_S = 0.25
SEED = 1
OURS, THEIRS = "#2a6f97", "#b5483a"


@dataclass(frozen=True, slots=True)
class Look:
    """What the status said, dated from the start of the schedule."""

    at_s: float
    replicas: int  # with a fresh sample
    wanted: int | None
    mean_k: float
    ttft_p95_s: float | None
    reason: str  # of the number wanted


class Watch(threading.Thread):
    """Looks at the status until told to stop."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__()
        self._cluster = cluster
        self._stopping = threading.Event()
        self._said: list[tuple[float, dict[str, Any]]] = []  # by the monotonic clock

    def run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self._said.append((time.monotonic(), self._cluster.status()))

    def looks(self, start_s: float) -> list[Look]:
        """All of them; ends the watch."""
        self._stopping.set()
        self.join()
        return [_look(at_s - start_s, said) for at_s, said in self._said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=12.0, help="offered requests/s under load")
    parser.add_argument("--loaded", type=float, default=75.0, help="seconds under load")
    parser.add_argument("--quiet", type=float, default=45.0, help="seconds at an eighth of it")
    parser.add_argument("--up-at", type=float, default=0.25, help="replicas.up_at")
    parser.add_argument("--up-after", type=float, default=15.0, help="replicas.up_after_s")
    parser.add_argument("--down-after", type=float, default=15.0, help="replicas.down_after_s")
    parser.add_argument("--out", type=Path, default=Path("runs/scale-out"))
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    journal = options.out / "journal.jsonl"
    journal.unlink(missing_ok=True)
    slo_policy = load_policy(Path("policies/interactive.yaml"))
    settings = {
        "up_at": options.up_at,
        "up_after_s": options.up_after,
        "down_after_s": options.down_after,
    }
    replicas = slo_policy.replicas.model_copy(update=settings)
    slo_policy = slo_policy.model_copy(update={"replicas": replicas})
    requests = offered(options.rate, options.loaded, options.quiet)
    config = configure(
        read_serve_yaml(Path("serve-autoscaling.yaml")), slo_policy=slo_policy, journal=journal
    )
    starts_s: list[float] = []
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    with LocalCluster(config, port=options.port) as cluster:
        watch = Watch(cluster)
        watch.start()
        records = asyncio.run(
            replay(cluster.url, None, requests, prompts, seed=SEED, on_start=starts_s.append)
        )
        looks = watch.looks(starts_s[0])
    end_s = starts_s[0] + options.loaded + options.quiet
    ticks = read_ticks(journal.read_text().splitlines(), starts_s[0], end_s)
    full_k = float(slo_policy.experts.ceiling)
    found = moments(looks, ticks, full_k)
    loaded = [record for record in records if record.scheduled_s < options.loaded]
    found |= outcome(records, slo_policy) | served_k(loaded, found["replica_ready_s"])
    windows = attainment(records, slo_policy, options.loaded + options.quiet)
    report = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "found": found,
        "attainment": windows,
        "looks": [asdict(look) for look in looks],
        "requests": [[r.scheduled_s, r.ttft_s, r.tpot_s, r.status, r.mean_k] for r in records],
    }
    (options.out / "scale-out.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(options.out / "scale-out.png", looks, ticks, windows, slo_policy)
    table = Table("", "")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), "never" if value is None else f"{value:g}")
    Console().print(table)


def offered(rate_rps: float, loaded_s: float, quiet_s: float) -> list[Request]:
    """Poisson arrivals, at `rate_rps` and then at an eighth of it."""
    rng = np.random.default_rng(SEED)
    loaded = rng.uniform(0.0, loaded_s, rng.poisson(rate_rps * loaded_s))
    quiet = rng.uniform(loaded_s, loaded_s + quiet_s, rng.poisson(QUIET_SHARE * rate_rps * quiet_s))
    at_s = np.sort(np.concatenate([loaded, quiet]))
    return [Request(float(each), PROMPT_TOKENS, OUTPUT_TOKENS) for each in at_s]


def moments(looks: Sequence[Look], ticks: list[Tick], full_k: float) -> dict[str, float | None]:
    """Seconds from the start of the schedule; None for what did not come about."""
    dropped_s = next((tick.at_s for tick in ticks if tick.mean_k < full_k), None)
    asked_s = _first(looks, lambda look: (look.wanted or 1) > 1)
    ready_s = _first(looks, lambda look: look.replicas > 1)
    back_s = None if ready_s is None else recovery_s(ticks, ready_s, full_k)
    later = [look for look in looks if ready_s is not None and look.at_s > ready_s]
    return {
        "k_dropped_s": dropped_s,
        "replica_asked_for_s": asked_s,
        "replica_ready_s": ready_s,
        "k_back_at_full_s": None if ready_s is None or back_s is None else ready_s + back_s,
        "fewer_asked_for_s": _first(later, lambda look: look.wanted == 1),
        "fewer_there_s": _first(later, lambda look: look.replicas == 1),
        "lowest_k": min((tick.mean_k for tick in ticks), default=None),
    }


def outcome(records: Sequence[Record], slo_policy: SloPolicy) -> dict[str, float | None]:
    return {
        "requests": len(records),
        "requests_failed": sum(record.status == "failed" for record in records),
        "requests_refused": sum(record.status == "shed" for record in records),
        "attainment": _attainment(records, slo_policy),
    }


def served_k(records: Sequence[Record], ready_s: float | None) -> dict[str, float | None]:
    """The mean k' of what was answered before the second replica was there, and after."""
    until = [r.mean_k for r in records if r.mean_k and r.scheduled_s < (ready_s or np.inf)]
    since = [r.mean_k for r in records if r.mean_k and r.scheduled_s >= (ready_s or np.inf)]
    return {
        "mean_k_with_one": float(np.mean(until)) if until else None,
        "mean_k_with_two": float(np.mean(since)) if since else None,
    }


def attainment(
    records: Sequence[Record], slo_policy: SloPolicy, end_s: float
) -> list[tuple[float, float | None]]:
    """By window of 2 s, from when: the share of its requests that met the objectives."""
    windows: list[tuple[float, float | None]] = []
    for start_s in np.arange(0.0, end_s, WINDOW_S):
        own = [r for r in records if start_s <= r.scheduled_s < start_s + WINDOW_S]
        windows.append((float(start_s), _attainment(own, slo_policy)))
    return windows


def _attainment(records: Sequence[Record], slo_policy: SloPolicy) -> float | None:
    met = [r for r in records if r.met(slo_policy.slo_classes[r.judged_as])]
    return len(met) / len(records) if records else None


def draw(
    path: Path,
    looks: Sequence[Look],
    ticks: Sequence[Tick],
    windows: Sequence[tuple[float, float | None]],
    slo_policy: SloPolicy,
) -> None:
    """Replicas, k', attainment and TTFT over one time axis."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    replicas, experts, met, ttft = figure.subplots(4, 1, sharex=True)
    looked_s = [look.at_s for look in looks]
    replicas.step(looked_s, [look.replicas for look in looks], where="post", color=OURS, label="up")
    wanted = [np.nan if look.wanted is None else look.wanted for look in looks]
    replicas.step(looked_s, wanted, where="post", color=THEIRS, linestyle="--", label="wanted")
    replicas.set(ylabel="replicas", ylim=(0, 3))
    experts.step([t.at_s for t in ticks], [t.mean_k for t in ticks], where="post", color=OURS)
    experts.set(ylabel="k'", ylim=(0, slo_policy.experts.ceiling + 1))
    known = [(at_s, share) for at_s, share in windows if share is not None]
    met.step(*zip(*known, strict=True), where="post", color=OURS)
    met.set(ylabel="attainment by 2 s", ylim=(0, 1.05))
    seen = [(look.at_s, look.ttft_p95_s) for look in looks if look.ttft_p95_s is not None]
    ttft.plot(*zip(*seen, strict=True), color=OURS, label="p95 of 10 s")
    ttft.axhline(slo_policy.slo.ttft_s, color="black", linestyle="--", label="objective")
    ttft.set(ylabel="TTFT, s", xlabel="s from the start of the load", xlim=(0, windows[-1][0]))
    for axes in (replicas, experts, met, ttft):
        _finish(axes)
    figure.savefig(path, dpi=110)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")


def _look(at_s: float, said: dict[str, Any]) -> Look:
    load, wish, k = said["load"] or {}, said["replica_wish"] or {}, said["plan"]["k"]
    return Look(
        at_s=at_s,
        replicas=load.get("replicas", 0),
        wanted=wish.get("replicas"),
        mean_k=sum(k) / len(k),
        ttft_p95_s=load.get("ttft_p95_s"),
        reason=wish.get("reason", ""),
    )


def _first(looks: Sequence[Look], holds: Callable[[Look], bool]) -> float | None:
    """When it was first seen, from the start of the schedule on."""
    return next((look.at_s for look in looks if look.at_s >= 0 and holds(look)), None)


if __name__ == "__main__":
    main()
