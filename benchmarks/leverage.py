"""What k' buys on the serving engine: step time at full k' over step time below, by kind of step.

Takes a checkpoint, or shapes to be filled with random weights (to choose one before training).
Every k' is timed in turn, round after round, so that a drift of the machine touches all alike; the
experts are timed by hooks around their forward in the same steps.

    python -m benchmarks.leverage --checkpoint checkpoints/prose-52m [--threads 1] [--json F]
    python -m benchmarks.leverage --shape 256x4x512 --shape 192x4x640    (hidden x layers x width)
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from runtime.checkpoint import best_dtype, load_checkpoint
from runtime.elastic import ExpertDial
from runtime.step_times import Bench

PREFILL_TOKENS = 512
DECODE_BATCHES = (1, 8, 32)
KINDS = (f"prefill {PREFILL_TOKENS}", *(f"decode {batch}" for batch in DECODE_BATCHES))
SEED = 1


@dataclass(frozen=True)
class Timing:
    """Seconds of one engine step, and of the experts inside it."""

    step_s: float
    experts_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--shape", action="append", default=[], help="hidden x layers x width")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = {}
    for name, model in _models(options.checkpoint, options.shape):
        figures[name] = measure(model, options.rounds)
        _show(name, figures[name])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(model: nn.Module, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds, spread and the experts' share, by kind of step and k'."""
    dial = ExpertDial(model)
    full = dial.trained_plan[0]
    ks = sorted({1, max(1, full // 4), max(1, full // 2), full, min(2 * full, dial.max_k)})
    seen: dict[str, dict[int, list[Timing]]] = {kind: defaultdict(list) for kind in KINDS}
    random = np.random.default_rng(SEED)
    with Bench(model, dial, PREFILL_TOKENS) as bench, _stopwatch(dial) as experts_s:
        for round_ in range(rounds + 1):
            for epoch, k in enumerate(random.permutation(ks)):
                bench.apply(int(k), 1 + round_ * len(ks) + epoch)
                for kind, timings in _round(bench, experts_s, random):
                    if round_:  # the first pays for allocation
                        seen[kind][int(k)] += timings
    return {kind: {str(k): _summary(seen[kind], k, full) for k in ks} for kind in KINDS}


def _round(
    bench: Bench, experts_s: list[float], random: np.random.Generator
) -> Iterator[tuple[str, list[Timing]]]:
    for kind, batch in zip(KINDS, (0, *DECODE_BATCHES), strict=True):
        experts_s.clear()
        prefill = [(PREFILL_TOKENS, 1)]
        steps = bench.decode(batch, random) if batch else bench.run(prefill, random)
        per_step = np.reshape(experts_s, (len(steps), -1)).sum(axis=1)
        wanted = (0, batch) if batch else (PREFILL_TOKENS, 0)
        yield (
            kind,
            [
                Timing(step.duration_s, float(inside))
                for step, inside in zip(steps, per_step, strict=True)
                if (step.prefill_tokens, step.decode_tokens) == wanted
            ],
        )


@contextmanager
def _stopwatch(dial: ExpertDial) -> Iterator[list[float]]:
    """Seconds of every call of any layer's experts, in order."""
    started: list[float] = []
    lasted: list[float] = []
    with ExitStack() as hooks:
        for layer in dial.layers:
            before = layer.experts.register_forward_pre_hook(
                lambda *_: started.append(time.perf_counter())
            )
            after = layer.experts.register_forward_hook(
                lambda *_: lasted.append(time.perf_counter() - started.pop())
            )
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        yield lasted


def _summary(timings: dict[int, list[Timing]], k: int, full: int) -> dict[str, float]:
    step_ms = [1000 * timing.step_s for timing in timings[k]]
    low, high = np.quantile(step_ms, [0.25, 0.75])
    full_ms = 1000 * median(timing.step_s for timing in timings[full])
    return {
        "step_ms": median(step_ms),
        "quartile_low_ms": float(low),
        "quartile_high_ms": float(high),
        "full_over_this": full_ms / median(step_ms),
        "experts_share": median(timing.experts_s / timing.step_s for timing in timings[k]),
        "steps": len(step_ms),
    }


def _models(checkpoint: Path | None, shapes: list[str]) -> Iterator[tuple[str, nn.Module]]:
    if checkpoint:
        yield checkpoint.name, load_checkpoint(checkpoint).model
    for shape in shapes:
        hidden, layers, width = (int(part) for part in shape.split("x"))
        config = Qwen3MoeConfig(
            vocab_size=4096,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 64,
            head_dim=32,
            num_experts=32,
            num_experts_per_tok=8,
            moe_intermediate_size=width,
            norm_topk_prob=True,
            tie_word_embeddings=True,
            max_position_embeddings=2048,
        )
        torch.manual_seed(SEED)
        model = Qwen3MoeForCausalLM(config)
        for parameter in model.parameters():  # a router of zeros would pick the same experts
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)
        yield shape, model.to(best_dtype()).eval()


def _show(name: str, figures: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table("step", "k'", "ms (quartiles)", "full / this", "experts", title=name)
    for kind, rows in figures.items():
        for k, row in rows.items():
            spread = f"{row['quartile_low_ms']:.1f} .. {row['quartile_high_ms']:.1f}"
            table.add_row(
                kind,
                k,
                f"{row['step_ms']:.1f} ({spread})",
                f"{row['full_over_this']:.2f}",
                f"{row['experts_share']:.0%}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
