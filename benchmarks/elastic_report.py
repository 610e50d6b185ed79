"""Tables and a plot of what `benchmarks.elastic` measured."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from rich.table import Table

from benchmarks.kinds import KINDS, Kind
from runtime.experts import Backend

Figures = dict[str, Any]
OURS = f"kprime, {Backend.NATIVE} experts"


def floor_ms(figures: Figures, kind: Kind, row: dict[str, float]) -> float:
    """What the experts that ran take at least: their bytes in decode, their products in prefill."""
    limits = figures["limits"]
    if kind.decode:
        return row["distinct_experts"] * figures["expert_bytes"] / limits["read_gb_s"] / 1e6
    return row["slots"] * figures["expert_flop"] / limits["matmul_gflop_s"] / 1e6


def proportional_ms(figures: Figures, kind: Kind, row: dict[str, float]) -> float:
    """The experts' time at full k', by the share of its work that is left."""
    full = figures["arms"][OURS][kind.name][str(figures["full_k"])]
    work = "distinct_experts" if kind.decode else "slots"
    return full["experts_ms"] * row[work] / full[work]


def tables(figures: Figures) -> list[Table]:
    shown = [_steps(figures, kind) for kind in KINDS]
    shown.append(_experts(figures))
    overheads = figures["overheads"]
    last = Table(title="overheads of a step, us")
    for name in overheads:
        last.add_column(name.removesuffix("_us"))
    last.add_row(*(f"{value:.0f}" for value in overheads.values()))
    return [*shown, last]


def _steps(figures: Figures, kind: Kind) -> Table:
    arms = figures["arms"]
    ks = list(arms[OURS][kind.name])
    title = f"{figures['model']}, {figures['dtype']}, {kind.name}: ms a step (times of kprime's)"
    table = Table("k'", *ks, title=title)
    for arm, kinds in arms.items():
        cells = []
        for k in ks:
            row, ours = kinds[kind.name].get(k), arms[OURS][kind.name][k]
            ratio = f" ({row['step_ms'] / ours['step_ms']:.2f})" if row and arm != OURS else ""
            cells.append(f"{row['step_ms']:.1f}{ratio}" if row else "not timed")
        table.add_row(arm, *cells)
    full = arms[OURS][kind.name][str(figures["full_k"])]["step_ms"]
    gains = [f"{full / arms[OURS][kind.name][k]['step_ms']:.2f}" for k in ks]
    table.add_row("full k' over this k', kprime", *gains)
    return table


def _experts(figures: Figures) -> Table:
    limits = figures["limits"]
    title = (
        f"kprime's experts, ms a step; floors at {limits['read_gb_s']:.1f} GB/s and "
        f"{limits['matmul_gflop_s']:.0f} GFLOP/s"
    )
    columns = ("step", "k'", "distinct experts", "experts", "over the floor", "over proportional")
    table = Table(*columns, "of the step", title=title)
    for kind in KINDS:
        for k, row in figures["arms"][OURS][kind.name].items():
            table.add_row(
                kind.name,
                k,
                f"{row['distinct_experts']:.0f}",
                f"{row['experts_ms']:.2f}",
                f"{row['experts_ms'] / floor_ms(figures, kind, row):.2f}",
                f"{row['experts_ms'] / proportional_ms(figures, kind, row):.2f}",
                f"{row['experts_ms'] / row['step_ms']:.0%}",
            )
    return table


def plot(figures: Figures, path: Path) -> None:
    """Above, a step of every arm; below, kprime's experts against what bounds them."""
    figure, axes = pyplot.subplots(2, len(KINDS), figsize=(16, 8), sharex=True)
    for column, kind in enumerate(KINDS):
        _plot_steps(axes[0, column], figures, kind)
        _plot_experts(axes[1, column], figures, kind)
    axes[0, 0].set_ylabel("step, ms")
    axes[1, 0].set_ylabel("experts of a step, ms")
    for row in axes:
        row[0].legend(fontsize=8)
    figure.suptitle(
        f"{figures['model']}, {figures['dtype']}, {figures['threads']} threads: medians, quartiles"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plot_steps(axes: Axes, figures: Figures, kind: Kind) -> None:
    for arm, kinds in figures["arms"].items():
        rows = kinds[kind.name]
        ks = [int(k) for k in rows]
        middle = [row["step_ms"] for row in rows.values()]
        below = [row["step_ms"] - row["quartile_low_ms"] for row in rows.values()]
        above = [row["quartile_high_ms"] - row["step_ms"] for row in rows.values()]
        width = 2.5 if arm == OURS else 1.2
        axes.errorbar(ks, middle, (below, above), label=arm, marker="o", ms=3, lw=width)
    axes.set_title(kind.name)
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")


def _plot_experts(axes: Axes, figures: Figures, kind: Kind) -> None:
    rows = figures["arms"][OURS][kind.name]
    ks = [int(k) for k in rows]
    axes.plot(ks, [row["experts_ms"] for row in rows.values()], "o-", lw=2.5, label="measured")
    proportional = [proportional_ms(figures, kind, row) for row in rows.values()]
    axes.plot(ks, proportional, ":", label="in proportion to the work at full k'")
    floor = [floor_ms(figures, kind, row) for row in rows.values()]
    axes.plot(ks, floor, "--", color="grey", label="memory's or the multipliers' limit")
    axes.set_xlabel("k'")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
