"""The profile for this machine is the one given, or a copy that a probe has rescaled."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from commands import here
from commands.here import profile_here
from controller.profiles import Machine, load_profile, write_profile

CHECKPOINT = Path("checkpoints/prose-52m")
PROFILE = CHECKPOINT / "profile.json"
ABACUS = Machine(cpu="abacus", gpu=None, cores=2, threads=1, dtype="bfloat16")


class Probe:
    """Stands in for the process that measures step times; keeps what it was asked for."""

    def __init__(self, returncode: int = 0) -> None:
        self.commands: list[list[str]] = []
        self._returncode = returncode

    def run(self, command: list[str], **_: object) -> SimpleNamespace:
        self.commands.append(command)
        if self._returncode == 0:
            out = Path(command[command.index("--out") + 1])
            write_profile(load_profile(PROFILE).model_copy(update={"machine": ABACUS}), out)
        return SimpleNamespace(returncode=self._returncode, stderr="no room on the abacus")


@pytest.fixture
def on_abacus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This machine is another than the profile's; where rescaled profiles go."""
    monkeypatch.setattr("runtime.machine.this_machine", lambda *_: ABACUS)
    monkeypatch.setattr(here, "RESCALED", tmp_path / "profiles")
    return tmp_path / "profiles"


def probe(monkeypatch: pytest.MonkeyPatch, returncode: int = 0) -> Probe:
    made = Probe(returncode)
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


def test_on_the_machine_it_was_made_on_a_profile_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.machine.this_machine", lambda *_: load_profile(PROFILE).machine)
    made = probe(monkeypatch)
    assert profile_here(Console(quiet=True), CHECKPOINT, PROFILE) == PROFILE
    assert made.commands == []


def test_on_another_machine_it_is_rescaled_once(
    monkeypatch: pytest.MonkeyPatch, on_abacus: Path
) -> None:
    made = probe(monkeypatch)
    first = profile_here(Console(quiet=True), CHECKPOINT, PROFILE)
    assert first.parent == on_abacus
    assert load_profile(first).machine == ABACUS
    (command,) = made.commands
    assert command[command.index("--rescale") + 1] == str(PROFILE)
    assert profile_here(Console(quiet=True), CHECKPOINT, PROFILE) == first
    assert len(made.commands) == 1


def test_a_probe_that_fails_ends_the_command_with_its_words(
    monkeypatch: pytest.MonkeyPatch, on_abacus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe(monkeypatch, returncode=1)
    with pytest.raises(typer.Exit):
        profile_here(Console(quiet=True), CHECKPOINT, PROFILE)
    assert "no room on the abacus" in capsys.readouterr().err
    assert list(on_abacus.iterdir()) == []
