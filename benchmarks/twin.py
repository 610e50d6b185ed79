"""Two checkpoints of one tokenizer on the same held-out windows at every k', paired.

What elastic training costs or gains against a twin with equal training but a fixed k: per k', the
loss of each over its own at the trained k, and the difference between the two. Above the trained k
both renormalise, as when they trained.

    python -m benchmarks.twin --checkpoint D --twin E --text F [--window 512] [--windows 400]
        [--choices 400] [--threads 2] [--json F]
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.elasticity import KS, Tallies, measure
from runtime.bootstrap import Estimate, difference
from runtime.checkpoint import load_checkpoint
from runtime.choices import make_items
from runtime.denominator import AboveK
from runtime.evaluate import cut_windows, read_documents


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
    text = options.text.read_text()
    measured = []
    for folder in (options.checkpoint, options.twin):
        checkpoint = load_checkpoint(folder, AboveK.RENORMALISED)
        documents = read_documents(checkpoint, text)
        windows = cut_windows(documents, options.window, options.windows)
        items = make_items(documents, options.choices) if options.choices else []
        measured.append(measure(checkpoint, windows, items, KS, str(folder)))
    rows = compare(*measured, trained_k=checkpoint.dial.trained_plan[0])
    _show(rows)
    if options.json:
        figures = {k: vars(row) for k, row in rows.items()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(ours: Tallies, twins: Tallies, trained_k: int) -> dict[int, Row]:
    def own(tallies: Tallies, k: int) -> Estimate:
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
            f"{row.own:+.2f}",
            f"{row.twins_own:+.2f}",
            f"{row.nll_difference:+.4f}",
            f"{row.choice_difference:+.3f}" if row.choice_difference else "",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
