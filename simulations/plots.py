"""Pictures of a comparison of live arms, drawn with matplotlib. Knows figures only, no server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.results import Record
from simulations.schedule import Requests
from simulations.timeline import Tick

COLOURS = ("#b5483a", "#2a6f97", "#c98b2b", "#5b8c5a", "#7d5a8c")  # the baseline, then ours
BIN_S = 1.0


@dataclass(frozen=True)
class Arm:
    name: str
    records: Sequence[Record]
    ticks: Sequence[Tick]


@dataclass(frozen=True)
class Frame:
    """What all arms of a comparison share."""

    requests: Requests
    duration_s: float
    capacity_full_rps: float
    capacity_floor_rps: float
    ttft_slos_s: Mapping[str, float]  # by what to call them
    full_k: float


def draw(frame: Frame, arms: Sequence[Arm], path: Path) -> None:
    """Load, time to first token, queue and k' over one time axis, all arms in each panel."""
    figure = Figure(figsize=(10, 10), layout="constrained")
    load, ttft, queue, experts = figure.subplots(4, 1, sharex=True)
    _draw_load(load, frame)
    for arm, colour in zip(arms, cycle(COLOURS), strict=False):
        _draw_ttft(ttft, arm, colour)
        times_s = [tick.at_s for tick in arm.ticks]
        waiting = [np.nan if t.waiting_requests is None else t.waiting_requests for t in arm.ticks]
        queue.plot(times_s, waiting, color=colour, label=arm.name)
        experts.step(
            times_s, [t.mean_k for t in arm.ticks], where="post", color=colour, label=arm.name
        )
    for (name, slo_s), style in zip(frame.ttft_slos_s.items(), cycle(("--", ":")), strict=False):
        ttft.axhline(slo_s, color="black", linestyle=style, label=name)
    ttft.set(yscale="log", ylabel="TTFT, s")
    queue.set(ylabel="waiting requests")
    experts.set(ylabel="k' (experts per token)", ylim=(0, frame.full_k + 1))
    experts.set(xlabel="s from the start of the slice", xlim=(0, frame.duration_s))
    for axes in (load, ttft, queue, experts):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right")
    figure.savefig(path, dpi=110)


def _draw_load(axes: Axes, frame: Frame) -> None:
    edges_s = np.arange(0.0, frame.duration_s + BIN_S, BIN_S)
    counts, _ = np.histogram([request.arrival_s for request in frame.requests], edges_s)
    axes.stairs(counts / BIN_S, edges_s, fill=True, color="#8d99ae", label="arrivals")
    axes.axhline(
        frame.capacity_full_rps, color=COLOURS[0], linestyle=":", label="capacity, full k'"
    )
    axes.axhline(
        frame.capacity_floor_rps, color=COLOURS[1], linestyle=":", label="capacity, floor k'"
    )
    axes.set(ylabel="requests/s")


def _draw_ttft(axes: Axes, arm: Arm, colour: str) -> None:
    """What came, and along the bottom what was refused or failed."""
    missed_s = [record.scheduled_s for record in arm.records if not record.completed]
    bottom = axes.get_xaxis_transform()
    axes.scatter(missed_s, [0.02] * len(missed_s), marker="|", color=colour, transform=bottom)
    seen = [(r.scheduled_s, r.ttft_s) for r in arm.records if r.ttft_s is not None]
    axes.scatter(
        [scheduled_s for scheduled_s, _ in seen],
        [ttft_s for _, ttft_s in seen],
        s=9,
        color=colour,
        alpha=0.6,
        label=arm.name,
    )
