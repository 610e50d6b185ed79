"""What a refused request costs the server: processor time and round trip.

Serves the shipped model under an SLO policy whose TTFT objective nothing can meet, and sends it
completions one after the other; all are refused on arrival. Processor time is that of the replica
and of Serve's HTTP proxy, less what they use without requests; beside it that of a request which
lists the models, nearly all of it Serve's own.

    python -m benchmarks.refusal [--requests 2000]
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from commands.stage import CHECKPOINT, fixed
from controller.config import SloPolicy
from controller.policy_file import load_policy
from runtime.cluster import LocalCluster
from runtime.deployment import configure, read_serve_yaml

IDLE_S = 10.0
PARTS = {"replica": "ServeReplica", "proxy": "ProxyActor"}  # as their processes are called
PROMPT = (CHECKPOINT / "test.txt").read_text()[:2000]
REFUSED, ANSWERED = 503, 200
Ask = Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    slo_policy = hopeless(load_policy(Path("policies/interactive.yaml")))
    config = configure(read_serve_yaml(Path("serve.yaml")), slo_policy=slo_policy, replicas=1)
    with LocalCluster(config, port=options.port) as cluster:
        figures = asyncio.run(measure(cluster.url, options.requests))
    print(json.dumps(figures, indent=1))  # noqa: T201


def hopeless(slo_policy: SloPolicy) -> SloPolicy:
    slo = slo_policy.slo.model_copy(update={"ttft_s": 1e-6})
    return fixed(slo_policy, 8).model_copy(update={"slo": slo})


async def measure(url: str, requests: int) -> dict[str, dict[str, float]]:
    before = cpu_s()
    await asyncio.sleep(IDLE_S)
    idle = {part: (used - before[part]) / IDLE_S for part, used in cpu_s().items()}
    body = {"model": CHECKPOINT.name, "prompt": PROMPT, "max_tokens": 64}
    async with aiohttp.ClientSession(url) as session:
        refused = partial(session.post, "/v1/completions", json=body)
        listed = partial(session.get, "/v1/models")
        return {
            "refused": await cost(refused, REFUSED, requests, idle),
            "models listed": await cost(listed, ANSWERED, requests, idle),
        }


async def cost(
    ask: Ask, expected: int, requests: int, idle: Mapping[str, float]
) -> dict[str, float]:
    before, began_s, trips_s = cpu_s(), time.perf_counter(), []
    for _ in range(requests):
        sent_s = time.perf_counter()
        async with ask() as answer:
            await answer.read()
        trips_s.append(time.perf_counter() - sent_s)
        assert answer.status == expected, f"status {answer.status}, expected {expected}"
    took_s, used = time.perf_counter() - began_s, cpu_s()
    p50, p99 = 1000 * np.quantile(trips_s, [0.5, 0.99])
    return {
        "round_trip_p50_ms": float(p50),
        "round_trip_p99_ms": float(p99),
        **{
            f"{part}_cpu_ms": 1000 * (used[part] - before[part] - idle[part] * took_s) / requests
            for part in PARTS
        },
    }


def cpu_s() -> dict[str, float]:
    """Seconds of processor time so far, by part of the server."""
    used = dict.fromkeys(PARTS, 0.0)
    for process in psutil.Process().children(recursive=True):
        title = " ".join(process.cmdline()[:1])
        for part, name in PARTS.items():
            if name in title:
                times = process.cpu_times()
                used[part] += times.user + times.system
    return used


if __name__ == "__main__":
    main()
