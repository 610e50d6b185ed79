"""`kprime evaluate` on a tiny checkpoint: one message for each mistake, figures for each k'."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from typer.testing import CliRunner, Result

from commands.main import app

TEXT = "Call me Ishmael. Some years ago, never mind how long precisely, I went to sea. " * 20
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """The model, with a tokenizer trained on a sentence, as a checkpoint folder."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT], 300, special_tokens=["<|end|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of eight experts, four of them run."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **SHAPE,
        head_dim=8,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=4,
        norm_topk_prob=True,
    )
    return saved(Qwen3MoeForCausalLM(config), tmp_path_factory.mktemp("elastic"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(LlamaForCausalLM(LlamaConfig(**SHAPE)), tmp_path_factory.mktemp("dense"))


def copied(checkpoint: Path, folder: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(checkpoint, folder / "spoilt")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def run(checkpoint: Path, text: Path, **options: object) -> Result:
    """With windows of 16 tokens and, unless told otherwise, without the choice task."""
    arguments: list[object] = ["--checkpoint", checkpoint, "--text", text, "--window", 16]
    for name, value in ({"choices": 0} | options).items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", value]
    return CliRunner().invoke(app, ["evaluate", *(str(argument) for argument in arguments)])


def refusal(checkpoint: Path, text: Path, **options: object) -> str:
    """What a mistake is answered with, the progress bar left out."""
    result = run(checkpoint, text, **options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("evaluating ")]
    assert len(lines) == 1, lines
    return lines[0]


def figures(checkpoint: Path, text: Path, folder: Path, **options: object) -> dict[str, Any]:
    """What a run writes."""
    file = folder / "figures.json"
    result = run(checkpoint, text, json=file, **options)
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text())


def with_interval(*names: str) -> set[str]:
    return {name + end for name in names for end in ("", "_low", "_high")}


def cells(result: Result) -> list[list[str]]:
    """The lines of the table that is printed, without its head."""
    assert result.exit_code == 0, result.output
    lines = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def test_writes_the_figures_of_each_k(elastic: Path, text: Path, tmp_path: Path) -> None:
    written = figures(elastic, text, tmp_path, k="1,4", windows=8)
    assert list(written["k"]) == ["1", "4"]
    for row in written["k"].values():
        assert set(row) == {
            "bits_per_byte",
            *with_interval("nll", "accuracy", "nll_difference", "accuracy_difference"),
        }
        assert row["nll_low"] < row["nll"] < row["nll_high"]
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
        # A token of this text is one byte or more, a nat is 1.44 bits.
        assert 0 < row["bits_per_byte"] <= row["nll"] / math.log(2)
    assert written["k"]["1"] != written["k"]["4"]


def test_says_on_how_much_the_figures_rest(elastic: Path, text: Path, tmp_path: Path) -> None:
    written = figures(elastic, text, tmp_path, k="4", windows=8)
    del written["k"]
    assert written == {
        "reference": "4",
        "documents": 1,
        "windows": 8,
        "tokens": 8 * 15,
        "bootstrap_unit": "window",
    }


def test_documents_are_the_units_if_there_are_enough(
    elastic: Path, text: Path, tmp_path: Path
) -> None:
    text.write_text("\f".join([TEXT] * 8))
    written = figures(elastic, text, tmp_path, k="4", windows=40, choices=9)
    assert written["documents"] == 8
    assert written["bootstrap_unit"] == "document"
    assert written["choices"] == 9
    assert written["choice_bootstrap_unit"] == "document"


@pytest.mark.parametrize(
    ("k", "reference"), [("8,4,1", "4"), ("1,8,2", "8"), ("2,1", "2"), ("1", "1")]
)
def test_the_reference_is_the_trained_k_or_else_the_largest(
    elastic: Path, text: Path, tmp_path: Path, k: str, reference: str
) -> None:
    written = figures(elastic, text, tmp_path, k=k, windows=4)
    assert written["reference"] == reference
    at_reference = written["k"][reference]
    for name, row in written["k"].items():
        for measure in ("nll", "accuracy"):
            difference = row[measure] - at_reference[measure]
            assert row[f"{measure}_difference"] == pytest.approx(difference, abs=1e-9)
        assert (row["nll_difference_low"] < row["nll_difference_high"]) is (name != reference)


def test_measures_how_often_the_true_continuation_is_chosen(
    elastic: Path, text: Path, tmp_path: Path
) -> None:
    written = figures(elastic, text, tmp_path, k="1,4", windows=2, choices=10)
    assert written["choices"] == 10
    assert written["choice_bootstrap_unit"] == "item"
    for row in written["k"].values():
        assert with_interval("choice", "choice_difference") <= set(row)
        assert 0 <= row["choice_low"] <= row["choice"] <= row["choice_high"] <= 1
    assert written["k"]["4"]["choice_difference"] == 0


def test_shows_the_figures_of_each_k(elastic: Path, text: Path) -> None:
    """Under each line of figures one of their intervals."""
    lines = cells(run(elastic, text, k=" 2 , 8 ", windows=4))
    assert [line[0] for line in lines] == ["2", "", "8", ""]
    assert [len(line) for line in lines] == [5] * 4
    assert [".." in line[1] for line in lines] == [False, True, False, True]
    assert lines[2][2:3] + lines[3][2:3] == ["+0.0000", "0.0000..0.0000"]


def test_shows_the_choice_task_if_it_was_asked_for(elastic: Path, text: Path) -> None:
    result = run(elastic, text, k="2", windows=4, choices=4)
    assert [len(line) for line in cells(result)] == [6, 6]
    assert "choice: 4 items, of which a guess solves 25%" in result.stdout


def test_a_text_too_short_for_the_choice_task_does_without(elastic: Path, text: Path) -> None:
    text.write_text("Call me Ishmael. Some years ago, never mind how long.")
    result = run(elastic, text, k="2", choices=None)
    assert [len(line) for line in cells(result)] == [5, 5]
    assert result.stderr.startswith("no choice task: the longest document has ")


def test_a_text_too_short_for_the_choices_asked_for_is_refused(elastic: Path, text: Path) -> None:
    text.write_text("Call me Ishmael. Some years ago, never mind how long.")
    line = refusal(elastic, text, k="2", choices=5)
    assert line.startswith("--choices 5: the longest document has ")
    assert line.endswith("; 0 leaves the task out")


def test_a_plan_is_compared_with_the_trained_one(elastic: Path, text: Path, tmp_path: Path) -> None:
    written = figures(elastic, text, tmp_path, per_layer="1,8", windows=4)
    assert list(written["k"]) == ["1,8", "4,4"]
    assert written["reference"] == "4,4"
    assert written["k"]["1,8"]["nll_difference"] != 0


def test_the_trained_plan_is_measured_once(elastic: Path, text: Path, tmp_path: Path) -> None:
    written = figures(elastic, text, tmp_path, per_layer="4,4", windows=4)
    assert list(written["k"]) == ["4,4"]


def test_a_plan_of_one_k_is_that_k(elastic: Path, text: Path, tmp_path: Path) -> None:
    by_k = figures(elastic, text, tmp_path, k="3,4", windows=4)
    by_layer = figures(elastic, text, tmp_path, per_layer="3,3", windows=4)
    assert by_k["k"]["3"] == by_layer["k"]["3,3"]


def test_a_missing_text_is_named(elastic: Path, tmp_path: Path) -> None:
    line = refusal(elastic, tmp_path / "none.txt")
    assert line.startswith(f"--text {tmp_path}/none.txt: ")
    assert line.endswith("expected a UTF-8 text file")


def test_a_text_that_is_not_utf8_is_named(elastic: Path, text: Path) -> None:
    text.write_bytes(b"\xff\xfe")
    assert refusal(elastic, text).startswith(f"--text {text}: ")


@pytest.mark.parametrize("content", ["", "Call me"])
def test_a_text_shorter_than_a_window_is_refused(elastic: Path, text: Path, content: str) -> None:
    text.write_text(content)
    line = refusal(elastic, text)
    assert line.startswith("--text: the longest document has ")
    assert line.endswith("tokens; a window takes 16")


def test_a_folder_without_a_checkpoint_is_named(text: Path, tmp_path: Path) -> None:
    line = refusal(tmp_path, text)
    assert line.startswith(f"--checkpoint: {tmp_path}: no config.json; expected a transformers")


def test_a_folder_that_is_not_there_is_named(text: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none", text).startswith(f"--checkpoint: {tmp_path}/none: ")


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "unheard-of"}'])
def test_a_config_that_names_no_model_is_refused(text: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    result = run(tmp_path, text)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"--checkpoint: {tmp_path}: ")


def test_weights_cut_short_are_refused(elastic: Path, text: Path, tmp_path: Path) -> None:
    folder = copied(elastic, tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert refusal(folder, text).startswith(f"--checkpoint: {folder}: ")


def test_weights_that_lack_a_layer_are_refused(elastic: Path, text: Path, tmp_path: Path) -> None:
    """transformers fills the gap with random numbers and only mentions it in its log."""
    folder = copied(elastic, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    result = run(folder, text, k="4", windows=2)
    assert result.exit_code == 2, result.output
    assert f"--checkpoint: {folder}: " in result.stderr


def test_a_checkpoint_without_a_tokenizer_is_refused(
    elastic: Path, text: Path, tmp_path: Path
) -> None:
    folder = copied(elastic, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert refusal(folder, text).startswith(f"--checkpoint: {folder}: ")


def test_a_dense_model_is_refused_for_having_no_moe_layer(dense: Path, text: Path) -> None:
    line = refusal(dense, text)
    assert line.startswith(f"--checkpoint: {dense}: LlamaForCausalLM has no MoE layer")


@pytest.mark.parametrize(
    ("k", "complaint"),
    [
        ("0", "k'=0 is not in 1..8"),
        ("9", "k'=9 is not in 1..8"),
        ("-1", "k'=-1 is not in 1..8"),
        ("4,9", "k'=9 is not in 1..8"),
        ("four", "'four'"),
        ("2.5", "'2.5'"),
        ("1,,2", "'1,,2'"),
        ("", "''"),
    ],
)
def test_an_impossible_k_is_refused(elastic: Path, text: Path, k: str, complaint: str) -> None:
    line = refusal(elastic, text, k=k, windows=2)
    assert line.startswith("--k: ")
    assert complaint in line


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ("4", r"plan [4] has 1 layers, the model 2"),
        ("4,4,4", r"plan [4, 4, 4] has 3 layers, the model 2"),
        ("4,9", "k'=9 is not in 1..8"),
        ("4,x", "'4,x'"),
    ],
)
def test_an_impossible_plan_is_refused(
    elastic: Path, text: Path, plan: str, complaint: str
) -> None:
    line = refusal(elastic, text, per_layer=plan, windows=2)
    assert line.startswith("--per-layer: ")
    assert complaint in line


def test_figures_with_nowhere_to_go_are_refused(elastic: Path, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "none" / "figures.json"
    assert refusal(elastic, text, k="4", windows=2, json=file).startswith(f"--json {file}: ")


@pytest.mark.parametrize(("option", "value"), [("window", 1), ("windows", 0), ("choices", -1)])
def test_too_few_tokens_windows_or_choices_are_a_usage_error(
    elastic: Path, text: Path, option: str, value: int
) -> None:
    result = run(elastic, text, **{option: value})
    assert result.exit_code == 2
    assert f"Invalid value for '--{option}'" in result.stderr
