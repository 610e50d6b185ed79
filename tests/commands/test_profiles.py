"""`kprime profile` as an operator meets it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from commands.profile_tables import facts, ladder, leverage, lower_prompts, second_measures
from commands.profiles import profile as show
from controller.profiles import HeadroomAt, Interval, MethodPlan, Rescaled, write_profile
from tests.fakes import phased_profile, profile

SHIPPED = Path("checkpoints/prose-52m/profile.json")


def run(*arguments: Path | str) -> Result:
    app = typer.Typer()
    app.command()(show)
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(each) for each in arguments])


def test_the_shipped_profile_fits_a_terminal_whole() -> None:
    result = run(SHIPPED)
    assert result.exit_code == 0
    assert "…" not in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    for title in ("The ladder", "Headroom", "What layers lose", "The plan each way makes"):
        assert title in result.output


def test_the_page_holds_all_tables_and_a_picture(tmp_path: Path) -> None:
    result = run(SHIPPED, "--html", tmp_path / "p.html", "--json", tmp_path / "p.json")
    assert result.exit_code == 0
    page = (tmp_path / "p.html").read_text()
    assert "Profile of prose-52m" in page
    assert page.count("<table>") == 4
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert json.loads((tmp_path / "p.json").read_text())["full_k"] == 8


def test_every_rung_is_a_row_with_its_plan_and_what_its_steps_take() -> None:
    by_layer = profile().rungs[1].model_copy(update={"plan": (1, 2, 2, 3)})
    rungs = (profile().rungs[0], by_layer, *profile().rungs[2:])
    rows = ladder(profile().model_copy(update={"rungs": rungs})).rows
    assert [row[:2] for row in rows] == [
        ["1", "uniform"],
        ["2", "1 2 2 3"],
        ["4", "uniform"],
        ["8", "uniform"],
    ]
    assert rows[3][3] == "1.0000 ± 0.0100"
    assert rows[3][-2:] == ["90.0 ms", "16.4 ms"]


def test_where_k_has_no_leverage_is_said() -> None:
    assert leverage(profile()) == "k' has none in decode of 1 (1.07)"
    everywhere = profile().headroom.model_copy(
        update={"by_decode_batch": (HeadroomAt(tokens=1, ratio=1.1),)}
    )
    assert leverage(profile().model_copy(update={"headroom": everywhere})) == (
        "k' moves step time by 10% or more wherever it was measured"
    )


def test_rungs_that_a_second_measure_contradicts_are_named() -> None:
    one, two, *others = profile().rungs
    assert second_measures([one, two]) == (
        "no cheaper rung is significantly better than a dearer one"
    )
    doubtful = two.model_copy(update={"contradicted_by": ("accuracy", "agreement")})
    assert second_measures([one, doubtful, *others]) == (
        "k' = 2: by accuracy and agreement a cheaper rung is better"
    )


def test_a_rescaled_profile_says_so_first_of_all() -> None:
    there = profile().machine.model_copy(update={"cpu": "slide rule"})
    rescaled = profile().model_copy(update={"rescaled": Rescaled(measured_on=there, ratio=1.5)})
    text = facts(rescaled)["Rescaled"]
    assert text.startswith("calibrated on slide rule, 1 of 1 cores, float32; ")
    assert "1.50 times those" in text
    assert "Rescaled" not in facts(profile())


def test_plans_are_called_better_or_worse_only_where_the_interval_says_so(tmp_path: Path) -> None:
    intervals = [(-0.02, -0.03, -0.01), (0.0, -0.1, 0.1), (0.02, 0.01, 0.03)]
    plans = tuple(
        MethodPlan(
            method="alone",
            uniform_k=2,
            plan=(1, 2, 2, 3),
            over_uniform=Interval(mean=mean, low=low, high=high),
        )
        for mean, low, high in intervals
    )
    found = profile().sensitivity.model_copy(update={"plans": plans})
    write_profile(profile().model_copy(update={"sensitivity": found}), tmp_path / "p.json")
    lines = [line.rstrip() for line in run(tmp_path / "p.json").output.splitlines()]
    rows = [line for line in lines if "1 2 2 3" in line]
    assert [row.split(")  ")[1] for row in rows] == ["better", "no difference", "worse"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace('"schema_version": 3', '"schema_version": 4'), "update kprime"),
        (lambda text: text.replace("3.79", "3.69", 1), "digest: does not fit the rest"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(
    tmp_path: Path, change: object, complaint: str
) -> None:
    file = tmp_path / "p.json"
    file.write_text(change(SHIPPED.read_text()))  # type: ignore[operator]
    result = run(file)
    assert result.exit_code == 2
    assert complaint in result.output
    assert result.output.startswith(f"{file}: ")


def test_nothing_is_shown_when_the_page_has_nowhere_to_go(tmp_path: Path) -> None:
    result = run(SHIPPED, "--html", tmp_path / "none" / "p.html")
    assert result.exit_code == 2
    assert "--html" in result.output


def test_what_lower_prompts_cost_is_said_where_it_was_measured() -> None:
    assert lower_prompts(profile().rungs) == (
        "not measured; prompts run at the k' of their answers"
    )
    assert lower_prompts(phased_profile().rungs).startswith(
        "quality of answers at full k' after prompts at the lowest rungs: "
        "0.9900 (from 0.9800 up) at k' 1, "
    )
