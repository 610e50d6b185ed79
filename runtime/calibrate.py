"""Measures a checkpoint on this machine and makes its profile: quality and cost of every rung.

In this order: step times of uniform plans and of single layers changed; what each layer loses; the
plans that an exact knapsack makes of both; their quality on other windows; step times of the rungs.
"""

import datetime
from collections.abc import Callable, Sequence
from statistics import median

import torch
import transformers

from controller.profiles import (
    SCHEMA_VERSION,
    Fit,
    Headroom,
    HeadroomAt,
    MethodPlan,
    Profile,
    Sensitivity,
)
from controller.signals import Work
from controller.step_time import REFERENCE_BATCH, StepTime
from runtime.bootstrap import difference
from runtime.candidates import Candidates
from runtime.checkpoint import checkpoint_sha256, skeleton
from runtime.elastic import ExpertDial
from runtime.machine import this_machine
from runtime.measurements import CHOOSING, STEPS, Measurements, Plan
from runtime.rungs import interval, ladder, nll
from runtime.sensitivity import num_layer_runs, num_plans
from runtime.step_fit import Shape, TimedStep, Timings
from runtime.step_times import PROMPT_TOKENS, decode_batches, is_held_out, prefill_sizes
from runtime.ways import correlations, sensitivities

FITTED, RUNGS = "plans to fit", "rungs"
MAX_SINGLE_LAYERS = 4  # that are timed alone at the lowest k', evenly spread


class TooNoisyError(RuntimeError):
    """The machine's noise leaves more open than is accepted; what was timed is dropped."""


def calibrate(
    measured: Measurements, ks: Sequence[int], *, repeats: int, noise_bound: float
) -> Profile:
    """The profile. Full k' is the unmodified model, and always a rung.

    Raises ValueError if the trained k is not among `ks`, TooNoisyError if step times vary so much
    that the model's interval is wider than `noise_bound` to either side.
    """
    checkpoint, max_batch_tokens = measured.checkpoint, measured.max_batch_tokens
    full = checkpoint.dial.trained_plan
    full_k = full[0]
    if full_k not in ks:
        raise ValueError(f"the trained k ({full_k}) must be among the measured k': {list(ks)}")
    uniform = [(k,) * len(full) for k in ks]
    experts = _experts(measured)
    timed = measured.steps(FITTED, [*uniform, *single_layers(full, ks[0])], repeats)
    first = Timings(timed, experts)
    first_fit = first.fit(first.points(lambda shape: not is_held_out(shape, max_batch_tokens)))
    losses = sensitivities(
        checkpoint,
        measured.windows[CHOOSING],
        ks,
        lambda _checkpoint, _windows, plan: measured.quality(CHOOSING, plan),
        measured.on_stage("layers", num_plans(len(full), ks) + num_layer_runs(len(full), ks)),
    )
    chosen = Candidates(first_fit, max_batch_tokens, ks, full_k, losses)
    rungs = ladder(measured, chosen)
    timed += measured.steps(RUNGS, [rung.plan for rung in rungs], repeats)
    timings = Timings(timed, experts)
    fitted = {*uniform, *single_layers(full, ks[0])}

    def held_out(shape: Shape) -> bool:
        return shape.plan not in fitted or is_held_out(shape, max_batch_tokens)

    model = timings.fit(timings.points(lambda shape: not held_out(shape)))
    fit = describe_steps(timings, model, held_out, rungs[0].plan, full, max_batch_tokens)
    if fit.interval > noise_bound:
        measured.ledger.forget(STEPS)
        raise TooNoisyError(
            f"this machine is too noisy to fit: step times are known to +-{fit.interval:.0%} only "
            f"(bound {noise_bound:.0%})"
        )
    return Profile(
        schema_version=SCHEMA_VERSION,
        checkpoint_sha256=checkpoint_sha256(checkpoint.folder),
        engine=f"transformers {transformers.__version__}, torch {torch.__version__}",
        machine=this_machine(checkpoint.model.dtype, measured.threads),
        calibrated=datetime.date.today().isoformat(),
        full_k=full_k,
        max_batch_tokens=max_batch_tokens,
        step_time=model,
        fit=fit,
        headroom=headroom(timed, rungs[0].plan, full, max_batch_tokens),
        sensitivity=_sensitivity(measured, chosen),
        rungs=tuple(rungs),
    )


