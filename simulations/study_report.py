"""The page of a study: who wins and why, every arm's figures, one seed over time, what was fixed.

Takes a study that has been run; writes one HTML page, and its pictures beside it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from simulations.arms import BEST_STATIC, ORACLE, STATIC_FULL
from simulations.comparison import regrets
from simulations.html_report import Bold, Picture, Rows, write_page
from simulations.study import ArmRun, Study
from simulations.study_conditions import conditions
from simulations.study_figures import each_once, main_arm, mean, of_class, ranked
from simulations.study_plots import colour_of, draw_pareto
from simulations.study_timelines import Line, draw_timelines
from simulations.study_verdict import lead, verdict

UNKNOWN = "–"  # noqa: RUF001  (a dash for where there is nothing)
DEFINITIONS = (
    "Attainment: requests that met TTFT and TPOT, of all offered. Served quality: mean over the "
    "tokens of completed requests, full k' = 1. E, the effective quality: the quality of requests "
    "that met both, summed and divided by all offered. Regret: 0 is as good as the oracle, 1 no "
    "better than the best constant in hindsight, above 1 worse. Over-degradation: tokens below "
    "full k' where full k' would have met the objectives too. TTFT counts from the scheduled "
    "arrival."
)


def write_report(study: Study, path: Path, load_text: str) -> None:
    """`load_text` says what load was replayed."""
    regret = regrets(study)
    shown = each_once(study)
    main = main_arm(shown)
    pareto = path.with_name(f"{path.stem}-pareto.png")
    draw_pareto(shown, main, pareto)
    write_page(
        path,
        title=f"kprime simulate: {shown.scenario.name}",
        summary=verdict(shown),
        parts=[
            load_text,
            Picture(
                pareto,
                f"Attainment against served quality of {len(shown.runs)} arms, and what each loses",
                caption="Left: the mean of each arm over its seeds, whiskers from the least to the "
                "most; the line joins the constants; dotted, equal effective quality E, about. "
                "Right: what is missing to E = 1, and to what it was lost.",
            ),
            _table(shown, regret, main),
            DEFINITIONS,
            *_classes(shown, main),
            *_timelines(shown, main, path.with_name(f"{path.stem}-timeline.png")),
        ],
        facts=conditions(shown),
        facts_title="What was held fixed",
    )


def _table(study: Study, regret: dict[str, float | None], main: str) -> Rows:
    """The oracle, then the best arm first."""
    against_best: dict[str, Callable[[str], str]] = {
        f"E less {study.best_static} [95 %]": partial(_less_best, study),
        # The best constant may have been asked for by its second name alone.
        "regret": lambda arm: _number(regret.get(arm, regret.get(BEST_STATIC)), "{:.2f}"),
    }
    columns: dict[str, Callable[[str], str]] = {
        "attainment": partial(_figure, study, "attainment", "{:.3f}"),
        "served quality": partial(_figure, study, "served_quality", "{:.3f}"),
        "E": partial(_figure, study, "effective_quality", "{:.3f}"),
        **(against_best if study.best_static else {}),
        "2-s windows with a miss": partial(_share, study, "violating_windows_2s", "windows_2s"),
        "TTFT p95, s": partial(_figure, study, "ttft_p95_s", "{:.3f}"),
        "TPOT p95, s": partial(_figure, study, "tpot_p95_s", "{:.3f}"),
        "k' changes / min": partial(_figure, study, "switches_per_min", "{:.1f}"),
        "over-degradation": partial(_figure, study, "over_degradation", "{:.1%}"),
        "shed": partial(_share, study, "shed", "offered"),
    }
    arms = [*(arm for arm in (ORACLE,) if arm in study.runs), *ranked(study)]
    rows = [[arm, *(cell(arm) for cell in columns.values())] for arm in arms]
    return Rows(
        "Every arm, the best first: means over seeds",
        ["arm", *columns],
        [[Bold(cell) for cell in row] if row[0] == main else row for row in rows],
    )


def _less_best(study: Study, arm: str) -> str:
    if arm == study.best_static:
        return UNKNOWN
    found = lead(study, arm, study.best_static)
    if found.low is None or found.high is None:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _figure(study: Study, field: str, form: str, arm: str) -> str:
    return _number(mean(study.runs[arm], field), form)


def _share(study: Study, field: str, of: str, arm: str) -> str:
    return _quotient(study.runs[arm], field, of)


def _quotient(runs: Sequence[ArmRun], field: str, of: str) -> str:
    part, whole = mean(runs, field), mean(runs, of)
    return UNKNOWN if part is None or not whole else f"{part / whole:.1%}"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


def _classes(study: Study, main: str) -> list[Rows]:
    """The arms of the timelines by SLO class, where there are several."""
    figures = study.runs[main][0].figures.get("classes", {})
    if len(figures) < 2:
        return []
    fields = {"attainment": "{:.3f}", "served_quality": "{:.3f}", "effective_quality": "{:.3f}"}
    latencies = {"ttft_p95_s": "{:.3f}", "tpot_p95_s": "{:.3f}"}
    rows = []
    for name in figures:
        for arm in _yardsticks(study, main):
            runs = of_class(study.runs[arm], name)
            cells = [_number(mean(runs, key), form) for key, form in (fields | latencies).items()]
            rows.append([f"{name}: {arm}", *cells, _quotient(runs, "shed", "offered")])
    header = ["class: arm", "attainment", "served quality", "E", "TTFT p95, s", "TPOT p95, s"]
    return [Rows("By SLO class", [*header, "shed"], rows)]


def _timelines(study: Study, main: str, file: Path) -> list[Picture]:
    """Of the first seed; nothing where no outcome was kept."""
    seed = study.runs[main][0].seed
    firsts = {arm: study.runs[arm][0].outcome for arm in _yardsticks(study, main)}
    lines = [
        Line(arm, outcome, colour_of(study, main, arm))
        for arm, outcome in firsts.items()
        if outcome is not None
    ]
    if not lines:
        return []
    draw_timelines(study.scenario, seed, lines, file)
    shown = ", ".join(line.arm for line in lines)
    return [
        Picture(
            file,
            f"Load, misses, queue, latencies and k' over time of {shown}",
            title=f"Over time, seed {seed}",
            caption="Capacities are the profile's at the mean lengths. Latencies of each window, "
            "by scheduled arrival: the line is the 95th percentile, the band reaches down to the "
            f"median. Below, k' of each MoE layer of {lines[0].arm}: the mean over each window, of "
            "requests that name no class.",
        )
    ]


def _yardsticks(study: Study, main: str) -> list[str]:
    """What is looked at closely: the main arm, and the two constants to beat."""
    arms = dict.fromkeys((main, study.best_static, STATIC_FULL))
    return [arm for arm in arms if arm in study.runs]
