"""Measures a checkpoint on this machine and writes its profile: quality and cost of every rung."""

import datetime
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
import transformers

from controller.profiles import (
    SCHEMA_VERSION,
    Headroom,
    Machine,
    Profile,
    Rung,
    StepCost,
)
from runtime.checkpoint import Checkpoint, checkpoint_sha256
from runtime.evaluate import Quality, Windows, evaluate, retention
from runtime.step_times import describe, measure

HEADROOM_DECODE_BATCH = 8


def calibrate(
    checkpoint: Checkpoint,
    windows: Windows,
    ks: Sequence[int],
    *,
    max_batch_tokens: int,
    repeats: int,
    threads: int,
    on_progress: Callable[[str], None] = lambda _stage: None,
) -> Profile:
    """Calls `on_progress("quality")` per k' and `on_progress("step time")` per k' and repeat."""
    full_k = checkpoint.dial.trained_plan[0]
    if full_k not in ks:
        raise ValueError(f"the trained k ({full_k}) must be among the measured k': {list(ks)}")
    num_layers = len(checkpoint.dial.layers)
    quality = {}
    for k in sorted(ks):
        quality[k] = evaluate(checkpoint, windows, [k] * num_layers)
        on_progress("quality")
    tables = measure(
        checkpoint,
        sorted(ks),
        max_batch_tokens=max_batch_tokens,
        repeats=repeats,
        on_round=lambda: on_progress("step time"),
    )
    costs = {k: table.fit() for k, table in tables.items()}
    rungs = [_rung(k, num_layers, quality[k], quality[full_k], costs[k]) for k in sorted(ks)]
    rungs = pareto(rungs, full_k)
    return Profile(
        schema_version=SCHEMA_VERSION,
        checkpoint_sha256=checkpoint_sha256(checkpoint.folder),
        engine=f"transformers {transformers.__version__}, torch {torch.__version__}",
        machine=this_machine(checkpoint, threads),
        calibrated=datetime.date.today().isoformat(),
        full_k=full_k,
        max_batch_tokens=max_batch_tokens,
        fit=describe(tables, costs),
        headroom=_headroom(rungs[0].cost, costs[full_k], max_batch_tokens),
        rungs=tuple(rungs),
    )


def pareto(rungs: list[Rung], full_k: int) -> list[Rung]:
    """Drop rungs above full k' that are no better than a cheaper one. Full k' itself stays."""
    kept: list[Rung] = []
    for rung in rungs:
        if rung.mean_k <= full_k or rung.quality > kept[-1].quality:
            kept.append(rung)
    return kept


def write_profile(profile: Profile, path: Path) -> None:
    path.write_text(profile.model_dump_json(indent=2) + "\n")


def this_machine(checkpoint: Checkpoint, threads: int) -> Machine:
    return Machine(
        cpu=_cpu_name(),
        cores=psutil.cpu_count() or 1,
        threads=threads,
        dtype=str(checkpoint.model.dtype).removeprefix("torch."),
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _rung(k: int, num_layers: int, quality: Quality, full: Quality, cost: StepCost) -> Rung:
    kept, low, high = retention(quality, full)
    return Rung(
        plan=(k,) * num_layers,
        mean_k=k,
        nll=quality.nll.mean,
        quality=kept,
        quality_low=low,
        quality_high=high,
        cost=cost,
    )


def _headroom(cheapest: StepCost, full: StepCost, chunk: int) -> Headroom:
    return Headroom(
        decode=full.step_s(0, HEADROOM_DECODE_BATCH) / cheapest.step_s(0, HEADROOM_DECODE_BATCH),
        prefill=full.step_s(chunk, 0) / cheapest.step_s(chunk, 0),
    )
