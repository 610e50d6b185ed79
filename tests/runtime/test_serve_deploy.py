"""The documented route: `ray start --head`, `serve deploy serve.yaml`, edit it, deploy again."""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from controller.profiles import load_profile
from tests.runtime.processes import free_port, ray_processes, replica_pids

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent
MODEL = "prose-52m"
PROFILE = load_profile(Path("checkpoints") / MODEL / "profile.json")


class Operator:
    """Runs the `ray` and `serve` commands against a head of its own."""

    def __init__(self) -> None:
        self.http_port, self._dashboard_port = free_port(), free_port()
        gcs_port = free_port()
        # The loopback switch has to be set for every Ray command, the workers inherit it.
        self._env = os.environ | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"127.0.0.1:{gcs_port}",
            # Ray demands a token as soon as the home folder holds one: do not depend on that.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        head = {key: value for key, value in self._env.items() if key != "RAY_ADDRESS"}
        command = ["ray", "start", "--head", f"--port={gcs_port}", "--num-cpus=2"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard_port}"]
        self._call(command, head)

    def deploy(self, config: dict, file: Path) -> None:
        file.write_text(yaml.safe_dump(config))
        address = f"http://127.0.0.1:{self._dashboard_port}"
        self._call(["serve", "deploy", str(file), "--address", address], self._env)

    def status(self) -> dict:
        with urlopen(f"http://127.0.0.1:{self.http_port}/kprime/status", timeout=10) as answer:
            return json.load(answer)

    def replica_pids(self) -> set[int]:
        request = Request(
            f"http://127.0.0.1:{self._dashboard_port}/api/serve/applications/",
            headers={"authorization": f"Bearer {self._env['RAY_AUTH_TOKEN']}"},
        )
        with urlopen(request, timeout=10) as answer:
            return replica_pids(json.load(answer))

    def complete(self, max_tokens: int) -> dict:
        body = {"model": MODEL, "prompt": "Call me", "max_tokens": max_tokens, "ignore_eos": True}
        request = Request(
            f"http://127.0.0.1:{self.http_port}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def wait(self, condition) -> None:  # noqa: ANN001
        pause = threading.Event()
        for _ in range(900):
            try:
                if condition(self.status()):
                    return
            except (URLError, ConnectionError, TimeoutError) as error:  # not up yet
                if hasattr(error, "close"):
                    error.close()
            pause.wait(0.1)
        raise AssertionError("did not come about")

    def _call(self, command: list[str], env: dict[str, str]) -> None:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def operator() -> Iterator[Operator]:
    before = ray_processes()
    try:
        yield Operator()
    finally:  # `ray stop` would end every Ray of the machine
        ours = [psutil.Process(pid) for pid in ray_processes() - before]
        for process in ours:
            process.terminate()
        _, stubborn = psutil.wait_procs(ours, timeout=15)
        for process in stubborn:
            process.kill()
    assert ray_processes() <= before


@pytest.mark.slow
def test_a_changed_policy_is_hot(operator: Operator, tmp_path: Path) -> None:
    config = yaml.safe_load(Path("serve.yaml").read_text())
    config["http_options"]["port"] = operator.http_port
    config["applications"][0]["args"]["journal"] = str(tmp_path / "journal.jsonl")
    policy = config["applications"][0]["deployments"][0]["user_config"]["slo_policy"]
    operator.deploy(config, tmp_path / "serve.yaml")
    operator.wait(lambda status: len(status["replica_epochs"]) == 2)
    pids = operator.replica_pids()
    assert len(pids) == 2

    answers: list[dict] = []
    flights = [
        threading.Thread(target=lambda: answers.append(operator.complete(800))) for _ in range(4)
    ]
    for flight in flights:
        flight.start()
    operator.wait(lambda status: (status["load"]["running_requests"] or 0) >= 4)
    policy["policy"] = {"name": "fixed", "k": 3}
    operator.deploy(config, tmp_path / "serve.yaml")
    operator.wait(lambda status: status["plan"]["k"] == list(PROFILE.nearest(3).plan))
    for flight in flights:
        flight.join()

    assert operator.replica_pids() == pids
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [800] * 4
    assert operator.complete(2)["kprime"]["mean_k"] == 3
