"""Each published format is read by column name, and bad files say what and where."""

import gzip
import hashlib
from pathlib import Path

import pytest

from simulations.traces import Request, TraceError, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_azure_2023_with_seven_digits(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8"
    trace = read_trace(written(tmp_path, AZURE + rows))
    assert trace.requests == (Request(0.0, 4808, 10), Request(0.052, 3180, 8))
    assert trace.name == "trace"
    assert trace.dropped == {}
    assert trace.sorted_input


def test_reads_azure_2024_with_offset_and_absent_fraction(tmp_path: Path) -> None:
    rows = "2024-05-12 00:00:00+00:00,100,5\n2024-05-12 00:00:00.250000+00:00,200,6\n"
    trace = read_trace(written(tmp_path, AZURE + rows))
    assert trace.requests == (Request(0.0, 100, 5), Request(0.25, 200, 6))


def test_reads_burstgpt_by_name_when_columns_are_inserted(tmp_path: Path) -> None:
    old = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n"
    )
    new = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\n5,,1.5,ChatGPT,472,18,490,API log\n45,7,2.5,GPT-4,1087,230,1317,API log\n"
    )
    expected = (Request(0.0, 472, 18), Request(40.0, 1087, 230))
    assert read_trace(written(tmp_path, old)).requests == expected
    assert read_trace(written(tmp_path, new)).requests == expected


def test_counts_the_failures_of_burstgpt(tmp_path: Path) -> None:
    rows = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,0,472,API log\n6,ChatGPT,0,0,0,API log\n7,GPT-4,10,20,30,API log\n"
    )
    trace = read_trace(written(tmp_path, rows))
    assert trace.requests == (Request(0.0, 10, 20),)
    assert trace.dropped == {"no output tokens": 1, "no input tokens": 1}


def test_reads_mooncake_lines_in_milliseconds(tmp_path: Path) -> None:
    text = (
        '{"timestamp": 1000, "input_length": 40160, "output_length": 6, "hash_ids": [0, 1]}\n\n'
        '{"timestamp": 3500, "input_length": 12, "output_length": 1, "hash_ids": [2]}\n'
    )
    trace = read_trace(written(tmp_path, text, "mooncake.jsonl"))
    assert trace.requests == (Request(0.0, 40160, 6), Request(2.5, 12, 1))


def test_counts_rows_without_tokens_and_starts_at_the_first_kept(tmp_path: Path) -> None:
    rows = (
        "2023-11-16 18:00:00,0,7\n2023-11-16 18:00:10,5,7\n"
        "2023-11-16 18:00:12,5,0\n2023-11-16 18:00:13,0,0\n2023-11-16 18:00:14,6,1\n"
    )
    trace = read_trace(written(tmp_path, AZURE + rows))
    assert trace.requests == (Request(0.0, 5, 7), Request(4.0, 6, 1))
    assert trace.dropped == {"no input tokens": 2, "no output tokens": 1}


def test_keeps_the_hash_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE + "2023-11-16 18:00:00,3,7\n")
    assert read_trace(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["trace.csv.gz", "trace.csv"])
def test_reads_gzip_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = "\ufeff" + AZURE + "2023-11-16 18:00:00,3,7\n2023-11-16 18:00:01,yes,7\n"
    path.write_bytes(gzip.compress(text[: text.rindex("2023")].encode()))
    trace = read_trace(path)
    assert trace.name == "trace"
    assert trace.requests == (Request(0.0, 3, 7),)
    assert trace.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(TraceError, match=rf"{name}:3: column 'ContextTokens': 'yes', expected a"):
        read_trace(path)


