"""The application on a real local Ray with the shipped model: HTTP in, tokens out."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import ray
import torch
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus
from typer.testing import CliRunner

from commands.main import app
from controller.config import PolicyChoice, SloPolicy, parse_policy
from controller.policy_file import load_policy
from controller.profiles import load_profile
from runtime.checkpoint import load_checkpoint
from runtime.cluster import APP, LocalCluster
from runtime.deployment import configure, read_serve_yaml
from simulations.load import replay
from simulations.prompts import Prompts
from simulations.traces import Request as Scheduled
from tests.runtime.processes import free_port, ray_processes, replica_pids

pytestmark = pytest.mark.ray

CHECKPOINT = Path("checkpoints/prose-52m")
PROFILE = load_profile(CHECKPOINT / "profile.json")
POLICY = load_policy(Path("policies/interactive.yaml"))
PROMPT = "It is a truth universally acknowledged, that a single man in possession of"
SHORT = {"model": CHECKPOINT.name, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
GOLD = {"ttft_s": 1.0, "tpot_s": 0.2, "priority": 1, "floor": 8}


def fixed(k: int) -> SloPolicy:
    return POLICY.model_copy(update={"policy": PolicyChoice(name="fixed", k=k)})


def patient(k: int) -> SloPolicy:
    """Refuses nothing: a shared machine may be slow, and a refusal would be no loss by a plan."""
    admission = POLICY.admission.model_copy(update={"late": "serve", "max_waiting": 10_000})
    return fixed(k).model_copy(update={"admission": admission})


def with_gold(slo_policy: SloPolicy) -> SloPolicy:
    return parse_policy(slo_policy.model_dump(mode="json") | {"classes": {"gold": GOLD}})


class Service:
    def __init__(self, cluster: LocalCluster, config: dict) -> None:
        self.cluster = cluster
        self._config = config
        self.journal = config["applications"][0]["args"]["journal"]

    def post(self, body: bytes | dict) -> tuple[int, dict]:
        status, answer, _ = self.ask(body, {})
        return status, answer

    def ask(
        self, body: bytes | dict, headers: Mapping[str, str]
    ) -> tuple[int, dict, Mapping[str, str]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **headers}
        request = Request(f"{self.cluster.url}/v1/completions", data, sent)
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer), answer.headers
        except HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers

    def complete(self, slo_class: str | None = None, **changes: object) -> dict:
        headers = {} if slo_class is None else {"X-SLO-Class": slo_class}
        status, answer, _ = self.ask(SHORT | changes, headers)
        assert status == 200, answer
        return answer

    def replica_pids(self) -> set[int]:
        return replica_pids(_get_global_client().get_serve_details())

    def stream(self, **changes: object) -> list[dict]:
        data = json.dumps(SHORT | {"stream": True} | changes).encode()
        headers = {"content-type": "application/json"}
        request = Request(f"{self.cluster.url}/v1/completions", data, headers)
        with urlopen(request, timeout=60) as answer:
            lines = [line.decode().strip() for line in answer]
        events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    def adopt(self, slo_policy: SloPolicy) -> None:
        """As `serve deploy` with another `user_config`; returns once all replicas follow."""
        self.cluster.deploy(configure(self._config, slo_policy=slo_policy))
        self.wait(lambda status: status["slo_policy"] == slo_policy.model_dump(mode="json"))
        k = slo_policy.policy.k
        if k is not None:
            self.wait(lambda status: status["plan"]["k"] == layers(k) and in_step(status))

    def wait(self, condition) -> dict:  # noqa: ANN001
        pause = threading.Event()
        for _ in range(200):
            status = self.cluster.status()
            if condition(status):
                return status
            pause.wait(0.1)
        raise AssertionError(f"did not come about: {status}")

    def command(self, *arguments: object, status: int = 0) -> str:
        """What a command says; of the running service unless it reads files alone."""
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert result.exit_code == status, result.output
        return result.output


def shed_rps(status: dict) -> float:
    return status["load"]["classes"]["default"]["shed_rps"] or 0.0


def ttft_p95_s(status: dict, name: str) -> float | None:
    classes = status["load"]["classes"] if status["load"] else {}
    return classes.get(name, {}).get("ttft_p95_s")


def layers(k: int) -> list[int]:
    """The plan that a fixed policy's k stands for: the layers of a rung may differ."""
    return list(PROFILE.nearest(k).plan)


def in_step(status: dict) -> bool:
    epochs = status["replica_epochs"].values()
    return len(epochs) == 2 and all(epoch >= status["plan"]["epoch"] for epoch in epochs)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    before = ray_processes()
    journal = tmp_path_factory.mktemp("served") / "journal.jsonl"
    config = configure(read_serve_yaml(Path("serve.yaml")), slo_policy=fixed(8), journal=journal)
    with LocalCluster(config, port=free_port()) as cluster:
        yield Service(cluster, config)
    assert ray_processes() <= before, "Ray left processes behind"


