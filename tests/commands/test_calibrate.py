"""`kprime calibrate` as an operator meets it: what it refuses, before anything is measured."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from commands.calibrate import calibrate

CHECKPOINT = Path("checkpoints/prose-52m")


def run(out: Path, *arguments: Path | str) -> Result:
    app = typer.Typer()
    app.command()(calibrate)
    options = ["--checkpoint", CHECKPOINT, "--out", out, *arguments]
    return CliRunner().invoke(app, [str(each) for each in options])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--engine", "vllm"), "--engine vllm: accepted: transformers"),
        (("--k", "1,two"), "--k: '1,two': expected whole numbers"),
        (("--k", "0,8"), "--k: model.layers.0.mlp: k'=0 is not in 1..32"),
        (("--k", "1,2"), "--k: the trained k (8) must be among the measured k': [1, 2]"),
        (("--text", "none.txt"), "--text none.txt: "),
        (("--rescale", "none.json"), "--rescale: none.json: cannot be read"),
    ],
)
def test_bad_input_is_refused_with_its_option(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    result = run(tmp_path / "profile.json", *arguments)
    assert result.exit_code == 2, result.output
    assert complaint in result.stderr
    assert not (tmp_path / "profile.json").exists()


def test_an_interrupted_run_with_other_options_is_not_thrown_away(tmp_path: Path) -> None:
    partial = tmp_path / "profile.json.partial"
    partial.write_text(json.dumps({"settings": {"k": [1, 8]}}) + "\n" + '{"quality 1": 3}\n')
    before = partial.read_text()
    result = run(tmp_path / "profile.json")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{partial}: holds an interrupted run with ")
    assert "delete the file to begin anew" in result.stderr
    assert partial.read_text() == before