@pytest.mark.parametrize("broken", ["cut short", "altered", "no more than a beginning"])
def test_refuses_broken_gzip(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "trace.csv.gz"
    packed = gzip.compress((AZURE + "2023-11-16 18:00:00,3,7\n" * 50).encode())
    path.write_bytes(
        {
            "cut short": packed[:-12],
            "altered": packed[:-8] + bytes(8),
            "no more than a beginning": packed[:2] + b"no gzip at all",
        }[broken]
    )
    with pytest.raises(TraceError, match=r"trace\.csv\.gz: not a text table \(.+\); accepted: "):
        read_trace(path)


def test_ignores_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff" + AZURE + "2023-11-16 18:00:00,3,7\n")
    assert len(read_trace(path).requests) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty; accepted: Azure LLM CSV (TIMESTAMP,"),
        (AZURE, "no requests; accepted:"),
        (AZURE + "2023-11-16 18:00:00,0,7\n", "no requests (1 rows without tokens left out)"),
        ("a,b\n1,2\n", ":1: unknown format with columns a, b; accepted: Azure LLM CSV"),
        (
            "TIMESTAMP,ContextTokens\n2023-11-16 18:00:00,3\n",
            ":1: missing column 'GeneratedTokens'; columns of Azure LLM CSV (TIMESTAMP,",
        ),
        (
            AZURE + "2023-11-16 18:00:00,3,7\nyesterday,3,7\n",
            ":3: column 'TIMESTAMP': 'yesterday', expected a time such as 2023-11-16",
        ),
        (AZURE + "2023-11-16 18:00:00,3.5,7\n", ":2: column 'ContextTokens': '3.5', expected a"),
        (AZURE + "2023-11-16 18:00:00,3,-7\n", ":2: column 'GeneratedTokens': '-7', expected a"),
        (AZURE + "2023-11-16 18:00:00,3\n", ":2: column 'GeneratedTokens': no value, expected"),
        (
            AZURE + "2023-11-16 18:00:02,3,7\n2023-11-16 18:00:00.5,3,7\n",
            ":3: column 'TIMESTAMP': 1.5 s back in time; sort the file",
        ),
        ('{"timestamp": 0, "input_length": 3}\n', ":1: missing column 'output_length'"),
        (
            '{"timestamp": 0, "input_length": 3, "output_length": 4}\n{"timestamp": 1}\n',
            ":2: column 'input_length': no value",
        ),
        ('{"timestamp": NaN, "input_length": 3, "output_length": 4}\n', ":1: column 'timestamp'"),
        ('{"timestamp": 0,\n', ":1: not JSON"),
        ('{"timestamp": 0, "input_length": 3, "output_length": 4}\n[]\n', ":2: not a JSON object"),
    ],
)
def test_names_file_place_and_what_is_accepted(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError) as raised:
        read_trace(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert expected in message
    assert "\n" not in message


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent\.csv: No such file or directory; accepted: "):
        read_trace(tmp_path / "absent.csv")


def test_refuses_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TraceError, match="not a text table"):
        read_trace(path)


@pytest.mark.parametrize(
    ("name", "num_requests", "span_s"), [("code", 8819, 3435.948056), ("conv", 19366, 3501.721937)]
)
def test_reads_the_shipped_traces(name: str, num_requests: int, span_s: float) -> None:
    traces = Path(__file__).parents[2] / "traces"
    trace = read_trace(traces / f"azure_llm_2023_{name}.csv")
    assert len(trace.requests) == num_requests
    assert trace.requests[-1].arrival_s == span_s
    assert trace.dropped == {}
    assert trace.sha256 in (traces / "README.md").read_text(encoding="utf-8")


def test_reads_the_shipped_mooncake_trace() -> None:
    traces = Path(__file__).parents[2] / "traces"
    trace = read_trace(traces / "mooncake_synthetic.jsonl.gz")
    assert trace.name == "mooncake_synthetic"
    assert len(trace.requests) == 3993
    assert trace.requests[0] == Request(0.0, 40160, 6)
    assert trace.requests[-1].arrival_s == 1022.025
    assert trace.dropped == {}
    assert trace.sha256 in (traces / "README.md").read_text(encoding="utf-8")