def test_at_full_k_the_answer_is_the_unmodified_models(service: Service) -> None:
    service.adopt(fixed(8))
    checkpoint = load_checkpoint(CHECKPOINT)
    ids = torch.tensor([checkpoint.tokenizer.encode(PROMPT)])
    expected = checkpoint.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
    )[0, ids.shape[1] :]
    answer = service.complete()
    assert answer["choices"][0]["text"] == checkpoint.tokenizer.decode(
        expected, skip_special_tokens=True
    )
    assert answer["kprime"]["mean_k"] == 8
    assert answer["usage"]["prompt_tokens"] == ids.shape[1]


def test_a_stream_says_the_same_as_the_whole_answer(service: Service) -> None:
    chunks = service.stream(stream_options={"include_usage": True})
    whole = service.complete()
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])
    assert text == whole["choices"][0]["text"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_each_class_runs_at_its_own_k_beside_the_others(service: Service) -> None:
    service.adopt(with_gold(fixed(1)))
    service.wait(lambda status: "gold" in status["plan"]["class_k"] and in_step(status))
    gold, plain = service.complete("gold"), service.complete()
    assert (gold["kprime"]["mean_k"], gold["kprime"]["quality"]) == (8, 1.0)
    assert plain["kprime"]["mean_k"] == 1
    assert plain["kprime"]["quality"] == pytest.approx(PROFILE.rungs[0].quality)
    # Each replica tells of its own requests: one class may be known before the other.
    told = service.wait(
        lambda status: None not in (ttft_p95_s(status, "gold"), ttft_p95_s(status, "default"))
    )
    assert ttft_p95_s(told, "gold") > 0 and ttft_p95_s(told, "default") > 0
    service.adopt(fixed(8))
    assert gold["choices"] == service.complete()["choices"]


def test_an_unknown_class_is_refused_with_those_there_are(service: Service) -> None:
    service.adopt(with_gold(fixed(8)))
    status, answer, _ = service.ask(SHORT, {"X-SLO-Class": "silver"})
    assert (status, answer["error"]["code"]) == (400, "unknown_slo_class")
    assert "accepted: default, gold" in answer["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_without_hope_is_refused_at_once_and_told_when_to_retry(
    service: Service, stream: bool
) -> None:
    impossible = POLICY.slo.model_copy(update={"ttft_s": 1e-6})
    service.adopt(fixed(8).model_copy(update={"slo": impossible}))
    status, answer, headers = service.ask(SHORT | {"stream": stream}, {})
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert int(headers["retry-after"]) >= 1
    told = service.wait(lambda status: status["load"] and shed_rps(status) > 0)
    assert told["load"]["running_requests"] == 0
    service.adopt(fixed(8))
    assert service.complete()["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{nonsense", 400, "not JSON"),
        ({"model": "gpt-17", "prompt": "a"}, 404, "gpt-17"),
        ({"model": CHECKPOINT.name}, 400, "prompt"),
        ({"model": CHECKPOINT.name, "prompt": ""}, 400, "prompt"),
        ({"model": CHECKPOINT.name, "prompt": "word " * 3000}, 400, "2048"),
        ({"model": CHECKPOINT.name, "prompt": [1, 99999]}, 400, "4096"),
        ({"model": CHECKPOINT.name, "prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        ({"model": CHECKPOINT.name, "prompt": "a", "best_of": 2}, 400, "best_of"),
    ],
)
def test_bad_requests_get_openais_error_and_the_server_goes_on(
    service: Service, body: bytes | dict, status: int, named: str
) -> None:
    code, answer = service.post(body)
    assert code == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert named in answer["error"]["message"]
    assert service.complete(max_tokens=2)["usage"]["completion_tokens"] == 2


def test_a_new_slo_policy_restarts_nothing_and_requests_in_flight_finish(service: Service) -> None:
    service.adopt(fixed(8))
    pids = service.replica_pids()
    assert len(pids) == 2
    answers: list[dict] = []
    long = {"prompt": PROMPT, "max_tokens": 600, "ignore_eos": True}
    flights = [
        threading.Thread(target=lambda: answers.append(service.complete(**long))) for _ in range(4)
    ]
    for flight in flights:
        flight.start()
    service.wait(lambda status: (status["load"]["running_requests"] or 0) >= 4)
    service.adopt(fixed(2))
    for flight in flights:
        flight.join()
    assert service.replica_pids() == pids
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [600] * 4
    assert all(2 < answer["kprime"]["mean_k"] < 8 for answer in answers), "served under both"
    assert service.complete()["kprime"]["mean_k"] == 2


def test_a_bad_slo_policy_is_refused_and_the_running_one_stays(service: Service) -> None:
    service.adopt(fixed(4))
    bad = configure(service._config)
    bad["applications"][0]["deployments"][0]["user_config"]["slo_policy"]["experts"]["floor"] = 99
    service.cluster.deploy(bad)
    assert service.complete()["kprime"]["mean_k"] == 4
    assert service.cluster.status()["slo_policy"]["policy"]["k"] == 4


def test_plan_changes_under_load_lose_no_request_and_arrive_quickly(service: Service) -> None:
    service.adopt(patient(8))
    known = len(service.cluster.status()["actuations"])
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    requests = [Scheduled(n / 12, 400, 8) for n in range(120)]
    records: list = []
    load = threading.Thread(
        target=lambda: records.extend(
            asyncio.run(replay(service.cluster.url, None, requests, prompts, seed=1))
        )
    )
    load.start()
    for k in (1, 8, 2, 8, 4, 1):
        service.adopt(patient(k))
    load.join()
    assert [record.error for record in records if not record.completed] == []
    changes_ms = [entry["ms"] for entry in service.cluster.status()["actuations"][known:]]
    assert len(changes_ms) == 6
    # The figure itself is benchmarks/actuation.py's; a shared machine only shows the order.
    assert max(changes_ms) < 1000


def test_a_governor_that_dies_is_replaced_and_counts_on(service: Service) -> None:
    service.adopt(fixed(8))
    epoch = service.cluster.status()["plan"]["epoch"]
    (name,) = [
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if "governor" in entry["name"]
    ]
    ray.kill(ray.get_actor(name, namespace="serve"))
    answer = service.complete()
    assert answer["kprime"]["mean_k"] == 8

    def replaced(status: dict) -> bool:
        return bool(status["plan"]) and status["plan"]["epoch"] > epoch and in_step(status)

    pause = threading.Event()
    for _ in range(300):
        try:
            if replaced(service.cluster.status()):
                break
        except HTTPError as error:  # 503 until the new one is up
            error.close()
        pause.wait(0.1)
    else:
        raise AssertionError("no new governor")
    assert service.complete()["kprime"]["epoch"] > epoch


def test_an_applied_policy_reaches_all_lasts_and_yields_to_a_deployment(
    service: Service, tmp_path: Path
) -> None:
    service.adopt(fixed(8))
    pids, file = service.replica_pids(), tmp_path / "two.yaml"
    file.write_text(json.dumps(fixed(2).model_dump(mode="json")))  # JSON is YAML
    url = ("--url", service.cluster.url)
    assert "fixed at k' 2, " in service.command("policy", "apply", file, *url)
    service.wait(lambda status: status["plan"]["k"] == layers(2) and in_step(status))
    assert service.replica_pids() == pids

    bad = tmp_path / "bad.yaml"
    bad.write_text(json.dumps(fixed(8).model_dump(mode="json")).replace('ing": 8', 'ing": 99'))
    refusal = service.command("policy", "apply", bad, *url, status=2)
    assert "experts: 1..99 is outside what the profile gives" in refusal
    assert service.cluster.status()["slo_policy"] == fixed(2).model_dump(mode="json")

    # Serve starts the replica that takes the place of the dead with the deployed policy.
    before = set(service.cluster.status()["replica_epochs"])
    os.kill(min(pids), signal.SIGKILL)
    service.wait(lambda status: in_step(status) and set(status["replica_epochs"]) != before)
    status = service.cluster.status()
    assert (status["slo_policy"]["policy"]["k"], status["applied"]) == (2, True)
    assert "applied, until the next deployment" in service.command("status", *url)

    # Until Serve itself has seen the replica recover, it calls any deployment unhealthy.
    service.wait(lambda _: serve.status().applications[APP].status == ApplicationStatus.RUNNING)

    # Serve does not tell the replicas of a deployment that changes nothing.
    service.cluster.deploy(configure(service._config, slo_policy=fixed(8)))
    assert service.cluster.status()["applied"] is True
    service.adopt(fixed(4))
    assert service.cluster.status()["applied"] is False


def test_a_dry_run_decides_and_serves_the_safe_plan(service: Service, tmp_path: Path) -> None:
    service.adopt(fixed(4))
    dry = fixed(2).model_copy(update={"mode": "dry-run"})
    (tmp_path / "dry.yaml").write_text(json.dumps(dry.model_dump(mode="json")))
    url = ("--url", service.cluster.url)
    service.command("policy", "apply", tmp_path / "dry.yaml", *url)
    status = service.wait(lambda status: status["plan"]["k"] == layers(8) and in_step(status))
    assert status["budget"] == {"mean_k": 2, "reason": "dry run: fixed at 2"}
    assert service.complete()["kprime"]["mean_k"] == 8
    service.adopt(fixed(8))


def test_everything_that_was_decided_so_far_is_decided_again(service: Service) -> None:
    """Under load, by several policies, before and after the death of a governor."""
    service.adopt(POLICY)
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    requests = [Scheduled(n / 20, 400, 8) for n in range(100)]
    asyncio.run(replay(service.cluster.url, None, requests, prompts, seed=1))
    said = service.command("replay", service.journal)
    assert ", 0 differ" in said
