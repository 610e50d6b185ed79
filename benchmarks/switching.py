"""What it costs to change k' between the tokens of one text.

Teacher-forced on held-out windows: a token's keys, values and logits are made at the k' that its
place in the schedule says, which is what a sequence meets when the controller turns the dial while
it is generated. The cost of a schedule is its NLL less the NLL that the same places have when the
whole window runs at their k': the token-weighted mean of fixed k', place by place. For prefixes the
second half alone is looked at: it runs at one k' over keys and values made at another, as after a
prefill at full k', or from a prefix cache filled under another plan.

    python -m benchmarks.switching --checkpoint checkpoints/prose-52m [--windows 250] [--json F]

Shapes: W windows of S tokens, P = S - 1 places that predict the next token.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import cross_entropy

from runtime.bootstrap import Estimate, Tally
from runtime.checkpoint import Checkpoint, load_checkpoint
from runtime.evaluate import Windows, cut_windows, read_documents

WINDOW_TOKENS = 512
BATCH = 8
BURST_TOKENS, BURST_SHARE = 32, 0.25
SEED = 1


@dataclass(frozen=True)
class Finding:
    """Of one schedule: its mean k', its NLL, and what the switching itself costs."""

    mean_k: float
    nll: float
    cost: Estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="default test.txt of the checkpoint")
    parser.add_argument("--windows", type=int, default=250)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    text = (options.text or options.checkpoint / "test.txt").read_text()
    windows = whole_windows(checkpoint, text, options.windows)
    full = checkpoint.dial.trained_plan[0]
    ks = sorted({1, full // 4, full // 2, full, min(3 * full // 2, checkpoint.dial.max_k)})
    fixed = {k: nats(checkpoint, windows, [k] * WINDOW_TOKENS) for k in track(ks, "fixed k'")}
    mixed = {
        name: finding(checkpoint, windows, fixed, k_S)
        for name, k_S in track(schedules(full).items(), "schedules")
    }
    prefixes = {
        (before, after): finding(checkpoint, windows, fixed, halves(before, after), second_half())
        for before in track(ks, "prefixes")
        for after in ks
        if before != after
    }
    show(fixed, mixed, prefixes, ks)
    if options.json:
        options.json.write_text(json.dumps(as_json(fixed, mixed, prefixes), indent=1) + "\n")


def whole_windows(checkpoint: Checkpoint, text: str, limit: int) -> Windows:
    """Windows of one length, so that every place has all of them; evenly spread over the text."""
    windows = cut_windows(read_documents(checkpoint, text), WINDOW_TOKENS)
    whole = [n for n, ids in enumerate(windows.ids) if len(ids) == WINDOW_TOKENS]
    chosen = [whole[n] for n in np.linspace(0, len(whole) - 1, min(limit, len(whole))).astype(int)]
    return Windows([windows.ids[n] for n in chosen], windows.documents_W[chosen], 0)


def schedules(full: int) -> dict[str, list[int]]:
    """k' of every place, by the name of the schedule."""
    places = np.arange(WINDOW_TOKENS)
    random = np.random.default_rng(SEED)
    in_burst = random.random(WINDOW_TOKENS // BURST_TOKENS) < BURST_SHARE
    named = {}
    for low in (1, full // 4, full // 2):
        for period in (1, 16, 64):
            at_full = places // period % 2 == 0
            named[f"{low} and {full}, {period} tokens each"] = np.where(at_full, full, low)
        bursts = in_burst[places // BURST_TOKENS]
        named[f"{full}, bursts of {BURST_TOKENS} at {low}"] = np.where(bursts, low, full)
        ramp = np.linspace(full + 0.5, low - 0.5, WINDOW_TOKENS).round().clip(low, full)
        named[f"ramp {full} to {low}"] = ramp
        named[f"ramp {low} to {full}"] = ramp[::-1]
    named[f"any of 1..{full}, token by token"] = random.integers(1, full + 1, WINDOW_TOKENS)
    return {name: k_S.astype(int).tolist() for name, k_S in named.items()}


def halves(before: int, after: int) -> list[int]:
    return [before] * (WINDOW_TOKENS // 2) + [after] * (WINDOW_TOKENS // 2)


def second_half() -> slice:
    return slice(WINDOW_TOKENS // 2, WINDOW_TOKENS - 1)


def finding(
    checkpoint: Checkpoint,
    windows: Windows,
    fixed: dict[int, np.ndarray],
    k_S: Sequence[int],
    places: slice = slice(0, WINDOW_TOKENS - 1),
) -> Finding:
    """A schedule against the fixed k' of each of its `places`."""
    for k in set(k_S) - fixed.keys():
        fixed[k] = nats(checkpoint, windows, [k] * WINDOW_TOKENS)
    switched_WP = nats(checkpoint, windows, k_S)[:, places]
    parts_WP = np.stack([fixed[k][:, place] for place, k in enumerate(k_S[:-1])], axis=1)
    cost_WP = switched_WP - parts_WP[:, places]
    counts_W = np.full(len(cost_WP), cost_WP.shape[1])
    cost = Tally(cost_WP.sum(1), counts_W, windows.documents_W).estimate()
    return Finding(float(np.mean(k_S[:-1][places])), float(switched_WP.mean()), cost)


@torch.inference_mode()
def nats(checkpoint: Checkpoint, windows: Windows, k_S: Sequence[int]) -> np.ndarray:
    """NLL of every next token, (W, P), place s of every window run at `k_S[s]`."""
    dial, rows = checkpoint.dial, []
    ks = sorted(set(k_S))
    plans = [[k] * len(dial.layers) for k in ks]
    choice_S = torch.tensor([ks.index(k) for k in k_S])
    before = dial.plan
    for first in range(0, len(windows.ids), BATCH):
        ids_BS = torch.tensor(windows.ids[first : first + BATCH])
        dial.set_by_token(plans, choice_S.repeat(len(ids_BS)))
        logits_BSV = checkpoint.model(ids_BS).logits[:, :-1].float()
        nats_BP = cross_entropy(logits_BSV.transpose(1, 2), ids_BS[:, 1:], reduction="none")
        rows.append(nats_BP.double().numpy())
    dial.set(before)
    return np.concatenate(rows)


def show(
    fixed: dict[int, np.ndarray],
    mixed: dict[str, Finding],
    prefixes: dict[tuple[int, int], Finding],
    ks: list[int],
) -> None:
    table = Table("schedule", "mean k'", "NLL", "cost of switching, nats/token", title="switching")
    for k in ks:
        table.add_row(f"fixed {k}", f"{k}", f"{fixed[k].mean():.4f}", "")
    for name, found in mixed.items():
        table.add_row(name, f"{found.mean_k:.2f}", f"{found.nll:.4f}", f"{found.cost:+.4f}")
    title = "second half at k', nats/token over the whole window at it, by the k' of the first half"
    grid = Table("k'", *(f"after {before}" for before in ks), title=title)
    for after in ks:
        pairs = [prefixes.get((before, after)) for before in ks]
        grid.add_row(f"{after}", *(f"{pair.cost:+.4f}" if pair else "" for pair in pairs))
    Console(width=150).print(table, grid)


def as_json(
    fixed: dict[int, np.ndarray],
    mixed: dict[str, Finding],
    prefixes: dict[tuple[int, int], Finding],
) -> dict[str, object]:
    def row(found: Finding) -> dict[str, float]:
        cost = found.cost
        return {
            "mean_k": found.mean_k,
            "nll": found.nll,
            "cost": cost.mean,
            "cost_low": cost.low,
            "cost_high": cost.high,
        }

    return {
        "fixed": {str(k): float(nats_WP.mean()) for k, nats_WP in sorted(fixed.items())},
        "schedules": {name: row(found) for name, found in mixed.items()},
        "prefixes": {f"{one} then {other}": row(x) for (one, other), x in prefixes.items()},
    }


if __name__ == "__main__":
    main()
