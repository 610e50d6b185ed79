"""Measures a checkpoint on this machine and writes its profile: quality and cost of every rung."""

import datetime
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
import transformers

from controller.ladder import best_plans, within
from controller.profiles import (
    SCHEMA_VERSION,
    Headroom,
    Machine,
    OverUniform,
    Profile,
    Rung,
    StepCost,
)
from runtime.bootstrap import Estimate, difference
from runtime.checkpoint import Checkpoint, checkpoint_sha256
from runtime.evaluate import Quality, Windows, evaluate, retention
from runtime.sensitivity import losses_by_layer
from runtime.step_times import describe, measure

HEADROOM_DECODE_BATCH = 8


def calibrate(
    checkpoint: Checkpoint,
    choosing: Windows,
    measuring: Windows,
    ks: Sequence[int],
    *,
    max_batch_tokens: int,
    repeats: int,
    threads: int,
    on_progress: Callable[[str], None] = lambda _stage: None,
) -> Profile:
    """Calls `on_progress` with "layers" per plan, "quality" twice per k', "step time" per rung and
    repeat.

    Plans are chosen on the windows of `choosing` and measured on those of `measuring`. A rung's
    layers differ where that is significantly better than the same k' in each. Full k' is the
    unmodified model.
    """
    full_k = checkpoint.dial.trained_plan[0]
    if full_k not in ks:
        raise ValueError(f"the trained k ({full_k}) must be among the measured k': {list(ks)}")
    plans = candidates(checkpoint, choosing, ks, on_progress)
    quality = {}
    for plan in (plan for pair in plans.values() for plan in pair):
        if plan not in quality:
            quality[plan] = evaluate(checkpoint, measuring, plan)
        on_progress("quality")
    kept = {}  # plan -> over uniform
    for uniform, by_layer in plans.values():
        over = difference(quality[by_layer].nll, quality[uniform].nll)
        kept |= {by_layer: over} if over.high < 0 else {uniform: None}
    tables = measure(
        checkpoint,
        sorted(kept),
        max_batch_tokens=max_batch_tokens,
        repeats=repeats,
        on_round=lambda: on_progress("step time"),
    )
    costs = {plan: table.fit() for plan, table in tables.items()}
    full = checkpoint.dial.trained_plan
    rungs = [_rung(plan, quality[plan], quality[full], costs[plan], kept[plan]) for plan in costs]
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
        headroom=_headroom(rungs[0].cost, costs[full], max_batch_tokens),
        rungs=tuple(rungs),
    )


def candidates(
    checkpoint: Checkpoint,
    windows: Windows,
    ks: Sequence[int],
    on_progress: Callable[[str], None] = lambda _stage: None,
) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """For every k' the uniform plan, and the best of no more experts by layer; at full k' itself.

    Chosen on `windows` by what each layer loses alone.
    """
    full_k, num_layers = checkpoint.dial.trained_plan[0], len(checkpoint.dial.layers)
    losses = losses_by_layer(checkpoint, windows, ks, lambda: on_progress("layers"))
    front = best_plans(losses, [{k: k for k in ks}] * num_layers)
    pairs = {}
    for k in ks:
        uniform = (k,) * num_layers
        chosen = within(front, k * num_layers)
        assert chosen is not None  # the uniform plan at least
        # What runs no more than full k' is no rung above it, and full k' is the model as it is.
        is_rung = k < full_k or chosen.cost > full_k * num_layers
        pairs[k] = uniform, chosen.plan if is_rung else uniform
    return pairs


def pareto(rungs: list[Rung], full_k: int) -> list[Rung]:
    """In order, one of a mean k'; above full k' none that is no better than a cheaper one."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: (rung.mean_k, -rung.quality)):
        if kept and rung.mean_k == kept[-1].mean_k:
            continue
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


def _rung(
    plan: tuple[int, ...],
    quality: Quality,
    full: Quality,
    cost: StepCost,
    over: Estimate | None,
) -> Rung:
    kept, low, high = retention(quality, full)
    return Rung(
        plan=plan,
        mean_k=sum(plan) / len(plan),
        nll=quality.nll.mean,
        quality=kept,
        quality_low=low,
        quality_high=high,
        cost=cost,
        over_uniform=over and OverUniform(mean=over.mean, low=over.low, high=over.high),
    )


def _headroom(cheapest: StepCost, full: StepCost, chunk: int) -> Headroom:
    return Headroom(
        decode=full.step_s(0, HEADROOM_DECODE_BATCH) / cheapest.step_s(0, HEADROOM_DECODE_BATCH),
        prefill=full.step_s(chunk, 0) / cheapest.step_s(chunk, 0),
    )
