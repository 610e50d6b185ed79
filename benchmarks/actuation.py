"""How long a plan change takes to reach every replica, under saturating load, and what it loses.

Serves the shipped model on two local replicas, offers more than full k' can carry, and switches
the SLO policy between full k' and the floor the way `serve deploy` does. Timed by the governor:
from its decision until every replica has said that it serves under the plan.

    python -m benchmarks.actuation [--changes 100] [--rate 12]
"""

import argparse
import asyncio
import json
import threading
import time
from pathlib import Path

import numpy as np

from commands.stage import CHECKPOINT, fixed
from controller.policy_file import load_policy
from runtime.cluster import LocalCluster
from runtime.deployment import configure, read_serve_yaml
from simulations.load import replay
from simulations.prompts import Prompts
from simulations.results import Record
from simulations.traces import Request

PROMPT_TOKENS, OUTPUT_TOKENS = 512, 8  # near the means of the code trace at 2048 tokens of context
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rate", type=float, default=12.0, help="offered requests/s")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    slo_policy = load_policy(Path("policies/interactive.yaml"))
    config = configure(read_serve_yaml(Path("serve.yaml")), slo_policy=fixed(slo_policy, 8))
    with LocalCluster(config, port=options.port) as cluster:
        load = Load(cluster.url, options.rate)
        load.start()
        for change in range(options.changes):
            k = slo_policy.experts.floor if change % 2 == 0 else slo_policy.experts.ceiling
            cluster.deploy(configure(config, slo_policy=fixed(slo_policy, k)))
            while len(cluster.status()["actuations"]) <= change:
                time.sleep(0.05)
        load.stop()
        changes_ms = [entry["ms"] for entry in cluster.status()["actuations"]]
    print(json.dumps(summary(changes_ms, load.records), indent=1))  # noqa: T201


def summary(changes_ms: list[float], records: list[Record]) -> dict[str, float]:
    p50, p99 = np.percentile(changes_ms, [50, 99])
    return {
        "changes": len(changes_ms),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "max_ms": max(changes_ms),
        "requests_answered": len(records),
        "requests_not_completed": sum(not record.completed for record in records),
    }


class Load(threading.Thread):
    """Open loop, second after second, until told to stop; then waits for all answers."""

    def __init__(self, url: str, rate_rps: float) -> None:
        super().__init__()
        text = (CHECKPOINT / "test.txt").read_text()
        self._url = url
        self._prompts = Prompts(text, CHECKPOINT / "tokenizer.json")
        self._second = [
            Request(n / rate_rps, PROMPT_TOKENS, OUTPUT_TOKENS) for n in range(int(rate_rps))
        ]
        self._stopping = threading.Event()
        self.records: list[Record] = []

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        seconds = []
        while not self._stopping.is_set():
            once = replay(self._url, None, self._second, self._prompts, seed=SEED + len(seconds))
            seconds.append(asyncio.ensure_future(once))
            await asyncio.sleep(1.0)
        for second in seconds:
            self.records += await second


if __name__ == "__main__":
    main()