def single_layers(full: Plan, k: int) -> list[Plan]:
    """Plans with one layer at `k` and the others at full k': a layer's own cost."""
    num = min(len(full), MAX_SINGLE_LAYERS)
    layers = sorted({round(number * (len(full) - 1) / max(1, num - 1)) for number in range(num)})
    return [(*full[:layer], k, *full[layer + 1 :]) for layer in layers]


def describe_steps(
    timings: Timings,
    model: StepTime,
    held_out: Callable[[Shape], bool],
    cheapest: Plan,
    full: Plan,
    max_batch_tokens: int,
) -> Fit:
    """How good the model is; its interval is that of a full step and of a decode batch."""
    batch, context = REFERENCE_BATCH, PROMPT_TOKENS
    works = (
        Work(max_batch_tokens, 0, max_batch_tokens * context, 0),
        Work(0, batch, 0, batch * context),
    )
    references = [(plan, work) for plan in (cheapest, full) for work in works]
    return timings.describe(model, held_out, references)


def headroom(
    timed: Sequence[TimedStep], cheapest: Plan, full: Plan, max_batch_tokens: int
) -> Headroom:
    """Medians of full k' over those of the cheapest rung, steps of prompts or of decoding alone."""

    def at(prefill: int, decode: int) -> HeadroomAt:
        seconds = {
            plan: median(
                each.step.duration_s
                for each in timed
                if each.plan == plan
                and (each.step.work.prefill_tokens, each.step.work.decode_tokens)
                == (prefill, decode)
            )
            for plan in (cheapest, full)
        }
        return HeadroomAt(tokens=prefill + decode, ratio=seconds[full] / seconds[cheapest])

    by_batch = tuple(at(0, batch) for batch in decode_batches(max_batch_tokens))
    by_tokens = tuple(at(size, 0) for size in prefill_sizes(max_batch_tokens))
    return Headroom(
        decode=next(each.ratio for each in by_batch if each.tokens == REFERENCE_BATCH),
        prefill=by_tokens[-1].ratio,
        by_decode_batch=by_batch,
        by_prefill_tokens=by_tokens,
    )


def _experts(measured: Measurements) -> list[tuple[int, float]]:
    """Number and relative size of each layer's experts."""
    layers = ExpertDial(skeleton(measured.checkpoint.folder)).layers
    weights = [sum(p.numel() for p in layer.experts.parameters()) for layer in layers]
    sizes = [each / layer.num_experts for each, layer in zip(weights, layers, strict=True)]
    return [
        (layer.num_experts, size / max(sizes)) for layer, size in zip(layers, sizes, strict=True)
    ]


def _sensitivity(measured: Measurements, chosen: Candidates) -> Sensitivity:
    plans = []
    for k in (k for k in chosen.ks if chosen.ks[0] < k < chosen.full_k):
        for way in chosen.losses:
            plan, uniform = chosen.instead_of(k, way), chosen.uniform(k)
            over = difference(nll(measured, plan), nll(measured, uniform))
            plans.append(
                MethodPlan(method=way, uniform_k=k, plan=plan, over_uniform=interval(over))
            )
    found = correlations(chosen.losses, chosen.full_k)
    return Sensitivity(
        ks=tuple(chosen.ks),
        losses={
            way: tuple(tuple(loss[k] for k in chosen.ks) for loss in by_layer)
            for way, by_layer in chosen.losses.items()
        },
        rank_correlation={pair: each.below for pair, each in found.items()},
        plans=tuple(plans),
    )
