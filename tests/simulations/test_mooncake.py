"""What is written is read back as the same schedule, and has the blocks other tools insist on."""

import json
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.mooncake import write_mooncake
from simulations.traces import Request, read_trace

REQUEST = st.builds(Request, st.floats(0, 1000), st.integers(1, 5000), st.integers(1, 5000))
REQUESTS = st.lists(REQUEST, min_size=1, max_size=20).map(
    lambda requests: tuple(sorted(requests, key=lambda request: request.arrival_s))
)


def test_lines_are_those_of_mooncake(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    write_mooncake(path, (Request(2.5, 512, 6, "gold"), Request(4.0004, 513, 1)))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"timestamp": 0, "input_length": 512, "output_length": 6, "hash_ids": [0]},
        {"timestamp": 1500, "input_length": 513, "output_length": 1, "hash_ids": [1, 2]},
    ]


@given(REQUESTS)
def test_reading_back_gives_the_same_schedule_to_the_millisecond(
    tmp_path_factory: pytest.TempPathFactory, requests: tuple[Request, ...]
) -> None:
    path = tmp_path_factory.mktemp("mooncake") / "schedule.jsonl"
    write_mooncake(path, requests)
    read = read_trace(path)
    assert read.dropped == {}
    for before, after in zip(requests, read.requests, strict=True):
        assert abs(before.arrival_s - requests[0].arrival_s - after.arrival_s) <= 0.0005 + 1e-9
        assert (after.input_tokens, after.output_tokens) == (
            before.input_tokens,
            before.output_tokens,
        )
    again = path.with_name("again.jsonl")
    write_mooncake(again, read.requests)
    assert again.read_text() == path.read_text()


@given(REQUESTS)
def test_no_prefix_is_shared_and_every_block_is_there(
    tmp_path_factory: pytest.TempPathFactory, requests: tuple[Request, ...]
) -> None:
    path = tmp_path_factory.mktemp("mooncake") / "schedule.jsonl"
    write_mooncake(path, requests)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(len(row["hash_ids"]) == ceil(row["input_length"] / 512) for row in rows)
    ids = [block for row in rows for block in row["hash_ids"]]
    assert len(set(ids)) == len(ids)
