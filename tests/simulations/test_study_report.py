"""The page of a small study that was simulated, and of one whose figures are written down."""

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from controller.policy_file import load_policy
from controller.profiles import load_profile
from simulations.comparison import regrets
from simulations.faults import Slowdown
from simulations.runner import run
from simulations.settings import Settings
from simulations.study import Scenario, Study
from simulations.study_conditions import conditions
from simulations.study_figures import each_once, mean
from simulations.study_report import write_report
from simulations.study_verdict import verdict
from simulations.traces import Request
from tests.simulations import study_fakes
from tests.simulations.cluster_fakes import poisson
from tests.simulations.html_page import Page
from tests.simulations.study_fakes import arm

ARMS = ["static-full", "static-4", "best-static", "aimd", "predictive", "oracle"]
CELL = re.compile(r"<t[hd]>(?:<strong>)?(.*?)(?:</strong>)?</t[hd]>")
SCRIPT = "<script>alert('&\"')</script>"


def schedule(seed: int) -> tuple[Request, ...]:
    """More than full k' has on two replicas, by an eighth of the requests of two classes."""
    requests = poisson(60.0, 300 + seed, prompt=300, output=20)
    return tuple(
        replace(request, slo_class="batch" if number % 8 == 0 else None)
        for number, request in enumerate(requests)
    )


@pytest.fixture(scope="module")
def study() -> Study:
    root = Path(__file__).resolve().parents[2]
    scenario = Scenario(
        name="burst",
        load=1.2,
        schedules={seed: schedule(seed) for seed in (5, 6)},
        slo_policy=load_policy(root / "policies" / "two-classes.yaml"),
        profile=load_profile(root / "checkpoints" / "prose-52m" / "profile.json"),
        settings=Settings(faults=(Slowdown(1.1, 2.0, replica=1),)),
    )
    return run(scenario, ARMS)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(study, folder / "page.html", "60 requests/s for 5 s.")
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "page.html").read_text(encoding="utf-8")


def tables(html: str) -> list[dict[str, dict[str, str]]]:
    """Cells by row and column."""
    found = []
    for table in re.findall(r"<table>(.*?)</table>", html, re.DOTALL):
        header, *rows = (
            [unescape(cell) for cell in re.findall(CELL, row)]
            for row in re.findall(r"<tr>(.*?)</tr>", table)
        )
        found.append({row[0]: dict(zip(header, row, strict=True)) for row in rows})
    return found


def test_the_summary_is_the_verdict(html: str, study: Study) -> None:
    page = Page(html)
    assert page.texts["h1"] == ["kprime simulate: burst"]
    assert page.texts["p"][:2] == [verdict(each_once(study)), "60 requests/s for 5 s."]


def test_says_at_the_top_that_predictive_loses_where_it_does(tmp_path: Path) -> None:
    best = arm(0.98, 0.99)
    runs = {"predictive": arm(0.95, 0.96), "static-4": best, "best-static": best}
    write_report(study_fakes.study(runs, "static-4"), tmp_path / "page.html", "")
    (summary, *_) = Page((tmp_path / "page.html").read_text()).texts["p"]
    assert summary.startswith(
        "static-4 wins, predictive does not. predictive: E 0.955, 0.030 below"
    )


def test_every_arm_has_a_row_the_best_first_and_ours_in_bold(html: str, study: Study) -> None:
    shown = each_once(study)
    arms = list(tables(html)[0])
    assert arms[0] == "oracle"
    worths = [mean(shown.runs[name], "effective_quality") or 0.0 for name in arms[1:]]
    assert worths == sorted(worths, reverse=True)
    assert sorted(arms) == sorted(shown.runs)
    assert Page(html).texts["strong"][0] == "predictive"


