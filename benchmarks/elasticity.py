"""The elasticity table: what k' does to held-out quality, by how the model was trained.

For every seed: the common start, then every recipe of `training/recipes/table/`, then the measures
on one held-out split (settings are chosen on validation, the table is of test). All are kept under
`runs/`, so that a run started again goes on where it stopped. Ends with the tables in Markdown and
a plot.

    python -m benchmarks.elasticity [--seeds 1,2,3] [--only emoe,topk] [--split test] [--threads 2]
        [--plot docs/elasticity.png] [--json F]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from rich.progress import track

from runtime.bootstrap import Tally, difference
from runtime.checkpoint import Checkpoint, load_checkpoint
from runtime.choices import Item, choose, make_items
from runtime.evaluate import Windows, cut_windows, evaluate, read_documents
from training.recipe import load_recipe
from training.train import train

RECIPES = Path("training/recipes/table")
RUNS = Path("runs")
METHODS = ("topk", "mmoe", "emoe", "emoe+mmoe", "distilled")
SPECIALISTS = {2: "topk-2", 4: "topk-4", 16: "topk-16"}  # each measured at its own k alone
BASELINE, FULL_K = "topk", 8
KS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
CHOICE_KS = (1, 2, 4, 8, 16, 24)  # the task is dear
WINDOW_TOKENS, NUM_WINDOWS, NUM_CHOICES = 256, 300, 250

Tallies = dict[int, dict[str, Tally]]  # by k', by measure: nll, accuracy, at some k' choice
Runs = dict[str, list[Tallies]]  # by row of the table, one for every seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument(
        "--only", help=f"recipes, comma-separated, besides {BASELINE}; all if not given"
    )
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    names = options.only.split(",") if options.only else [*METHODS, *SPECIALISTS.values()]
    if BASELINE not in names:
        names.insert(0, BASELINE)
    for seed in seeds:
        _train("base", seed)
        for name in names:
            _train(name, seed)
            _measure_run(name, seed, options.split)
    runs = {name: [_measure_run(name, seed, options.split) for seed in seeds] for name in names}
    print(measure_table(runs, "nll", KS, lower_is_better=True))  # noqa: T201
    print(measure_table(runs, "choice", CHOICE_KS))  # noqa: T201
    print(dial_table(runs))  # noqa: T201
    print(specialist_table(runs))  # noqa: T201
    if options.plot:
        plot({name: pool(tallies) for name, tallies in runs.items()}, options.plot)
    if options.json:
        options.json.write_text(json.dumps(as_json(runs), indent=1) + "\n")


def pool(runs: Sequence[Tallies]) -> Tallies:
    """The runs of all seeds as one."""
    return {
        k: {measure: _add_up([run[k][measure] for run in runs]) for measure in runs[0][k]}
        for k in runs[0]
    }


def _add_up(tallies: Sequence[Tally]) -> Tally:
    """What several counted on the same parts, as one."""
    return Tally(
        sum(tally.sums_P for tally in tallies),
        sum(tally.counts_P for tally in tallies),
        tallies[0].documents_P,
    )


def measure_table(
    runs: Runs, measure: str, ks: Sequence[int], *, lower_is_better: bool = False
) -> str:
    """A measure of the baseline, and each other row's difference to it with its paired interval."""
    methods = [name for name in METHODS if name in runs]
    lines = [f"| {measure}, k' | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for k in ks:
        baseline = [run[k][measure] for run in runs[BASELINE]]
        cells = []
        for name in methods:
            ours = [run[k][measure] for run in runs[name]]
            if name == BASELINE:
                cells.append(f"{_add_up(ours).mean:.4f}")
            else:
                cells.append(_difference(ours, baseline, lower_is_better=lower_is_better))
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def specialist_table(runs: Runs) -> str:
    """Every method's NLL less that of the model trained at that one k', with paired intervals."""
    methods = [name for name in METHODS if name in runs]
    lines = [
        "| nll less the specialist's, k' | its own | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for k, specialist in SPECIALISTS.items():
        if specialist not in runs:
            continue
        its = [run[k]["nll"] for run in runs[specialist]]
        cells = [f"{_add_up(its).mean:.4f}"]
        for name in methods:
            ours = [run[k]["nll"] for run in runs[name]]
            cells.append(_difference(ours, its, lower_is_better=True))
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(ours: Sequence[Tally], theirs: Sequence[Tally], *, lower_is_better: bool) -> str:
    """Bold where ours is better with every seed, and of all together significantly."""
    change = difference(_add_up(ours), _add_up(theirs))
    by_seed = [our.mean - their.mean for our, their in zip(ours, theirs, strict=True)]
    sign = -1 if lower_is_better else 1
    better = all(sign * each > 0 for each in (change.low, change.high, *by_seed))
    return f"**{change:+.4f}**" if better else f"{change:+.4f}"


def dial_table(runs: Runs) -> str:
    """NLL over the method's own at full k', in percent: the mean of the seeds and their range."""
    methods = [name for name in METHODS if name in runs]
    lines = [f"| nll over that at {FULL_K}, %, k' | " + " | ".join(methods) + " |"]
    lines.append("|---" * (len(methods) + 1) + "|")
    for k in KS:
        cells = []
        for name in methods:
            changes = [100 * (r[k]["nll"].mean / r[FULL_K]["nll"].mean - 1) for r in runs[name]]
            cells.append(f"{np.mean(changes):+.2f} ({min(changes):+.2f} .. {max(changes):+.2f})")
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def measure(
    checkpoint: Checkpoint, windows: Windows, items: Sequence[Item], ks: Sequence[int], label: str
) -> Tallies:
    """All measures at every k', behind a progress bar; the choice task where there are items."""
    tallies: Tallies = {}
    for k in track(ks, label):
        plan = [k] * len(checkpoint.dial.layers)
        quality = evaluate(checkpoint, windows, plan)
        tallies[k] = {"nll": quality.nll, "accuracy": quality.accuracy}
        if items and k in CHOICE_KS:
            tallies[k]["choice"] = choose(checkpoint, items, plan)
    return tallies


def as_json(runs: Runs) -> dict[str, object]:
    """By row, k' and measure: the mean with its interval over documents, and every seed's mean."""
    return {
        name: {
            str(k): {
                measure: {
                    **tally.estimate()._asdict(),
                    "by_seed": [run[k][measure].mean for run in tallies],
                }
                for measure, tally in measures.items()
            }
            for k, measures in pool(tallies).items()
        }
        for name, tallies in runs.items()
    }


def plot(results: dict[str, Tallies], file: Path) -> None:
    """Loss over each method's own loss at full k', and the losses themselves."""
    figure, (own, absolute) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in METHODS:
        if name not in results:
            continue
        full = results[name][FULL_K]["nll"]
        changes = [difference(results[name][k]["nll"], full) for k in KS]
        mean, low, high = (100 * np.array(changes).T) / full.mean
        own.plot(KS, mean, marker=".", label=name)
        own.fill_between(KS, low, high, alpha=0.15)
        absolute.plot(KS, [results[name][k]["nll"].mean for k in KS], marker=".", label=name)
    measured = {k: results[name] for k, name in SPECIALISTS.items() if name in results}
    nll = [tallies[k]["nll"].mean for k, tallies in measured.items()]
    absolute.plot([*measured], nll, "k*", label="specialists, at their own k")
    own.set_ylabel("NLL over that at k' = 8, %")
    absolute.set_ylabel("NLL, nats/token")
    for axes in (own, absolute):
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 2, 4, 8, 16, 24], ["1", "2", "4", "8", "16", "24"])
        axes.set_xlabel("k', experts per token")
        axes.axvline(FULL_K, color="grey", linewidth=0.5)
        axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)


