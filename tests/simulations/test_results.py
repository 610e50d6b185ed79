"""Literal records in, literal figures out."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from controller.config import SloClass
from simulations.results import Record, read_records, summarise, write_records

SLO = {"default": SloClass(ttft_s=1.0, tpot_s=0.1)}

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
    arm = summarise(ALL, SLO, 4)
    counts = [arm[name] for name in ("offered", "completed", "shed", "failed")]
    assert counts == [6, 4, 1, 1]
    assert arm["attainment"] == pytest.approx(2 / 6)


def test_quality_is_weighted_by_tokens_and_effective_quality_by_offered() -> None:
    arm = summarise(ALL, SLO, 4)
    assert arm["served_quality"] == pytest.approx((10 * 1.0 + 30 * 0.9 + 10 * 0.8 + 0.7) / 51)
    assert arm["effective_quality"] == pytest.approx((1.0 + 0.7) / 6)
    assert arm["served_quality_p5"] == pytest.approx(0.715)
    assert arm["worst_minute_quality"] == pytest.approx(0.7)
    assert arm["mean_k"] == pytest.approx((10 * 4 + 30 * 2 + 10 * 1 + 4) / 51)


def test_latencies_are_those_of_completed_requests() -> None:
    arm = summarise(ALL, SLO, 4)
    assert arm["ttft_p50_s"] == pytest.approx(0.5)
    assert arm["ttft_p95_s"] == pytest.approx(2.625)
    assert arm["ttft_p99_s"] == pytest.approx(2.925)
    assert arm["tpot_p50_s"] == pytest.approx(0.05)
    assert arm["tpot_p95_s"] == pytest.approx(0.185)
    assert arm["tpot_p99_s"] == pytest.approx(0.197)
    assert arm["lateness_p99_s"] == pytest.approx(0.001)


def test_windows_count_where_a_request_was_due_and_violate_on_any_miss() -> None:
    # Due: [0, 2) good and late, [4, 6) slow, [60, 62) short and shed, [70, 72) broken.
    arm = summarise(ALL, SLO, 4)
    assert (arm["violating_windows_2s"], arm["windows_2s"]) == (4, 4)
    arm = summarise([GOOD, SLOW, SHORT], SLO, 4)
    assert (arm["violating_windows_2s"], arm["windows_2s"]) == (1, 3)


def test_objectives_are_met_at_their_bound() -> None:
    for ttft_s, tpot_s, attainment in [(0.5, 0.05, 1), (0.499, 0.05, 0), (0.5, 0.049, 0)]:
        slo_classes = {"default": SloClass(ttft_s=ttft_s, tpot_s=tpot_s)}
        assert summarise([GOOD], slo_classes, 4)["attainment"] == attainment


def test_quality_of_a_foreign_server_is_unknown() -> None:
    foreign = [replace(record, quality=None, mean_k=None, epoch=None) for record in ALL]
    arm = summarise(foreign, SLO)
    for name in ("served_quality", "effective_quality", "served_quality_p5", "mean_k"):
        assert arm[name] is None
    assert arm["worst_minute_quality"] is None
    assert arm["attainment"] == pytest.approx(2 / 6)
    assert summarise(foreign, SLO, full_k=4)["mean_k"] == 4


def test_one_unknown_quality_makes_the_mean_unknown() -> None:
    arm = summarise([GOOD, replace(GOOD, quality=None)], SLO, 4)
    assert arm["served_quality"] is None
    assert arm["effective_quality"] is None


def test_nothing_completed_is_worth_nothing() -> None:
    arm = summarise([SHED, BROKEN], SLO, 4)
    assert (arm["attainment"], arm["effective_quality"]) == (0, 0)
    assert (arm["served_quality"], arm["ttft_p50_s"], arm["mean_k"]) == (None, None, None)


def test_no_records_tell_nothing() -> None:
    arm = summarise([], SLO, 4)
    assert (arm["offered"], arm["attainment"], arm["effective_quality"]) == (0, None, None)


def test_records_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, ALL)
    assert read_records(path) == ALL
    assert len(path.read_text(encoding="utf-8").splitlines()) == 6


def test_records_of_before_there_were_classes_come_back_without_one(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    later = {"slo_class", "retry_after_s", "took_s"}
    row = {name: value for name, value in asdict(GOOD).items() if name not in later}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert read_records(path) == [GOOD]


CLASSES = {
    "default": SloClass(ttft_s=1.0, tpot_s=0.1),
    "premium": SloClass(ttft_s=0.4, tpot_s=0.1),
    "batch": SloClass(ttft_s=10.0, tpot_s=1.0),
    "idle": SloClass(ttft_s=1.0, tpot_s=1.0),
}


def test_each_request_is_held_to_the_objectives_of_its_own_class_in_the_total_too() -> None:
    late_for_premium = replace(GOOD, slo_class="premium")
    in_time_for_batch = [replace(record, slo_class="batch") for record in (LATE, SLOW)]
    arm = summarise([GOOD, late_for_premium, *in_time_for_batch], CLASSES)
    assert arm["attainment"] == pytest.approx(3 / 4)
    assert {name: own["attainment"] for name, own in arm["classes"].items()} == {
        "default": 1,
        "premium": 0,
        "batch": 1,
    }
    assert (arm["violating_windows_2s"], arm["windows_2s"]) == (1, 2)


def test_a_class_has_the_fields_of_the_whole() -> None:
    arm = summarise(ALL, CLASSES, 4)
    (default,) = arm["classes"].values()
    assert {"classes": {"default": default}, **default} == arm


def test_a_class_without_objectives_is_no_class() -> None:
    with pytest.raises(KeyError, match="gold"):
        summarise([replace(GOOD, slo_class="gold")], CLASSES)


def test_refusals_tell_how_long_to_wait() -> None:
    waits_s = (1.0, 2.0, 9.0, None)
    arm = summarise([GOOD, *(replace(SHED, retry_after_s=wait_s) for wait_s in waits_s)], SLO)
    assert (arm["shed"], arm["shed_with_retry_after"]) == (4, 3)
    assert (arm["retry_after_p50_s"], arm["retry_after_max_s"]) == (2.0, 9.0)
    arm = summarise([GOOD, SHED], SLO)
    assert (arm["shed_with_retry_after"], arm["retry_after_p50_s"]) == (0, None)


def test_the_longest_answer_counts_whatever_became_of_it() -> None:
    assert summarise([replace(GOOD, took_s=0.9), replace(SHED, took_s=3.0)], SLO)["longest_s"] == 3
    assert summarise([GOOD], SLO)["longest_s"] is None
