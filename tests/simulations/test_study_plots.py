"""Pictures of studies whose figures are written down: their size, and where names go."""

import struct
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from simulations.label_places import Label, place
from simulations.study import ArmRun, Study
from simulations.study_figures import each_once
from simulations.study_plots import draw_pareto
from simulations.study_timelines import Line, draw_timelines
from simulations.traces import Request
from tests.simulations.cluster_fakes import every, run
from tests.simulations.study_fakes import arm, study


def crowd() -> Study:
    runs = {f"static-{k}": arm(0.98 - 0.05 * k, quality=0.9 + k / 100) for k in range(1, 9)}
    return each_once(study({**runs, "best-static": runs["static-1"]}, "static-1"))


def drawn(made: Study, folder: Path, main: str) -> bytes:
    draw_pareto(made, main, folder / "pareto.png")
    return (folder / "pareto.png").read_bytes()


def test_a_picture_of_many_arms_is_higher_than_one_of_few(tmp_path: Path) -> None:
    many = {**crowd().runs, "aimd": arm(0.9), "predictive": arm(0.95)}
    high = drawn(replace(crowd(), runs=many), tmp_path, "predictive")
    low = drawn(crowd(), tmp_path, "static-1")
    assert [struct.unpack(">II", each[16:24]) for each in (high, low)] == [
        (1690, 1040),
        (1690, 780),
    ]


def test_an_arm_that_completed_nothing_is_left_out(tmp_path: Path) -> None:
    nothing = [ArmRun(0, {"effective_quality": 0.0, "attainment": 0.0}, None)]
    made = replace(crowd(), runs={**crowd().runs, "aimd": nothing})
    assert len(drawn(made, tmp_path, "static-1")) > 20_000
    assert len(drawn(study({"aimd": nothing}), tmp_path, "aimd")) > 20_000


def test_names_cover_neither_each_other_nor_points() -> None:
    axes = Figure(figsize=(6, 6)).subplots()
    places = [(0.5 + 0.02 * (n % 4), 0.5 + 0.02 * (n // 4)) for n in range(12)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = [Label(f"static-{n}", x, y, "black") for n, (x, y) in enumerate(places)]
    place(axes, labels, np.array(places), np.array(places))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 12
    assert not any(Bbox.intersection(one, other) for one, other in combinations(boxes, 2))
    points = axes.transData.transform(places)
    assert not any(box.contains(*point) for box in boxes for point in points)


@pytest.mark.parametrize(
    "requests",
    [
        tuple(every(0.05, 40)),  # dots
        tuple(every(0.05, 500)),  # windows
        (Request(0.0, 100, 1),),  # nothing that lasts, no TPOT
    ],
)
def test_timelines_are_drawn_however_many_requests(
    tmp_path: Path, requests: tuple[Request, ...]
) -> None:
    lines = [Line("fixed", run(requests), "red"), Line("again", run(requests, seed=1), "blue")]
    assert len(timelines(tmp_path, requests, *lines)) > 20_000


def test_replicas_that_went_show_in_a_run_of_minutes(tmp_path: Path) -> None:
    requests = tuple(every(4.0, 100))
    outcome = run(requests, replicas=2)
    fewer = replace(outcome, replicas=[*outcome.replicas, (200.0, 1)])
    line = Line("fixed", outcome, "red")
    before = timelines(tmp_path, requests, line)
    assert before != timelines(tmp_path, requests, replace(line, outcome=fewer))


def timelines(folder: Path, requests: tuple[Request, ...], *lines: Line) -> bytes:
    scenario = replace(study({"fixed": arm(0.9)}).scenario, schedules={0: requests})
    draw_timelines(scenario, 0, lines, folder / "timeline.png")
    return (folder / "timeline.png").read_bytes()
