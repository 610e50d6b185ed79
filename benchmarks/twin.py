"""Two checkpoints of one tokenizer on the same held-out windows at every k', paired.

What elastic training costs or gains against a twin with equal training but a fixed k: per k', the
loss of each over its own at the trained k, and the difference between the two.

    python -m benchmarks.twin --checkpoint D --twin E --text F [--window 512] [--windows 400]
        [--choices 400] [--threads 2] [--json F]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.elasticity import CHOICE_KS, KS
from runtime.bootstrap import Estimate, Tally, difference
from runtime.checkpoint import load_checkpoint
from runtime.choices import choose, make_items
from runtime.evaluate import cut_windows, evaluate, read_documents
from training.experts import use_fast_experts


@dataclass(frozen=True)
class Row:
    """One k': NLL of the checkpoint; in percent its own loss over that at the trained k, the same
    of the twin; then checkpoint less twin, in nats a token and in share of choices solved.
    """

    nll: Estimate
    own: Estimate
    twins_own: Estimate
    nll_difference: Estimate
    choice_difference: Estimate | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--twin", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--choices", type=int, default=400, help="items; 0 leaves the task out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = (options.window, options.windows, options.choices)
    text = options.text.read_text()
    ours, twins = (measure(each, text, *size) for each in (options.checkpoint, options.twin))
    trained_k = load_checkpoint(options.checkpoint).dial.trained_plan[0]
    rows = compare(ours, twins, trained_k)
    _show(rows)
    if options.json:
        figures = {k: vars(row) for k, row in rows.items()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(
    folder: Path, text: str, window: int, num_windows: int, num_choices: int, ks: Sequence[int] = KS
) -> dict[int, dict[str, Tally]]:
    """NLL by k', and at some k' the choice task if `num_choices` is not 0."""
    checkpoint = load_checkpoint(folder)
    use_fast_experts(checkpoint.model)
    documents = read_documents(checkpoint, text)
    windows = cut_windows(documents, window, num_windows)
    items = make_items(documents, num_choices) if num_choices else []
    tallies: dict[int, dict[str, Tally]] = {}
    for k in track(ks, str(folder)):
        plan = [k] * len(checkpoint.dial.layers)
        tallies[k] = {"nll": evaluate(checkpoint, windows, plan).nll}
        if items and k in CHOICE_KS:
            tallies[k]["choice"] = choose(checkpoint, items, plan)
    return tallies


def compare(
    ours: dict[int, dict[str, Tally]], twins: dict[int, dict[str, Tally]], trained_k: int
) -> dict[int, Row]:
    def own(tallies: dict[int, dict[str, Tally]], k: int) -> Estimate:
        full = tallies[trained_k]["nll"]
        return Estimate(*(100 * e / full.mean for e in difference(tallies[k]["nll"], full)))

    return {
        k: Row(
            nll=ours[k]["nll"].estimate(),
            own=own(ours, k),
            twins_own=own(twins, k),
            nll_difference=difference(ours[k]["nll"], twins[k]["nll"]),
            choice_difference=difference(ours[k]["choice"], twins[k]["choice"])
            if "choice" in ours[k]
            else None,
        )
        for k in ours
    }


def _show(rows: dict[int, Row]) -> None:
    headers = [
        "k'",
        "NLL",
        "over its own full k', %",
        "the twin's",
        "less the twin's NLL",
        "choice",
    ]
    table = Table(*headers)
    for k, row in rows.items():
        table.add_row(
            str(k),
            f"{row.nll.mean:.4f}",
            _cell(row.own, "+.2f"),
            _cell(row.twins_own, "+.2f"),
            _cell(row.nll_difference, "+.4f"),
            _cell(row.choice_difference, "+.3f") if row.choice_difference else "",
        )
    Console(width=140).print(table)


def _cell(estimate: Estimate, style: str) -> str:
    mean, low, high = (format(each, style) for each in estimate)
    return f"{mean} ({low} .. {high})"


if __name__ == "__main__":
    main()
