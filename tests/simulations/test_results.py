"""Literal records in, literal figures out."""

from dataclasses import replace
from pathlib import Path

import pytest

from simulations.results import Record, read_records, summarise, write_records

GOOD = Record(
    index=0,
    scheduled_s=0.0,
    lateness_s=0.001,
    input_tokens=100,
    output_tokens=10,
    ttft_s=0.5,
    tpot_s=0.05,
    e2e_s=0.95,
    status="completed",
    error=None,
    quality=1.0,
    mean_k=4.0,
    epoch=1,
)
LATE = replace(
    GOOD, index=1, scheduled_s=1.9, ttft_s=3.0, output_tokens=30, quality=0.9, mean_k=2.0
)
SLOW = replace(GOOD, index=2, scheduled_s=4.0, tpot_s=0.2, quality=0.8, mean_k=1.0)
SHORT = replace(GOOD, index=3, scheduled_s=61.0, tpot_s=None, output_tokens=1, quality=0.7)
SHED = replace(
    GOOD,
    index=4,
    scheduled_s=61.5,
    output_tokens=0,
    ttft_s=None,
    tpot_s=None,
    e2e_s=None,
    status="shed",
    error="HTTP 429: later",
    quality=None,
    mean_k=None,
    epoch=None,
)
BROKEN = replace(SHED, index=5, scheduled_s=70.0, status="failed", error="HTTP 500: no")
ALL = [GOOD, LATE, SLOW, SHORT, SHED, BROKEN]


def test_counts_over_all_that_was_offered() -> None:
    arm = summarise(ALL, 1.0, 0.1, 4)
    counts = [arm[name] for name in ("offered", "completed", "shed", "failed")]
    assert counts == [6, 4, 1, 1]
    assert arm["attainment"] == pytest.approx(2 / 6)


def test_quality_is_weighted_by_tokens_and_effective_quality_by_offered() -> None:
    arm = summarise(ALL, 1.0, 0.1, 4)
    assert arm["served_quality"] == pytest.approx((10 * 1.0 + 30 * 0.9 + 10 * 0.8 + 0.7) / 51)
    assert arm["effective_quality"] == pytest.approx((1.0 + 0.7) / 6)
    assert arm["served_quality_p5"] == pytest.approx(0.715)
    assert arm["worst_minute_quality"] == pytest.approx(0.7)
    assert arm["mean_k"] == pytest.approx((10 * 4 + 30 * 2 + 10 * 1 + 4) / 51)


def test_latencies_are_those_of_completed_requests() -> None:
    arm = summarise(ALL, 1.0, 0.1, 4)
    assert arm["ttft_p50_s"] == pytest.approx(0.5)
    assert arm["ttft_p95_s"] == pytest.approx(2.625)
    assert arm["ttft_p99_s"] == pytest.approx(2.925)
    assert arm["tpot_p50_s"] == pytest.approx(0.05)
    assert arm["tpot_p95_s"] == pytest.approx(0.185)
    assert arm["tpot_p99_s"] == pytest.approx(0.197)
    assert arm["lateness_p99_s"] == pytest.approx(0.001)


def test_windows_count_where_a_request_was_due_and_violate_on_any_miss() -> None:
    # Due: [0, 2) good and late, [4, 6) slow, [60, 62) short and shed, [70, 72) broken.
    arm = summarise(ALL, 1.0, 0.1, 4)
    assert (arm["violating_windows_2s"], arm["windows_2s"]) == (4, 4)
    arm = summarise([GOOD, SLOW, SHORT], 1.0, 0.1, 4)
    assert (arm["violating_windows_2s"], arm["windows_2s"]) == (1, 3)


def test_objectives_are_met_at_their_bound() -> None:
    assert summarise([GOOD], 0.5, 0.05, 4)["attainment"] == 1
    assert summarise([GOOD], 0.499, 0.05, 4)["attainment"] == 0
    assert summarise([GOOD], 0.5, 0.049, 4)["attainment"] == 0


def test_quality_of_a_foreign_server_is_unknown() -> None:
    foreign = [replace(record, quality=None, mean_k=None, epoch=None) for record in ALL]
    arm = summarise(foreign, 1.0, 0.1)
    for name in ("served_quality", "effective_quality", "served_quality_p5", "mean_k"):
        assert arm[name] is None
    assert arm["worst_minute_quality"] is None
    assert arm["attainment"] == pytest.approx(2 / 6)
    assert summarise(foreign, 1.0, 0.1, full_k=4)["mean_k"] == 4


def test_one_unknown_quality_makes_the_mean_unknown() -> None:
    arm = summarise([GOOD, replace(GOOD, quality=None)], 1.0, 0.1, 4)
    assert arm["served_quality"] is None
    assert arm["effective_quality"] is None


def test_nothing_completed_is_worth_nothing() -> None:
    arm = summarise([SHED, BROKEN], 1.0, 0.1, 4)
    assert (arm["attainment"], arm["effective_quality"]) == (0, 0)
    assert (arm["served_quality"], arm["ttft_p50_s"], arm["mean_k"]) == (None, None, None)


def test_no_records_tell_nothing() -> None:
    arm = summarise([], 1.0, 0.1, 4)
    assert (arm["offered"], arm["attainment"], arm["effective_quality"]) == (0, None, None)


def test_records_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, ALL)
    assert read_records(path) == ALL
    assert len(path.read_text(encoding="utf-8").splitlines()) == 6
