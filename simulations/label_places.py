"""Where the names of points go on a picture, so that none covers another name, a point or a line.

Takes axes that are laid out and whose limits do not change any more.

Letters: P points, N of a line, B boxes, C places to choose from. A box is x0, y0, x1, y1 in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from simulations.rates import FloatArray

POINT_PX = 9.0  # half a marker
LINE_PX = 3.0  # half of what is kept free along a line
DISTANCES_PX = (12.0, 21.0, 32.0, 46.0, 64.0, 88.0)
LED_FROM_PX = 32.0  # so far away, a line leads to the name
DIRECTIONS = 16
COVERED_PX = 10.0  # of distance, to which a square pixel that is covered comes up


@dataclass(frozen=True, slots=True)
class Label:
    text: str
    x: float  # of its point, in data
    y: float
    colour: str
    bold: bool = False


def place(axes: Axes, labels: Sequence[Label], points_P2: FloatArray, line_N2: FloatArray) -> None:
    """Writes them, those that come first at the best places.

    Points, their own among them, and the line through N others are in data.
    """
    to_px, to_data = axes.transData, axes.transData.inverted()
    points = _boxes(to_px.transform(points_P2), POINT_PX, POINT_PX)
    line = _boxes(_along(to_px.transform(line_N2)), LINE_PX, LINE_PX)
    taken_B4 = np.concatenate([points, line])
    for label in labels:
        text = axes.text(
            label.x,
            label.y,
            label.text,
            horizontalalignment="center",
            verticalalignment="center",
            color=label.colour,
            weight="bold" if label.bold else "normal",
            fontsize=12 if label.bold else 9.5,
            zorder=6,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        size = text.get_window_extent()
        half_width, half_height = size.width / 2, size.height / 2
        middles_C2, distances_C = _around(half_width, half_height)
        middles_C2 += to_px.transform((label.x, label.y))
        boxes_C4 = _boxes(middles_C2, half_width, half_height)
        covered_C = _covered(boxes_C4, taken_B4, axes.get_window_extent())
        best = np.argmin(COVERED_PX * covered_C + distances_C)
        taken_B4 = np.append(taken_B4, boxes_C4[[best]], axis=0)
        x, y = to_data.transform(middles_C2[best])
        text.set_position((x, y))
        if distances_C[best] >= LED_FROM_PX:
            axes.plot([label.x, x], [label.y, y], color=label.colour, linewidth=0.7, zorder=2)


def _around(half_width: float, half_height: float) -> tuple[FloatArray, FloatArray]:
    """Middles of a text about a point at 0, the nearest first, and how far off the text begins."""
    distances_C = np.repeat(DISTANCES_PX, DIRECTIONS)
    angles_C = np.tile(np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS, len(DISTANCES_PX))
    x_C = np.cos(angles_C) * (distances_C + half_width)
    y_C = np.sin(angles_C) * (distances_C + half_height)
    return np.column_stack([x_C, y_C]), distances_C


def _along(line_N2: FloatArray) -> FloatArray:
    """Points of a line so close that their boxes touch."""
    if len(line_N2) < 2:
        return line_N2
    ends_N = np.cumsum([0.0, *np.hypot(*np.diff(line_N2, axis=0).T)])
    at = np.arange(0.0, ends_N[-1], 2 * LINE_PX)
    return np.stack([np.interp(at, ends_N, each_N) for each_N in line_N2.T], axis=1)


def _boxes(middles_B2: FloatArray, half_width: float, half_height: float) -> FloatArray:
    half = np.array([half_width, half_height])
    return np.hstack([middles_B2 - half, middles_B2 + half])


def _covered(boxes_C4: FloatArray, taken_B4: FloatArray, frame: Bbox) -> FloatArray:
    """Square pixels of each that are of something else, or beyond the frame; (C,)."""
    size_C = np.prod(boxes_C4[:, 2:] - boxes_C4[:, :2], axis=1)
    inside_C = _shared(boxes_C4, np.array([frame.extents]))[:, 0]
    covered_C: FloatArray = _shared(boxes_C4, taken_B4).sum(axis=1) + size_C - inside_C
    return covered_C


def _shared(boxes_C4: FloatArray, others_B4: FloatArray) -> FloatArray:
    """Square pixels of both, (C, B)."""
    low_CB2 = np.maximum(boxes_C4[:, None, :2], others_B4[None, :, :2])
    high_CB2 = np.minimum(boxes_C4[:, None, 2:], others_B4[None, :, 2:])
    shared_CB: FloatArray = np.prod(np.maximum(high_CB2 - low_CB2, 0.0), axis=2)
    return shared_CB
