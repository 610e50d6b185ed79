"""`kprime load` as an operator meets it: one message for each mistake, and figures for a run."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from typer.testing import Result

from controller.profiles import write_profile
from tests.commands.command_line import invoked, refused
from tests.fakes import profile

TEXT = "Call me Ishmael. Some years ago, never mind how long precisely, I went to sea. " * 20
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FIRST = "2023-11-16 18:17:03.0000000,20,2\n"
SECOND = "2023-11-16 18:17:03.1000000,30,3\n"
LATER = "2023-11-16 18:17:04.0000000,10,1\n"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def options(tmp_path: Path, tokenizer_file: Path) -> dict[str, object]:
    """All that a run needs but a server: nobody asks the one named here."""
    (tmp_path / "trace.csv").write_text(HEADER + FIRST + SECOND + LATER)
    (tmp_path / "text.txt").write_text(TEXT)
    return {
        "--url": "http://127.0.0.1:1",
        "--trace": tmp_path / "trace.csv",
        "--text": tmp_path / "text.txt",
        "--tokenizer": tokenizer_file,
    }


def run(options: dict[str, object]) -> Result:
    return invoked("load", options)


def refusal(options: dict[str, object]) -> str:
    return refused("load", options)


TRACES = {
    "empty": ("", "trace.csv: the file is empty"),
    "no requests": (HEADER, "trace.csv: no requests"),
    "unknown columns": ("when,what\n1,2\n", "trace.csv:1: unknown format with columns when, what"),
    "missing column": (
        "TIMESTAMP,ContextTokens\n",
        "trace.csv:1: missing column 'GeneratedTokens'",
    ),
    "no time": (
        HEADER + "yesterday,20,2\n",
        "trace.csv:2: column 'TIMESTAMP': 'yesterday', expected a time",
    ),
    "no number": (
        HEADER + FIRST + SECOND.replace("30", "many"),
        "trace.csv:3: column 'ContextTokens': 'many', expected a whole number",
    ),
    "unsorted": (
        HEADER + LATER + FIRST,
        "trace.csv:3: column 'TIMESTAMP': 1 s back in time; sort the file",
    ),
}


@pytest.mark.parametrize(("content", "complaint"), TRACES.values(), ids=TRACES.keys())
def test_a_trace_that_cannot_be_replayed_is_refused_with_file_and_line(
    options: dict[str, object], tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / "trace.csv").write_text(content)
    assert refusal(options).startswith(f"--trace: {tmp_path}/{complaint}")


def test_a_missing_trace_is_named(options: dict[str, object], tmp_path: Path) -> None:
    line = refusal(options | {"--trace": tmp_path / "none.csv"})
    assert line.startswith(f"--trace: {tmp_path}/none.csv")


def test_a_missing_text_is_named(options: dict[str, object], tmp_path: Path) -> None:
    line = refusal(options | {"--text": tmp_path / "none.txt"})
    assert line.startswith(f"--text {tmp_path}/none.txt: ")
    assert line.endswith("expected a UTF-8 text file")


def test_a_text_that_is_not_utf8_is_named(options: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    assert refusal(options).startswith(f"--text {tmp_path}/text.txt: ")


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_file_that_is_no_tokenizer_is_named(
    options: dict[str, object], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "other.json"
    if content is not None:
        file.write_text(content)
    line = refusal(options | {"--tokenizer": file})
    assert line.startswith(f"--tokenizer {file}: ")
    assert line.endswith("expected a tokenizer.json")


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--url", "127.0.0.1:8000", "--url 127.0.0.1:8000: expected http://HOST:PORT"),
        ("--trace", "step:base=4", "--trace: step:base=4: 'peak' is missing; expected step:base="),
        ("--start", 5, "--start, --duration: no request of trace"),
        ("--duration", 0, "--start, --duration: no request of trace"),
        ("--rate", 0, "--rate 0: "),
        ("--rate", -1, "--rate -1: "),
        ("--rate", "nan", "--rate nan: "),
        ("--context", 1, "--context: context of 1 tokens: expected 2 or more"),
        ("--load", 0.5, "--load: needs --profile"),
        ("--ttft-slo", "inf", "--ttft-slo inf: expected seconds"),
        ("--tpot-slo", "inf", "--tpot-slo inf: expected seconds"),
        ("--slo-class", "a=0.5,b=0.4", "--slo-class: 'a=0.5,b=0.4': the shares sum to 0.9"),
        ("--policy-file", "none.yaml", "--policy-file: none.yaml:1: cannot be read"),
    ],
)
def test_an_impossible_value_is_refused_by_the_name_of_its_option(
    options: dict[str, object], option: str, value: object, complaint: str
) -> None:
    assert refusal(options | {option: value}).startswith(complaint)


def test_a_profile_that_is_not_there_is_named(options: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    line = refusal(options | {"--load": 0.5, "--profile": file})
    assert line.startswith(f"--profile: {file}: ")


POLICY = """
version: 1
slo: {ttft_s: 1.0, tpot_s: 0.2}
experts: {floor: 1, ceiling: 8}
policy: {name: predictive}
classes:
  premium: {ttft_s: 20.0, tpot_s: 2.0}
  batch: {ttft_s: 0.000001, tpot_s: 2.0}
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "classes.yaml"
    file.write_text(POLICY)
    return file


