"""One seed of a study over time, a line for each arm: load, misses, queue, latencies, k' by layer.

Takes outcomes of one schedule. Many requests are shown by windows: the share that missed, median
and 95th percentile of latencies.

Letters: W windows, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from controller.config import SloClass
from simulations.rates import FloatArray, full_rate, rung_rates
from simulations.schedule import Requests, mean_lengths
from simulations.simulate import Outcome
from simulations.study import Scenario
from simulations.study_plots import BOUND, FULL

WINDOWS_S = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
MOST_WINDOWS = 150
MOST_DOTS = 400  # requests that are drawn one by one
MINUTES_FROM_S = 300.0
ARRIVALS = "#c3cad4"


@dataclass(frozen=True)
class Line:
    """An arm, in all panels."""

    arm: str
    outcome: Outcome
    colour: str


@dataclass(frozen=True)
class _Time:
    """The axis of all panels."""

    window_s: float
    num_windows: int
    unit: str
    unit_s: float

    @property
    def edges(self) -> FloatArray:
        """In units, (W + 1,)."""
        return np.arange(self.num_windows + 1.0) * (self.window_s / self.unit_s)

    @property
    def middles(self) -> FloatArray:
        return self.edges[:-1] + self.window_s / self.unit_s / 2

    def parts(self, at_s: Sequence[float], values: Sequence[float]) -> list[FloatArray]:
        """The values by window; what is after the last is left out."""
        order_N = np.argsort(at_s, kind="stable")
        edges_s = np.arange(self.num_windows + 1) * self.window_s
        limits = np.searchsorted(np.array(at_s)[order_N], edges_s)
        return np.split(np.array(values, dtype=np.float64)[order_N], limits)[1:-1]


def draw_timelines(scenario: Scenario, seed: int, lines: Sequence[Line], path: Path) -> None:
    """Of the first line, k' is shown by layer."""
    requests, slo_classes = scenario.schedules[seed], scenario.slo_policy.slo_classes
    time = _time(requests[-1].arrival_s)
    figure = Figure(figsize=(13, 13), dpi=110, layout="constrained")
    load, missed, queue, ttft, tpot, experts = figure.subplots(
        6, 1, sharex=True, height_ratios=(4, 3, 3, 4, 4, 3)
    )
    _draw_load(load, time, scenario, requests, lines[0].outcome)
    for line in reversed(lines):  # the first on top
        _draw_missed(missed, time, line, slo_classes)
        _draw_queue(queue, time, line)
    _draw_latency(ttft, time, lines, slo_classes, "ttft_s")
    _draw_latency(tpot, time, lines, slo_classes, "tpot_s")
    _draw_experts(experts, time, lines[0])
    for axes in (load, missed, queue, ttft, tpot):
        axes.grid(alpha=0.25)
        axes.set_ylim(bottom=0)
    experts.set(xlabel=f"{time.unit} from the start, in windows of {time.window_s:g} s")
    experts.set_xlim(0, max(requests[-1].arrival_s, time.window_s) / time.unit_s)
    handles, names = missed.get_legend_handles_labels()
    figure.legend(
        handles[::-1], names[::-1], loc="outside upper left", ncols=len(lines), frameon=False
    )
    figure.savefig(path)


