"""`kprime status` and `kprime policy apply` against servers of a few lines."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from commands.main import app
from commands.status import rows
from controller.policy_file import load_policy

POLICIES = Path(__file__).parents[2] / "policies"
INTERACTIVE = load_policy(POLICIES / "interactive.yaml").model_dump(mode="json")
Answers = dict[str, tuple[int, Any]]


def status(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  (any part of a status)
    """Two replicas under load, as a governor tells it."""
    said: dict[str, Any] = {
        "slo_policy": INTERACTIVE,
        "edition": 3,
        "applied": True,
        "plan": {
            "epoch": 12,
            "k": [2, 2, 4, 4],
            "quality": 0.97,
            "class_k": {"batch": [1, 1, 1, 1]},
            "expert_cap": None,
            "prefill_k": None,
        },
        "load": {
            "stale_replicas": 1,
            "arrival_rps": 12.34,
            "arrival_rps_sustained": 11.0,
            "prompt_tokens": 200.0,
            "output_tokens": None,
            "waiting_requests": 7,
            "waiting_tokens": 1400,
            "oldest_wait_s": 0.4,
            "running_requests": 9,
            "classes": {"default": {"shed_rps": 0.0}},
            "ttft_p95_s": 1.2,
            "tpot_p95_s": 0.1,
            "step_time_error": 0.071,
            "correction": {"base": 1.0, "experts": 1.2, "rest": 0.9},
            "ages_s": {"queue": 0.14, "ttft": 3.2},
        },
        "budget": {"mean_k": 3.0, "reason": "best rung [that] holds"},
        "replica_wish": {"replicas": 3, "reason": "short for 2 of 15 s"},
        "replica_epochs": {"replica-aaaa1111": 12, "replica-bbbb2222": 11},
        "replica_editions": {"replica-aaaa1111": 3, "replica-bbbb2222": 2},
        "expert_use": {
            "replica-aaaa1111": {
                "distinct": [4.0, 6.0],
                "worst_load": [2.0, 3.0],
                "never_used": [1, 0],
            }
        },
        "actuations": [],
    }
    return said | changes


class Server:
    """Answers `METHOD /path` with a status and a body; bytes go as they are."""

    def __init__(self, answers: Answers) -> None:
        self.bodies: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                if length:
                    outer.bodies.append(json.loads(self.rfile.read(length)))
                code, body = answers.get(f"{self.command} {self.path}", (404, b"not here"))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            do_GET = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serving() -> Iterator[Callable[[Answers], Server]]:
    servers: list[Server] = []

    def start(answers: Answers) -> Server:
        servers.append(Server(answers))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def facts(result: Result) -> dict[str, str]:
    """The rows of the table."""
    assert result.exit_code == 0, result.output
    cells = [line.split("│")[1:3] for line in result.stdout.splitlines() if "│" in line]
    return {name.strip(): text.strip() for name, text in cells}


def test_the_status_says_what_runs_why_and_who_lags(
    serving: Callable[[Answers], Server], tmp_path: Path
) -> None:
    server = serving({"GET /kprime/status": (200, status())})
    result = run("status", "--url", server.url + "/", "--json", tmp_path / "status.json")
    assert facts(result) == {
        "plan": "k' 3 by layer: 2 2 4 4, quality 0.970, epoch 12",
        "plan of batch": "k' 1 in all 4 layers",
        "SLO policy": "predictive, k' within 1..8, safe 8; edition 3, applied, until the next "
        "deployment",
        "reason": "best rung [that] holds",
        "arrivals": "12.34 requests/s (sustained 11), 200 prompt and unknown output tokens each",
        "queue": "7 wait with 1400 tokens, the oldest for 0.4 s; 9 run",
        "TTFT p95": "1.200 s of 1 s: MISSED",
        "TPOT p95": "0.100 s of 0.2 s: holds",
        "step time": "off by 7.1%; profile corrected by base x 1.00, experts x 1.20, rest x 0.90",
        "evidence is of": "queue 0.1 s, ttft 3.2 s",
        "replicas": "aaaa1111 at epoch 12; bbbb2222 at epoch 11, lags in plan and SLO policy; "
        "1 silent",
        "replicas wanted": "3: short for 2 of 15 s",
        "experts, aaaa1111": "5.0 distinct a step, busiest 2.5 times the mean; 1 never used",
    }
    assert json.loads((tmp_path / "status.json").read_text()) == status()


def test_what_is_not_known_is_said_to_be_unknown(serving: Callable[[Answers], Server]) -> None:
    unknown = dict.fromkeys(status()["load"]) | {"stale_replicas": 0, "classes": {}}
    said = status(load=unknown, replica_epochs={}, expert_use={})
    rows = facts(run("status", "--url", serving({"GET /kprime/status": (200, said)}).url))
    assert rows["TTFT p95"] == "unknown, objective 1 s: no request of late"
    assert rows["step time"] == "error unknown"
    assert rows["replicas"] == "none has been heard of late"


def test_a_number_of_replicas_that_has_not_been_decided_is_what_there_is(
    serving: Callable[[Answers], Server],
) -> None:
    said = status(replica_wish={"replicas": None, "reason": "enough"})
    rows = facts(run("status", "--url", serving({"GET /kprime/status": (200, said)}).url))
    assert rows["replicas wanted"] == "as many as there are: enough"


def test_a_dry_run_says_so(serving: Callable[[Answers], Server]) -> None:
    said = status(slo_policy=INTERACTIVE | {"mode": "dry-run"})
    rows = facts(run("status", "--url", serving({"GET /kprime/status": (200, said)}).url))
    assert rows["dry run"] == "would serve k' 3; serves the safe plan"


def test_a_controller_that_has_just_started_says_so(serving: Callable[[Answers], Server]) -> None:
    said = status(slo_policy=None, plan=None, load=None, budget=None, replica_epochs={})
    rows = facts(run("status", "--url", serving({"GET /kprime/status": (200, said)}).url))
    assert rows == {"controller": "has just started: no replica has called it yet"}


SILENT = {"error": {"message": "the governor does not answer: dead\ntrace\nkilled"}}


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((404, b"nothing"), "not a kprime server, .*: GET /kprime/status gives status 404"),
        ((200, b"<html>"), "not a kprime server, .*: GET /kprime/status gives no JSON"),
        ((200, [1]), "not a kprime server, .*: GET /kprime/status gives no JSON object"),
        ((200, {"ok": True}), "not a kprime server, .*: its /kprime/status says something else"),
        ((503, SILENT), "the governor does not answer: dead killed"),
        ((500, b"\xff"), "not a kprime server, .*: GET /kprime/status gives status 500"),
    ],
)
@pytest.mark.parametrize("command", [["status"], ["policy", "apply"]])
def test_a_server_that_is_none_of_kprimes_gets_one_message(
    serving: Callable[[Answers], Server],
    command: list[str],
    answer: tuple[int, Any],
    complaint: str,
) -> None:
    import re

    server = serving({"GET /kprime/status": answer, "PUT /kprime/policy": (200, {"edition": 1})})
    file = [POLICIES / "interactive.yaml"] if command != ["status"] else []
    result = run(*command, *file, "--url", server.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(f"--url {server.url}: {complaint}\n", result.stderr)


@pytest.mark.parametrize("command", [["status"], ["policy", "apply"]])
def test_no_server_gets_one_message(command: list[str]) -> None:
    file = [POLICIES / "interactive.yaml"] if command != ["status"] else []
    result = run(*command, *file, "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("--url http://127.0.0.1:1: no server answers: ")
    result = run(*command, *file, "--url", "127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "--url 127.0.0.1:1: expected http://HOST:PORT\n"


def test_a_bad_output_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    result = run("status", "--json", tmp_path / "none" / "status.json")
    assert result.exit_code == 2
    assert "--json" in result.stderr


def test_an_applied_policy_is_sent_whole_and_shown_when_all_replicas_follow(
    serving: Callable[[Answers], Server],
) -> None:
    in_force = status(replica_editions={"replica-aaaa1111": 3, "replica-bbbb2222": 3})
    server = serving(
        {
            "PUT /kprime/policy": (200, {"edition": 3, "applied": True}),
            "GET /kprime/status": (200, in_force),
        }
    )
    file = POLICIES / "interactive.yaml"
    result = run("policy", "apply", file, "--url", server.url)
    assert facts(result)["SLO policy"].startswith("predictive, k' within 1..8")
    assert result.stdout.startswith(f"in force at {server.url}, edition 3: {file}\n")
    assert server.bodies == [INTERACTIVE]


def test_a_replica_that_does_not_follow_is_named(
    serving: Callable[[Answers], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.policy.FOLLOWED_WITHIN_S", 0.01)
    server = serving(
        {"PUT /kprime/policy": (200, {"edition": 3}), "GET /kprime/status": (200, status())}
    )
    result = run("policy", "apply", POLICIES / "interactive.yaml", "--url", server.url)
    assert result.exit_code == 1
    assert result.stderr.endswith("these replicas do not follow it: replica-bbbb2222\n")


def test_a_policy_that_the_server_refuses_is_bad_input(
    serving: Callable[[Answers], Server],
) -> None:
    body = {"error": {"message": "experts: 1..8 is outside what the profile gives, 1..4"}}
    server = serving({"PUT /kprime/policy": (422, body)})
    file = POLICIES / "interactive.yaml"
    result = run("policy", "apply", file, "--url", server.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"{file}: refused by {server.url}: {body['error']['message']}\n"


def test_an_invalid_file_is_refused_as_by_check_and_sent_nowhere(
    serving: Callable[[Answers], Server], tmp_path: Path
) -> None:
    server, file = serving({}), tmp_path / "bad.yaml"
    file.write_text((POLICIES / "interactive.yaml").read_text().replace("floor: 1", "floor: 0"))
    result = run("policy", "apply", file, "--url", server.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == run("check", file).stderr
    assert server.bodies == []


def test_each_class_is_shown_beside_its_own_objectives_the_highest_first() -> None:
    two = load_policy(POLICIES / "two-classes.yaml").model_dump(mode="json")
    part = {"waiting_requests": 3, "running_requests": 4}
    said = status(slo_policy=two)
    said["load"]["classes"] = {
        "batch": {**part, "share": 300.0, "shed_rps": 1.25, "ttft_p95_s": 4.0, "tpot_p95_s": None},
        "premium": {**part, "share": 100.0, "shed_rps": None, "ttft_p95_s": 1.2, "tpot_p95_s": 0.1},
    }
    shown = dict(rows(said))
    assert [name for name in shown if name.startswith("class")] == ["class premium", "class batch"]
    assert shown["class premium"] == (
        "25% of the tokens; 3 wait, 4 run; TTFT p95 1.200 s of 1 s: MISSED; "
        "TPOT p95 0.100 s of 0.2 s: holds"
    )
    assert shown["class batch"] == (
        "75% of the tokens; 3 wait, 4 run, 1.2 refused a second; TTFT p95 4.000 s of 5 s: holds; "
        "TPOT p95 unknown, objective 0.5 s: no request of late"
    )
    assert shown["queue"].endswith("9 run, 1.2 refused a second")
    assert "TTFT p95" not in shown


def test_how_old_the_evidence_is_is_shown_by_kind() -> None:
    assert dict(rows(status()))["evidence is of"] == "queue 0.1 s, ttft 3.2 s"


def test_prompts_that_run_lower_have_a_row(serving: Callable[[Answers], Server]) -> None:
    said = status()
    said["plan"]["prefill_k"] = [1, 1, 2, 2]
    server = serving({"GET /kprime/status": (200, said)})
    found = facts(run("status", "--url", server.url))
    assert found["prompts"] == "at most k' 1.5 by layer: 1 1 2 2"
