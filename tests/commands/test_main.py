"""The console script: every command is there, explains itself with an example, and starts fast."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from commands.main import app

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [
    "demo",
    "serve",
    "status",
    "check",
    "inspect",
    "load",
    "simulate",
    "replay",
    "evaluate",
    "calibrate",
    "profile",
    "train",
]
GROUPS = {"policy": ["apply"]}
HEAVY = ["torch", "transformers", "ray"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def test_the_help_lists_every_command_and_no_other() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert [command.callback.__name__ for command in app.registered_commands] == COMMANDS
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    assert {
        name: [command.callback.__name__ for command in group.registered_commands]
        for name, group in groups.items()
    } == GROUPS
    assert all(command in result.stdout for command in [*COMMANDS, *GROUPS])


def test_without_a_command_it_shows_the_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert all(command in result.output for command in COMMANDS)


def test_an_unknown_command_is_refused_by_name() -> None:
    assert "No such command 'evalute'" in refusal("evalute")


EVERY = [*COMMANDS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)]


@pytest.mark.parametrize("command", EVERY)
def test_the_help_of_every_command_has_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: kprime {command} " in result.stdout


@pytest.mark.parametrize("command", EVERY)
def test_an_unknown_option_is_refused_by_name(command: str) -> None:
    assert "No such option: --quantise" in refusal(*command.split(), "--quantise", "4")


def test_the_help_does_not_wait_for_heavy_libraries() -> None:
    code = "import sys, commands.main; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "commands.main" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/none.yaml" in refusal("train", tmp_path / "none.yaml")


@pytest.mark.parametrize("content", ["name: [", "name: tiny", "", "- 1"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tiny.yaml").write_text(content)
    assert f"{tmp_path}/tiny.yaml" in refusal("train", tmp_path / "tiny.yaml")


def test_data_that_are_missing_are_named_and_leave_nothing_behind(tmp_path: Path) -> None:
    recipe = REPOSITORY / "training" / "recipes" / "table" / "base.yaml"
    folders = {"--data": tmp_path / "none", "--run": tmp_path / "run", "--out": tmp_path / "out"}
    options = [part for option in folders.items() for part in option]
    line = refusal("train", recipe, *options)
    assert f"{tmp_path}/none: " in line
    assert "expected JSON lines in UTF-8" in line
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_was_not_trained_yet_is_named_with_its_seed(tmp_path: Path) -> None:
    recipe = REPOSITORY / "training" / "recipes" / "table" / "emoe.yaml"
    line = refusal("train", recipe, "--seed", "77", "--run", tmp_path / "run")
    assert "runs/table-base-77/checkpoint: no config.json" in line
