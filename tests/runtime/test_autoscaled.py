"""Serve adds a replica and takes it away again as the governor wishes, and nothing is lost."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from ray.serve.context import _get_global_client

from controller.policy_file import load_policy
from runtime.cluster import LocalCluster
from runtime.deployment import configure, read_serve_yaml
from simulations.prompts import Prompts
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
    """That Serve has processes of: those that drain count."""
    return len(replica_pids(_get_global_client().get_serve_details()))


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


def complete(url: str, prompt: str, num_tokens: int) -> dict[str, Any]:
    body = {
        "model": CHECKPOINT.name,
        "prompt": prompt,
        "max_tokens": num_tokens,
        "ignore_eos": True,
    }
    headers = {"content-type": "application/json"}
    request = Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def lengths(answers: list[dict[str, Any]]) -> set[int]:
    return {answer["usage"]["completion_tokens"] for answer in answers}


def test_a_replica_comes_with_the_load_and_goes_without_losing_what_it_has_begun(
    cluster: LocalCluster,
) -> None:
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    enough = threading.Event()

    def ask(seed: int) -> list[dict[str, Any]]:
        """One after another: as busy as it gets, however fast this machine and its replicas."""
        rng, answers = np.random.default_rng(seed), []
        while not enough.is_set():
            answers.append(complete(cluster.url, prompts.cut(400, rng), 8))
        return answers

    assert replicas() == 1
    with ThreadPoolExecutor(8) as clients:
        load = [clients.submit(ask, seed) for seed in range(8)]
        try:
            # The load lasts until the second is there: it would be called off again otherwise.
            wait(cluster, wished(2))
            wait(cluster, lambda status: status["load"]["replicas"] == 2)
            assert replicas() == 2
        finally:
            enough.set()
        assert lengths([answer for client in load for answer in client.result()]) == {8}

    # Of eight at once each replica gets some; the one that has to go may be either.
    with ThreadPoolExecutor(8) as clients:
        flights = [clients.submit(complete, cluster.url, "It is", LONG_TOKENS) for _ in range(8)]
        wait(cluster, lambda status: status["load"]["running_requests"] == 8)
        wait(cluster, wished(1))
        assert not any(flight.done() for flight in flights), "nothing was left to drain"
        assert lengths([flight.result() for flight in flights]) == {LONG_TOKENS}
    wait(cluster, lambda status: status["load"]["replicas"] == 1)
    pause = threading.Event()
    for _ in range(100):
        if replicas() == 1:
            break
        pause.wait(0.1)
    assert replicas() == 1
