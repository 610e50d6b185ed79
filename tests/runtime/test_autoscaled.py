"""Serve adds a replica and takes it away again as the governor wishes, and nothing is lost."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from controller.policy_file import load_policy
from runtime.cluster import LocalCluster
from runtime.deployment import configure, read_serve_yaml
from simulations.load import replay
from simulations.prompts import Prompts
from simulations.results import Record
from simulations.traces import Request as Scheduled
from tests.runtime.processes import free_port, ray_processes, replica_pids

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Its announced successor is not read by Ray 2.60 yet.
    pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning"),
]

CHECKPOINT = Path("checkpoints/prose-52m")
LONG_TOKENS = 1500


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    before = ray_processes()
    policy = load_policy(Path("policies/interactive.yaml"))
    soon = {"up_at": 0.0, "up_after_s": 2.0, "down_after_s": 4.0}
    changed = {
        "replicas": policy.replicas.model_copy(update=soon),
        # A shared machine may take any time, and every request counts here.
        "admission": policy.admission.model_copy(update={"late": "serve", "max_waiting": 10_000}),
    }
    config = configure(
        read_serve_yaml(Path("serve-autoscaling.yaml")),
        slo_policy=policy.model_copy(update=changed),
        journal=tmp_path / "journal.jsonl",
    )
    with LocalCluster(config, port=free_port()) as cluster:
        yield cluster
    assert ray_processes() <= before, "Ray left processes behind"


def replicas() -> int:
    """That run as processes: those that drain count, unlike those of other tests beside this."""
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    return len(replica_pids() & own)


def wait(cluster: LocalCluster, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    pause = threading.Event()
    for _ in range(400):
        status = cluster.status()
        if condition(status):
            return status
        pause.wait(0.1)
    raise AssertionError(f"did not come about: {status}")


def wished(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: status["replica_wish"]["replicas"] == number


def complete(url: str, answers: list[dict[str, Any]]) -> None:
    body = {
        "model": CHECKPOINT.name,
        "prompt": "It is",
        "max_tokens": LONG_TOKENS,
        "ignore_eos": True,
    }
    headers = {"content-type": "application/json"}
    request = Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=120) as answer:
        answers.append(json.load(answer))


def test_a_replica_comes_with_the_load_and_goes_without_losing_what_it_has_begun(
    cluster: LocalCluster,
) -> None:
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    requests = [Scheduled(n / 20, 400, 8) for n in range(160)]  # of eight seconds
    records: list[Record] = []
    load = threading.Thread(
        target=lambda: records.extend(
            asyncio.run(replay(cluster.url, None, requests, prompts, seed=1))
        )
    )
    assert replicas() == 1
    load.start()
    wait(cluster, wished(2))
    wait(cluster, lambda status: status["load"]["replicas"] == 2)
    assert replicas() == 2

    # Of eight at once each replica gets some; the one that has to go may be either.
    load.join()
    answers: list[dict[str, Any]] = []
    flights = [threading.Thread(target=complete, args=(cluster.url, answers)) for _ in range(8)]
    for flight in flights:
        flight.start()
    wait(cluster, lambda status: status["load"]["running_requests"] == 8)
    wait(cluster, wished(1))
    assert not answers, "nothing was left to drain"
    for flight in flights:
        flight.join()
    wait(cluster, lambda status: status["load"]["replicas"] == 1)
    pause = threading.Event()
    for _ in range(100):
        if replicas() == 1:
            break
        pause.wait(0.1)
    assert replicas() == 1

    assert [answer["usage"]["completion_tokens"] for answer in answers] == [LONG_TOKENS] * 8
    assert [record.error for record in records if not record.completed] == []