@pytest.mark.parametrize("option", ["--ttft-slo", "--tpot-slo"])
def test_objectives_are_given_in_one_way(
    options: dict[str, object], policy_file: Path, option: str
) -> None:
    line = refusal(options | {"--policy-file": policy_file, option: 1})
    assert line == "--policy-file and --ttft-slo or --tpot-slo both set objectives: give one"


def test_a_class_that_the_policy_lacks_is_named(
    options: dict[str, object], policy_file: Path
) -> None:
    line = refusal(options | {"--policy-file": policy_file, "--slo-class": "premium=0.5,gold=0.5"})
    assert line == "--slo-class: 'gold' is not a class of the policy, use: default, premium, batch"


@pytest.mark.parametrize("option", ["--json", "--requests", "--write-trace"])
@pytest.mark.parametrize("place", [".", "none/figures.json"])
def test_an_output_with_nowhere_to_go_is_refused_before_the_run(
    options: dict[str, object], tmp_path: Path, option: str, place: str
) -> None:
    line = refusal(options | {option: tmp_path / place})
    assert line == f"{option} {tmp_path / place}: expected a file name in an existing folder"


@pytest.mark.parametrize("option", ["--url", "--trace"])
def test_what_has_no_default_must_be_given(options: dict[str, object], option: str) -> None:
    del options[option]
    result = run(options)
    assert result.exit_code == 2
    assert f"Missing option '{option}'" in result.stderr


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Held, so that nobody else answers, and not listened to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_nothing_listening_is_a_failure(options: dict[str, object], closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    result = run(options | {"--url": url})
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"--url: no server answers at {url}: ")
    assert line.endswith("expected an OpenAI-compatible server")


class Answers(BaseHTTPRequestHandler):
    """Lists one model and streams as many tokens as asked; refuses prompts when `broken`."""

    broken = False

    def do_GET(self) -> None:
        self._answer(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        telemetry = {"epoch": 1, "mean_k": 4.0, "quality": 0.9}
        chunk = {"choices": [{"text": "a"}], "kprime": telemetry}
        event = f"data: {json.dumps(chunk)}\n\n"
        stream = event * body["max_tokens"] + "data: [DONE]\n\n"
        self._answer(500 if self.broken else 200, stream.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Breaks(Answers):
    broken = True


class Sheds(Answers):
    """Refuses the class named batch."""

    def do_POST(self) -> None:
        if self.headers["X-SLO-Class"] != "batch":
            super().do_POST()
            return
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429)
        self.send_header("Retry-After", "3")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(params=[Answers])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as serving:
        thread = Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_run_ends_with_a_table_and_the_files_asked_for(
    options: dict[str, object], tmp_path: Path, server: str
) -> None:
    summary_file, requests_file = tmp_path / "load.json", tmp_path / "requests.jsonl"
    files = {"--json": summary_file, "--requests": requests_file}
    result = run(options | files | {"--url": server, "--duration": 0.5})
    assert result.exit_code == 0, result.output
    assert "2 offered, 2 completed, 0 shed, 0 failed" in result.stdout
    summary = json.loads(summary_file.read_text())
    assert summary["trace"] == "trace"
    arm = summary["arms"]["live"]
    assert (arm["offered"], arm["completed"], arm["attainment"]) == (2, 2, 1.0)
    assert (arm["mean_k"], arm["served_quality"]) == (pytest.approx(4.0), pytest.approx(0.9))
    rows = [json.loads(line) for line in requests_file.read_text().splitlines()]
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(20, 2), (30, 3)]


@pytest.mark.parametrize("server", [Breaks], indirect=True)
def test_a_run_without_a_completed_request_is_a_failure_with_the_reason(
    options: dict[str, object], server: str
) -> None:
    result = run(options | {"--url": server, "--duration": 0.5})
    assert result.exit_code == 1
    assert f"no request completed at {server}; the last: HTTP 500: data:" in result.stderr
    assert "2 offered, 0 completed, 0 shed, 2 failed" in result.stdout


def summary_of(options: dict[str, object], folder: Path) -> dict[str, Any]:
    """The arm that a run writes."""
    file = folder / "load.json"
    result = run(options | {"--json": file})
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text())["arms"]["live"]


def test_without_a_class_all_requests_are_of_the_default_one(
    options: dict[str, object], tmp_path: Path, server: str
) -> None:
    arm = summary_of(options | {"--url": server}, tmp_path)
    assert arm["classes"].keys() == {"default"}
    assert arm["classes"]["default"]["offered"] == arm["offered"] == 3


MIX: dict[str, object] = {"--slo-class": "premium=0.4,batch=0.6", "--seed": 3}


