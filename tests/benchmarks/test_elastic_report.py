"""Floors and proportions of the experts' times are arithmetic on what was measured."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.elastic_report import OURS, floor_ms, plot, proportional_ms, tables
from benchmarks.kinds import KINDS, Kind


def row(k: int) -> dict[str, float]:
    return {
        "step_ms": 10.0 + k,
        "quartile_low_ms": 9.0 + k,
        "quartile_high_ms": 12.0 + k,
        "experts_ms": 1.0 + k,
        "distinct_experts": 4.0 * k,
        "slots": 8.0 * k,
    }


@pytest.fixture
def figures() -> dict[str, Any]:
    ours = {kind.name: {str(k): row(k) for k in (1, 2, 4)} for kind in KINDS}
    other = {kind.name: {str(k): row(k) for k in (1, 2)} for kind in KINDS}
    return {
        "model": "tiny",
        "dtype": "bfloat16",
        "threads": 2,
        "full_k": 4,
        "limits": {"read_gb_s": 20.0, "matmul_gflop_s": 400.0},
        "expert_bytes": 1_000_000,
        "expert_flop": 1_000_000,
        "arms": {OURS: ours, "another": other},
        "overheads": {"telemetry_us": 6.0, "setter_us": 20.0},
    }


def test_decode_cannot_be_faster_than_memory_and_prefill_than_the_multipliers(
    figures: dict[str, Any],
) -> None:
    assert floor_ms(figures, Kind(decode=8), row(4)) == pytest.approx(16 * 1e6 / 20e9 * 1e3)
    assert floor_ms(figures, Kind(prefill=512), row(4)) == pytest.approx(32 * 1e6 / 400e9 * 1e3)


def test_the_proportional_time_is_that_at_full_k_by_the_work_that_is_left(
    figures: dict[str, Any],
) -> None:
    assert proportional_ms(figures, Kind(decode=8), row(1)) == pytest.approx(5.0 * 4 / 16)
    assert proportional_ms(figures, Kind(prefill=512), row(2)) == pytest.approx(5.0 * 16 / 32)


def test_tables_say_how_many_times_ours_another_takes_and_what_was_not_timed(
    figures: dict[str, Any],
) -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    for table in tables(figures):
        console.print(table)
    text = console.export_text()
    assert "11.0 (1.00)" in text
    assert "not timed" in text


def test_the_plot_is_drawn(figures: dict[str, Any], tmp_path: Path) -> None:
    plot(figures, tmp_path / "elastic.png")
    assert (tmp_path / "elastic.png").stat().st_size > 10_000
