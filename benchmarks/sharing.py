"""A cap on the distinct experts of a decode step against a smaller k': quality at equal step time.

Quality: windows of held-out text are decoded together, so many at a time; their first half is
prefilled at the trained k, then every step is fed the text's next tokens. Step time: the same plans
on kprime's engine, in turn, round after round.

    python -m benchmarks.sharing --checkpoint checkpoints/prose-52m [--batch 8] [--json F]

Shapes: W windows, B of them in a batch, S tokens of a window.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from benchmarks.switching import whole_windows
from runtime.bootstrap import Estimate, Tally, difference
from runtime.checkpoint import Checkpoint, load_checkpoint
from runtime.evaluate import Windows
from runtime.step_times import Bench

PREFILLED, DECODED = 256, 128  # tokens of a window
MAX_BATCH_TOKENS = 512
SEED = 1


@dataclass(frozen=True)
class Setting:
    """k' and, maybe, a cap on the distinct experts of each layer."""

    k: int
    cap: int | None = None

    def __str__(self) -> str:
        return f"k' = {self.k}" + (f", cap {self.cap}" if self.cap else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="default test.txt of the checkpoint")
    parser.add_argument("--batch", type=int, action="append", help="default 8 and 32")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    text = (options.text or options.checkpoint / "test.txt").read_text()
    windows = whole_windows(checkpoint, text, options.windows)
    full, num_experts = checkpoint.dial.trained_plan[0], checkpoint.dial.layers[0].num_experts
    settings = [Setting(k) for k in (full, 3 * full // 4, full // 2, 3 * full // 8, full // 4, 1)]
    settings += [Setting(full, num_experts * eighths // 8) for eighths in (6, 5, 4, 3, 2)]
    figures = {}
    for batch in options.batch or [8, 32]:
        step_ms = time_steps(checkpoint, settings, batch, options.rounds)
        found = {
            s: decode(checkpoint, windows, s, batch) for s in track(settings, f"batch {batch}")
        }
        figures[batch] = rows(settings, found, step_ms)
        show(batch, figures[batch])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


@torch.inference_mode()
def decode(
    checkpoint: Checkpoint, windows: Windows, setting: Setting, batch: int
) -> tuple[Tally, float]:
    """NLL of the decoded tokens by window, and the distinct experts of a step and layer."""
    dial, nats_W, distinct = checkpoint.dial, [], []
    num_layers = len(dial.layers)
    caps = [setting.cap] * num_layers if setting.cap else None
    whole = len(windows.ids) // batch * batch
    for first in range(0, whole, batch):
        ids_BS = torch.tensor(windows.ids[first : first + batch])
        dial.set(dial.trained_plan)
        cache = DynamicCache(config=checkpoint.model.config)
        checkpoint.model(ids_BS[:, :PREFILLED], past_key_values=cache)
        dial.set_by_token([[setting.k] * num_layers], torch.zeros(batch, dtype=torch.long), caps)
        nats_B = torch.zeros(batch, dtype=torch.float64)
        for place in range(PREFILLED, PREFILLED + DECODED):
            dial.load_LE.zero_()
            logits_BV = checkpoint.model(ids_BS[:, place, None], past_key_values=cache).logits[:, 0]
            nats_B += cross_entropy(logits_BV.float(), ids_BS[:, place + 1], reduction="none")
            distinct.append(float((dial.load_LE > 0).sum(1).float().mean()))
        nats_W += nats_B.tolist()
    dial.set(dial.trained_plan)
    counts_W = np.full(whole, DECODED)
    return Tally(np.array(nats_W), counts_W, windows.documents_W[:whole]), float(np.mean(distinct))


def time_steps(
    checkpoint: Checkpoint, settings: Sequence[Setting], batch: int, rounds: int
) -> dict[Setting, float]:
    """Median milliseconds of a decode step on the engine; prompts are random."""
    random, seen = np.random.default_rng(SEED), defaultdict(list)
    with Bench(checkpoint.model, checkpoint.dial, MAX_BATCH_TOKENS) as bench:
        for round_ in track(range(rounds + 1), f"steps of batch {batch}"):
            for number in random.permutation(len(settings)).tolist():
                setting = settings[number]
                bench.apply(setting.k, 1 + round_ * len(settings) + number, setting.cap)
                steps = bench.decode(batch, random)
                if round_:  # the first pays for allocation
                    seen[setting] += [
                        1000 * step.duration_s for step in steps if step.work.decode_tokens == batch
                    ]
    return {setting: median(seen[setting]) for setting in settings}


def rows(
    settings: Sequence[Setting],
    found: dict[Setting, tuple[Tally, float]],
    step_ms: dict[Setting, float],
) -> dict[str, dict[str, float]]:
    full_nll, _ = found[settings[0]]
    table = {}
    for setting in settings:
        nll, distinct = found[setting]
        cost = difference(nll, full_nll)
        table[str(setting)] = {
            "step_ms": step_ms[setting],
            "distinct_experts": distinct,
            "nll": nll.mean,
            "cost": cost.mean,
            "cost_low": cost.low,
            "cost_high": cost.high,
        }
    return table


def show(batch: int, table: dict[str, dict[str, float]]) -> None:
    title = f"decode batch {batch}: nats/token over the trained k"
    shown = Table("setting", "step, ms", "distinct experts of a layer", "cost", title=title)
    for name, row in table.items():
        cost = Estimate(row["cost"], row["cost_low"], row["cost_high"])
        shown.add_row(
            name, f"{row['step_ms']:.2f}", f"{row['distinct_experts']:.1f}", f"{cost:+.4f}"
        )
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