def test_the_table_has_the_figures(html: str, study: Study) -> None:
    table, regret = tables(html)[0], regrets(study)
    for name in ("static-full", "aimd", "predictive"):
        row, runs = table[name], study.runs[name]
        for column, field, form in (
            ("attainment", "attainment", ".3f"),
            ("served quality", "served_quality", ".3f"),
            ("E", "effective_quality", ".3f"),
            ("TTFT p95, s", "ttft_p95_s", ".3f"),
            ("TPOT p95, s", "tpot_p95_s", ".3f"),
            ("k' changes / min", "switches_per_min", ".1f"),
            ("over-degradation", "over_degradation", ".1%"),
        ):
            assert row[column] == format(mean(runs, field), form), (name, column)
        assert row["regret"] == f"{regret[name]:.2f}"
        shed, offered = mean(runs, "shed"), mean(runs, "offered")
        assert row["shed"] == f"{shed / offered:.1%}"


def test_each_arm_is_set_against_the_best_constant_with_its_interval(
    html: str, study: Study
) -> None:
    table, best = tables(html)[0], each_once(study).best_static
    column = f"E less {best} [95 %]"
    by_seed = [
        ours.figures["effective_quality"] - theirs.figures["effective_quality"]
        for ours, theirs in zip(study.runs["aimd"], study.runs["best-static"], strict=True)
    ]
    low, high = sorted(by_seed)
    cell = f"{sum(by_seed) / 2:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert table["aimd"][column] == cell
    assert (table[best][column], table[best]["regret"]) == ("–", "1.00")  # noqa: RUF001
    assert (table["oracle"]["TTFT p95, s"], table["oracle"]["regret"]) == ("–", "0.00")  # noqa: RUF001


def test_classes_have_a_table_of_their_own(html: str, study: Study) -> None:
    table = tables(html)[1]
    attained = [run.figures["classes"]["batch"]["attainment"] for run in study.runs["predictive"]]
    assert table["batch: predictive"]["attainment"] == f"{sum(attained) / 2:.3f}"
    assert {row.split(":")[0] for row in table} == {"default", "batch"}


def test_pictures_are_beside_the_page_and_in_it(html: str, folder: Path) -> None:
    sources = Page(html).attributes["src"]
    embedded = [base64.b64decode(source.split(",")[1]) for source in sources if source]
    files = [folder / "page-pareto.png", folder / "page-timeline.png"]
    assert embedded == [file.read_bytes() for file in files]
    assert all(picture.startswith(b"\x89PNG") for picture in embedded)


def test_pictures_say_what_they_show_to_who_cannot_see_them(html: str, study: Study) -> None:
    pareto, timeline = Page(html).attributes["alt"]
    assert pareto == (
        f"Attainment against served quality of {len(each_once(study).runs)} arms, "
        "and what each loses"
    )
    assert timeline is not None
    assert timeline.startswith("Load, misses, queue, latencies and k' over time of predictive, ")


def test_fetches_nothing(html: str) -> None:
    assert "http:" not in html and "https:" not in html
    assert "@import" not in html and "url(" not in html


def test_says_what_was_held_fixed(html: str, study: Study) -> None:
    page = Page(html)
    facts: Mapping[str, str] = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts == conditions(study)
    assert page.texts["h2"][-1] == "What was held fixed"
    assert facts["Load"].startswith("burst: 1.2 times the capacity at full k', 305 to 306 requests")
    assert facts["Seeds"].startswith("5, 6;")
    assert study.scenario.profile.checkpoint_sha256[:12] in facts["Profile"]
    assert "batch: TTFT 5 s, TPOT 0.5 s" in facts["Objectives"]
    assert facts["Faults"] == ("replica 1: steps take 1.1 times as long from 2 s to the end")


def test_whatever_a_load_is_called_stays_text(study: Study, tmp_path: Path) -> None:
    named = replace(study, scenario=replace(study.scenario, name=SCRIPT))
    write_report(named, tmp_path / "page.html", SCRIPT)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert Page(html).texts["title"] == [f"kprime simulate: {SCRIPT}"]


@pytest.mark.parametrize("name", ["oracle", "predictive", "static-full"])
def test_without_an_outcome_there_is_no_timeline(tmp_path: Path, name: str) -> None:
    write_report(study_fakes.study({name: arm(0.9)}), tmp_path / "page.html", "")
    assert [file.name for file in tmp_path.glob("*.png")] == ["page-pareto.png"]
    html = (tmp_path / "page.html").read_text()
    assert "regret" not in tables(html)[0][name]