def _train(name: str, seed: int) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    recipe = recipe.model_copy(update={"seed": seed, "name": f"{recipe.name}-{seed}"})
    run = RUNS / recipe.name
    if not (run / "checkpoint" / "model.safetensors").exists():
        train(recipe, run, run / "checkpoint")


def _measure_run(name: str, seed: int, split: str) -> Tallies:
    """All measures at every k', from the file of an earlier call if there is one."""
    run = RUNS / f"table-{name}-{seed}"
    ks = [k for k, specialist in SPECIALISTS.items() if specialist == name] or KS
    file = run / f"{split}.npz"
    if not file.exists():
        checkpoint = load_checkpoint(run / "checkpoint")
        documents = read_documents(checkpoint, (run / "checkpoint" / f"{split}.txt").read_text())
        windows = cut_windows(documents, WINDOW_TOKENS, NUM_WINDOWS)
        items = make_items(documents, NUM_CHOICES)
        measured = measure(checkpoint, windows, items, ks, f"{run.name}: {split}")
        arrays = {
            f"{k}/{name}": np.stack([tally.sums_P, tally.counts_P, tally.documents_P])
            for k, tallies in measured.items()
            for name, tally in tallies.items()
        }
        np.savez_compressed(file, **arrays)
    kept: Tallies = {k: {} for k in ks}
    with np.load(file) as arrays:
        for key in arrays:
            k, name = key.split("/")
            kept[int(k)][name] = Tally(*arrays[key])
    return kept


if __name__ == "__main__":
    main()