def _time(last_s: float) -> _Time:
    fitting = (each for each in WINDOWS_S if last_s <= each * MOST_WINDOWS)
    window_s = next(fitting, WINDOWS_S[-1])
    unit, unit_s = ("min", 60.0) if last_s > MINUTES_FROM_S else ("s", 1.0)
    return _Time(window_s, int(last_s // window_s) + 1, unit, unit_s)


def _draw_load(
    axes: Axes, time: _Time, scenario: Scenario, requests: Requests, outcome: Outcome
) -> None:
    at_s = [request.arrival_s for request in requests]
    arrivals_W = np.array([len(part) for part in time.parts(at_s, at_s)]) / time.window_s
    axes.stairs(arrivals_W, time.edges, fill=True, color=ARRIVALS, label="arrivals")
    experts, profile = scenario.slo_policy.experts, scenario.profile
    floor = profile.rungs.index(profile.within(experts.floor, experts.ceiling)[0])
    lengths = mean_lengths(requests)
    # By the replicas there were: they may be lost, or their number may follow the load.
    shown = [(at_s / time.unit_s, replicas) for at_s, replicas in outcome.replicas]
    shown = [each for each in shown if each[0] <= time.edges[-1]]
    since, replicas = np.array([*shown, (time.edges[-1], shown[-1][1])]).T
    floor_rps = rung_rates(profile, *lengths, 1, experts.prefill_ceiling)[floor]
    full_rps = full_rate(profile, *lengths, 1, experts.prefill_ceiling)
    for name, rate_rps, colour in (
        ("full k'", full_rps, FULL),
        (f"k' {profile.rungs[floor].mean_k:g}", floor_rps, BOUND),
    ):
        axes.step(
            since,
            rate_rps * replicas,
            where="post",
            color=colour,
            linestyle="--",
            label=f"capacity at {name}",
        )
    axes.set_ylabel("requests/s")
    axes.margins(y=0.25)  # of which the legend takes a part
    _legend(axes)


def _draw_missed(axes: Axes, time: _Time, line: Line, slos: Mapping[str, SloClass]) -> None:
    records = line.outcome.records
    missed = [not record.met(slos[record.judged_as]) for record in records]
    parts = time.parts([record.scheduled_s for record in records], missed)
    share_W = [part.mean() if part.size else np.nan for part in parts]
    axes.stairs(share_W, time.edges, color=line.colour, linewidth=1.4, label=line.arm)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("missed, of those due")


def _draw_queue(axes: Axes, time: _Time, line: Line) -> None:
    """The longest of each window."""
    known = [tick for tick in line.outcome.ticks if tick.waiting_requests is not None]
    waiting = [float(tick.waiting_requests or 0) for tick in known]
    parts = time.parts([tick.at_s for tick in known], waiting)
    longest_W = [part.max() if part.size else np.nan for part in parts]
    axes.stairs(longest_W, time.edges, color=line.colour, linewidth=1.4)
    axes.set_ylabel("longest queue")


def _draw_latency(
    axes: Axes, time: _Time, lines: Sequence[Line], slos: Mapping[str, SloClass], field: str
) -> None:
    """In seconds, or as a share of the objective where classes have different ones."""
    records = lines[0].outcome.records
    objectives = {name: getattr(slos[name], field) for name in {r.judged_as for r in records}}
    one = len(set(objectives.values())) == 1
    name = field.removesuffix("_s").upper()
    for line in reversed(lines):
        seen = [record for record in line.outcome.records if getattr(record, field) is not None]
        at_s = [record.scheduled_s for record in seen]
        values = [getattr(r, field) / (1.0 if one else objectives[r.judged_as]) for r in seen]
        if len(records) <= MOST_DOTS:
            at = np.array(at_s) / time.unit_s
            axes.scatter(at, values, s=10, color=line.colour, alpha=0.7, linewidths=0)
            continue
        parts = time.parts(at_s, values)
        p50_W, p95_W = (
            np.array([np.percentile(part, rank) if part.size else np.nan for part in parts])
            for rank in (50, 95)
        )
        axes.fill_between(time.middles, p50_W, p95_W, color=line.colour, alpha=0.15, linewidth=0)
        axes.plot(time.middles, p95_W, color=line.colour, linewidth=1.4)
    slo = next(iter(objectives.values())) if one else 1.0
    axes.axhline(slo, color="black", linestyle=":", label="objective")
    shown = "" if len(records) <= MOST_DOTS else "\np50 to p95"
    axes.set_ylabel(f"{name}{', s' if one else ' / objective'}{shown}")
    _legend(axes)


def _draw_experts(axes: Axes, time: _Time, line: Line) -> None:
    """Mean k' of each layer and window, of requests that name no class."""
    ticks, plans = line.outcome.ticks, line.outcome.plans
    at_s = [tick.at_s for tick in ticks]
    k_NL = np.array([plans[tick.epoch].k for tick in ticks])
    k_LW = np.array(
        [[part.mean() if part.size else np.nan for part in time.parts(at_s, k_N)] for k_N in k_NL.T]
    )
    layers, most = np.arange(len(k_LW) + 1) - 0.5, max(2, k_NL.max())
    mesh = axes.pcolormesh(time.edges, layers, k_LW, cmap="viridis", vmin=1, vmax=most)
    axes.set_ylabel("MoE layer")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    # Beside the axes and not out of them, or their time would not be that of the others.
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.01, 0.0, 0.012, 1.0)))
    bar.set_label(f"k' of {line.arm}")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper right", ncols=3, framealpha=0.8, fontsize=9)
