"""What the governor's loop costs, by the number of replicas: heartbeats taken in, one decision.

Made-up heartbeats of busy replicas (eight steps, one answer each, five times a second) into the
real estimator, policy and allocator. Timed by the wall clock, on one core.

    python -m benchmarks.tick [--replicas 1,10,100,1000] [--ticks 300]
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import policies
from controller.config import DEFAULT_CLASS
from controller.estimator import Estimator
from controller.journal import FileJournal
from controller.levels import safe_plan
from controller.policy_file import load_policy
from controller.profiles import load_profile
from controller.signals import ClassSample, Sample, Step, Work

CHECKPOINT, POLICY = Path("checkpoints/prose-52m"), Path("policies/interactive.yaml")
JOURNAL = Path("runs/tick-journal.jsonl")
STEPS = 8  # in a heartbeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", default="1,10,100,1000")
    parser.add_argument("--ticks", type=int, default=300)
    options = parser.parse_args()
    table = Table("replicas", "tick p50, ms", "p99, ms", "heartbeats of a period, ms", "core, %")
    period_s = load_policy(POLICY).cadence.tick_s
    for number in map(int, options.replicas.split(",")):
        tick_s, observe_s = measure(number, options.ticks, period_s)
        p50, p99 = 1000 * np.quantile(tick_s, [0.5, 0.99])
        busy = (np.mean(tick_s) + np.mean(observe_s)) / period_s
        table.add_row(
            f"{number:,}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            f"{1000 * np.median(observe_s):.2f}",
            f"{100 * busy:.1f}",
        )
    Console().print(table)


def measure(replicas: int, ticks: int, period_s: float) -> tuple[list[float], list[float]]:
    """Seconds of every tick, and of taking in the heartbeats before it."""
    profile, slo_policy = load_profile(CHECKPOINT / "profile.json"), load_policy(POLICY)
    cadence = slo_policy.cadence
    controller = policies.controller_of(
        slo_policy,
        profile,
        Estimator(profile, stale_s=cadence.stale_s, forget_s=cadence.lease_s),
        FileJournal(JOURNAL),
        safe_plan(slo_policy, profile, epoch=1),
    )
    chance, tick_s, observe_s = random.Random(0), [], []
    for number in track(range(ticks), f"{replicas} replicas", transient=True):
        now_s = period_s * number
        heartbeats = [busy(str(replica), chance) for replica in range(replicas)]
        began_s = time.perf_counter()
        for heartbeat in heartbeats:
            controller.observe(heartbeat, now_s)
        observed_s = time.perf_counter()
        controller.tick(now_s)
        tick_s.append(time.perf_counter() - observed_s)
        observe_s.append(observed_s - began_s)
    return tick_s, observe_s


def busy(replica: str, chance: random.Random) -> Sample:
    work = Work(156, 4, 156 * 200, 4 * 300)
    step = Step(work, 0.02 * chance.lognormvariate(0, 0.2), (640,) * 4, (31,) * 4)
    part = ClassSample(
        waiting_requests=3,
        waiting_tokens=300,
        running_requests=4,
        oldest_wait_s=0.1,
        arrived_prompts=(300,),
        arrived_output_tokens=20,
        ttfts_s=(chance.lognormvariate(-1, 0.5),),
        tpots_s=(chance.lognormvariate(-3, 0.3),),
    )
    return Sample(
        replica=replica,
        epoch=1,
        classes={DEFAULT_CLASS: part},
        steps=(step,) * STEPS,
    )


if __name__ == "__main__":
    main()
