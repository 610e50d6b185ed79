"""Who wins a study and why, as a picture: attainment against quality, and what each arm loses.

Takes a study and the arm to look at first; knows no other by name but the yardsticks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from simulations.arms import ORACLE, STATIC_FULL
from simulations.label_places import Label, place
from simulations.rates import FloatArray
from simulations.study import ArmRun, Study
from simulations.study_figures import is_static, known, mean, ranked, worth

MAIN, BEST, FULL = "#2a6f97", "#c98b2b", "#b5483a"
STATIC, OTHER, BOUND = "#7f8b99", "#4d5661", "#1d2733"
MISSED, COARSE = "#b5483a", "#8db4cc"  # what is lost, and to what
NEAR = 3.0  # the large panel is of arms that lose so many times as much as the best, or less
MIN_NEAR = 3  # and of so many at least
FEW = 8  # arms that need less height


@dataclass(frozen=True)
class _Point:
    """An arm: mean over its seeds, and how far they reach to either side."""

    arm: str
    quality: float
    attainment: float
    quality_reach: tuple[float, float]
    attainment_reach: tuple[float, float]


def colour_of(study: Study, main: str, arm: str) -> str:
    """One for each role, in every picture of a study."""
    roles = {ORACLE: BOUND, STATIC_FULL: FULL, study.best_static: BEST, main: MAIN}
    return roles.get(arm, STATIC if is_static(arm) else OTHER)


def draw_pareto(study: Study, main: str, path: Path) -> None:
    """A panel of the best arms, one of what each loses, and a small one of all where some lie
    far off.
    """
    points = _points(study.runs)
    first = (main, ORACLE, study.best_static, STATIC_FULL)  # their names get the best places
    points.sort(key=lambda point: first.index(point.arm) if point.arm in first else len(first))
    best = _best(study, points)
    some_far = len(best) < len(points)
    figure = Figure(figsize=(13, 8 if len(points) > FEW else 6), dpi=130, layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(3, 2))
    close = figure.add_subplot(grid[:, 0])
    _draw_losses(figure.add_subplot(grid[:2, 1] if some_far else grid[:, 1]), study, main)
    _draw_points(close, study, main, points)
    _show_only(close, best)
    close.set(xlabel="served quality (full k' = 1)", ylabel="attainment: met, of all offered")
    close.set_title("Up and to the right is better", loc="left")
    near = [point for point in points if _shows(close, point)]
    named = [(close, near)]
    if some_far:
        whole = figure.add_subplot(grid[2, 1])
        _draw_points(whole, study, main, points)
        _draw_frame(whole, close)
        named.append((whole, [point for point in points if point not in near]))
    figure.draw_without_rendering()  # only then places on the picture are known
    _draw_equal_worth(close)
    for axes, shown in named:
        _name(axes, study, main, points, shown)
    figure.savefig(path)


def _points(runs: Mapping[str, Sequence[ArmRun]]) -> list[_Point]:
    """Of the arms that completed something in every seed."""
    points = []
    for arm, of_arm in runs.items():
        qualities, attainments = known(of_arm, "served_quality"), known(of_arm, "attainment")
        if len(qualities) == len(attainments) == len(of_arm):
            quality, attainment = float(np.mean(qualities)), float(np.mean(attainments))
            points.append(
                _Point(
                    arm,
                    quality,
                    attainment,
                    (quality - min(qualities), max(qualities) - quality),
                    (attainment - min(attainments), max(attainments) - attainment),
                )
            )
    return points


def _best(study: Study, points: Sequence[_Point]) -> list[_Point]:
    """Those that are looked at closely."""
    losses = {point.arm: 1 - worth(study, point.arm) for point in points}
    best = sorted(loss for arm, loss in losses.items() if arm != ORACLE)[:MIN_NEAR]
    most = max(NEAR * best[0], best[-1]) if best else 1.0
    return [point for point in points if losses[point.arm] <= most]


def _draw_points(axes: Axes, study: Study, main: str, points: Sequence[_Point]) -> None:
    axes.plot(*_static_line(study, points).T, color=STATIC, linewidth=1.2, zorder=1)
    for point in points:
        axes.errorbar(
            point.quality,
            point.attainment,
            xerr=[[reach] for reach in point.quality_reach],
            yerr=[[reach] for reach in point.attainment_reach],
            color=colour_of(study, main, point.arm),
            marker=_marker(point.arm),
            markersize={ORACLE: 18.0, main: 13.0}.get(point.arm, 7.0),
            markeredgecolor="white",
            elinewidth=1.2,
            zorder=3 if point.arm == main else 4,  # the largest behind what it would hide
        )
    axes.grid(alpha=0.2)


def _static_line(study: Study, points: Sequence[_Point]) -> FloatArray:
    """(N, 2), of constants by their k'."""
    statics = sorted(
        (point for point in points if is_static(point.arm)),
        key=lambda point: mean(study.runs[point.arm], "mean_k") or 0.0,
    )
    return np.array([(each.quality, each.attainment) for each in statics]).reshape(-1, 2)