def test_a_policy_gives_each_class_its_objectives(
    options: dict[str, object], tmp_path: Path, server: str, policy_file: Path
) -> None:
    arm = summary_of(
        options | MIX | {"--url": server, "--policy-file": policy_file, "--rate": 40}, tmp_path
    )
    premium, batch = arm["classes"]["premium"], arm["classes"]["batch"]
    assert (premium["attainment"], batch["attainment"]) == (1.0, 0.0)
    assert premium["offered"] + batch["offered"] == arm["offered"] > 20
    assert arm["attainment"] == premium["offered"] / arm["offered"]


@pytest.mark.parametrize("server", [Sheds], indirect=True)
def test_refusals_are_told_by_class_with_how_long_to_wait(
    options: dict[str, object], tmp_path: Path, server: str
) -> None:
    requests_file = tmp_path / "requests.jsonl"
    files = {"--json": tmp_path / "load.json", "--requests": requests_file}
    result = run(options | MIX | files | {"--url": server, "--rate": 40})
    assert result.exit_code == 0, result.output
    arm = json.loads((tmp_path / "load.json").read_text())["arms"]["live"]
    batch = arm["classes"]["batch"]
    assert batch["shed"] == batch["offered"] == batch["shed_with_retry_after"] == arm["shed"]
    assert (batch["retry_after_p50_s"], batch["retry_after_max_s"]) == (3.0, 3.0)
    assert arm["classes"]["premium"]["shed"] == 0
    rows = [json.loads(line) for line in requests_file.read_text().splitlines()]
    waits_s = {(row["slo_class"], row["retry_after_s"]) for row in rows}
    assert waits_s == {("batch", 3.0), ("premium", None)}
    assert "all" in result.stdout and "Retry-After" in result.stdout


def test_a_mix_changes_neither_times_nor_lengths(
    options: dict[str, object], tmp_path: Path, server: str
) -> None:
    lengths = []
    for mix in ({}, MIX):
        file = tmp_path / "requests.jsonl"
        files: dict[str, object] = {"--url": server, "--requests": file, "--rate": 40}
        assert run(options | {"--seed": 3} | mix | files).exit_code == 0
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        lengths.append([(r["scheduled_s"], r["input_tokens"], r["output_tokens"]) for r in rows])
    assert lengths[0] == lengths[1]


def test_load_is_a_share_of_what_full_k_can_do(
    options: dict[str, object], tmp_path: Path, server: str
) -> None:
    # Prompts of 20 tokens and outputs of 2 in the mean, at k' 8: 18 + 2 * 0.8 ms, so that two
    # replicas complete about 102 a second; the trace is 1 s long.
    file = tmp_path / "profile.json"
    write_profile(profile(), file)
    arm = summary_of(options | {"--url": server, "--load": 0.5, "--profile": file}, tmp_path)
    assert 40 <= arm["offered"] <= 60


def test_a_load_may_be_named_where_a_trace_stands(
    options: dict[str, object], tmp_path: Path, server: str
) -> None:
    load = "step:base=0,peak=40,before=0.1,step=0.2,after=0,arrivals=constant,prompt=7,output=2"
    requests_file = tmp_path / "requests.jsonl"
    result = run(options | {"--trace": load, "--url": server, "--requests": requests_file})
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in requests_file.read_text().splitlines()]
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(7, 2)] * 8
    scheduled_s = [row["scheduled_s"] for row in rows]
    assert scheduled_s == pytest.approx([0.1 + 0.025 * number for number in range(8)])


def test_the_seed_draws_the_load(options: dict[str, object], tmp_path: Path) -> None:
    texts = []
    for seed in (1, 1, 2):
        file = tmp_path / "schedule.jsonl"
        given = {"--trace": "poisson:rate=5,duration=10", "--seed": seed, "--write-trace": file}
        assert run(options | given).exit_code == 0
        texts.append(file.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_written_schedule_is_the_one_that_would_be_sent(
    options: dict[str, object], tmp_path: Path
) -> None:
    del options["--url"]
    written, again = tmp_path / "schedule.jsonl", tmp_path / "again.jsonl"
    result = run(options | {"--write-trace": written, "--rate": 40, "--seed": 3, "--context": 30})
    assert result.exit_code == 0, result.output
    assert "wrote" in result.stdout and "sent nothing" in result.stdout
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(rows) > 20
    assert {row["input_length"] + row["output_length"] for row in rows} <= {10, 20, 30}
    # Read and written anew, it is the same: nothing is left to scale or to cut.
    result = run(options | {"--trace": written, "--write-trace": again, "--context": 30})
    assert result.exit_code == 0, result.output
    assert again.read_text() == written.read_text()


@pytest.mark.parametrize("option", ["--json", "--requests", "--slo-class"])
def test_a_written_schedule_has_neither_results_nor_classes(
    options: dict[str, object], tmp_path: Path, option: str
) -> None:
    line = refusal(options | {"--write-trace": tmp_path / "a.jsonl", option: tmp_path / "b"})
    expected = f"--write-trace sends nothing, and the file has no classes: leave out {option}"
    assert line == expected
