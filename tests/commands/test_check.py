"""`kprime check` as an operator meets it: what is printed where, and the exit status."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner, Result

from commands.check import check

POLICIES = Path(__file__).parents[2] / "policies"


def run(*arguments: Path | str) -> Result:
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the profile reader: refuses whatever does not hold `{}`."""

    def load_profile(path: Path) -> None:
        if path.read_text() != "{}":
            raise ValueError("rungs: is missing")

    module = ModuleType("controller.profiles")
    module.load_profile = load_profile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "controller.profiles", module)


def test_the_shipped_policies_pass() -> None:
    full, interactive = POLICIES / "fixed-full.yaml", POLICIES / "interactive.yaml"
    result = run(full, interactive)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{full}: ok", f"{interactive}: ok"]
    assert result.stderr == ""


def test_every_problem_of_every_file_goes_to_stderr(tmp_path: Path) -> None:
    first, second, good = tmp_path / "a.yaml", tmp_path / "b.yml", POLICIES / "interactive.yaml"
    first.write_text(
        good.read_text().replace("floor: 1", "floor: 0").replace("margin: 0.8", "margin: 80")
    )
    second.write_text("")
    result = run(first, good, second)
    assert result.exit_code == 2
    assert result.stdout == f"{good}: ok\n"
    assert result.stderr.splitlines() == [
        f"{first}:8: slo.margin: should be less than or equal to 1, given 80",
        f"{first}:13: experts.floor: should be greater than or equal to 1, given 0",
        f"{second}:1: is empty: an SLO policy is a mapping starting with `version: 1`",
    ]


def test_a_missing_file_is_a_problem_of_that_file(tmp_path: Path) -> None:
    result = run(tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}/none.yaml:1: cannot be read: No such file or directory\n"


def test_another_kind_of_file_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    result = run(tmp_path / "notes.txt")
    assert result.exit_code == 2
    accepted = "should be .yaml or .yml (SLO policy) or .json (profile)"
    assert result.stderr == f"{tmp_path}/notes.txt:1: {accepted}\n"


@pytest.mark.usefixtures("profiles")
def test_profiles_are_checked_too(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text("{}")
    bad.write_text("[]")
    result = run(good, bad)
    assert result.exit_code == 2
    assert result.stdout == f"{good}: ok\n"
    assert result.stderr == f"{bad}:1: rungs: is missing\n"


def test_a_refused_profile_is_named_once(tmp_path: Path) -> None:
    bad = tmp_path / "profile.json"
    bad.write_text("{}")
    result = run(bad)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{bad}:")
    assert result.stderr.count(str(bad)) == 1


def test_without_a_file_it_is_a_usage_error() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Missing argument 'FILE'" in result.stderr


def test_the_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "kprime check policies/*.yaml" in result.stdout