def _show_only(axes: Axes, points: Sequence[_Point]) -> None:
    qualities = [p.quality + reach for p in points for reach in _both(p.quality_reach)]
    attainments = [p.attainment + reach for p in points for reach in _both(p.attainment_reach)]
    for values, set_limits in ((qualities, axes.set_xlim), (attainments, axes.set_ylim)):
        low, high = min(values, default=0.0), max(values, default=1.0)
        edge = 0.08 * (high - low) or 0.01
        set_limits(low - edge, high + edge)


def _shows(axes: Axes, point: _Point) -> bool:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return left < point.quality < right and bottom < point.attainment < top


def _both(reach: tuple[float, float]) -> tuple[float, float]:
    return -reach[0], reach[1]


def _draw_frame(axes: Axes, close: Axes) -> None:
    (left, right), (bottom, top) = close.get_xlim(), close.get_ylim()
    frame = Rectangle(
        (left, bottom), right - left, top - bottom, fill=False, color=BOUND, alpha=0.5
    )
    axes.add_patch(frame)
    axes.set_title("All arms; framed: those on the left", loc="left", fontsize=10)
    axes.margins(0.12)
    axes.tick_params(labelsize=8)


def _draw_equal_worth(axes: Axes) -> None:
    """Where attainment times quality, which is all but E, is the same."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_autoscale_on(False)
    left = max(left, 1e-6)  # the margin of a quality near 0 begins below
    qualities = np.linspace(left, right, 100)
    levels = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(left * bottom, min(1.0, right * top))
    for level in levels:
        axes.plot(qualities, level / qualities, color=BOUND, alpha=0.25, linestyle=":", zorder=0)
        at = max(left, level / top)
        if bottom < level / at and at < right:
            axes.annotate(
                f"E {level:.4g}",
                (at, level / at),
                xytext=(4, -4),
                textcoords="offset points",
                verticalalignment="top",
                color="#8a8d91",
                fontsize=8,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )


def _name(
    axes: Axes, study: Study, main: str, points: Sequence[_Point], named: Sequence[_Point]
) -> None:
    labels = [
        Label(p.arm, p.quality, p.attainment, colour_of(study, main, p.arm), p.arm == main)
        for p in named
    ]
    places = np.array([(point.quality, point.attainment) for point in points]).reshape(-1, 2)
    place(axes, labels, places, _static_line(study, points))


def _draw_losses(axes: Axes, study: Study, main: str) -> None:
    """1 - E = (1 - attainment) + (attainment - E), the best arm on top."""
    arms = [*(arm for arm in (ORACLE,) if arm in study.runs), *ranked(study)]
    effective = np.array([worth(study, arm) for arm in arms])
    missed = np.array([1 - (mean(study.runs[arm], "attainment") or 0.0) for arm in arms])
    coarse = np.maximum(1 - effective - missed, 0.0)  # a rung may be better than full k'
    rows = np.arange(len(arms))
    axes.barh(rows, missed, color=MISSED, label="missed objectives, or refused")
    axes.barh(rows, coarse, left=missed, color=COARSE, label="quality of what met them")
    for row, each in zip(rows, effective, strict=True):
        axes.annotate(
            f"E {each:.3f}",
            (max(1 - each, 0.0), row),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=9,
            weight="bold" if arms[row] == main else "normal",
        )
    axes.set_yticks(rows, arms)
    for label in axes.get_yticklabels():
        label.set_color(colour_of(study, main, label.get_text()))
        label.set_fontweight("bold" if label.get_text() == main else "normal")
    axes.set(xlim=(0, 1.2 * max(1 - effective)), ylim=(len(arms) - 0.4, -0.6))
    axes.set_title("What each arm loses, least on top: 1 - E", loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _marker(arm: str) -> str:
    return "*" if arm == ORACLE else "o" if is_static(arm) else "D"
