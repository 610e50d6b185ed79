"""`kprime inspect` as an operator meets it: the table, the proof or refusal, the exit status."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from transformers import PreTrainedModel
from typer.testing import CliRunner, Result

from commands.inspection import inspect
from tests.runtime.families import FAMILIES, REFUSED, Family

TOKENIZER = Path("checkpoints/prose-52m")


def run(*arguments: Path | str) -> Result:
    app = typer.Typer()
    app.command()(inspect)
    # Wide, so that no cell of the table is wrapped.
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])


def enlarged(name: str, **fields: object) -> Family:
    """With a vocabulary that the proof's tokens and the shipped tokenizer fit in."""
    family = FAMILIES[name]
    return replace(family, fields=family.fields | {"vocab_size": 4096} | fields)


def save(model: PreTrainedModel, folder: Path, *, tokenizer: bool = False) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json") if tokenizer else ():
        shutil.copy(TOKENIZER / name, folder)
    return folder


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def rows(result: Result) -> list[list[str]]:
    return [cells(line) for line in result.stdout.splitlines() if line.startswith("│")]


@pytest.mark.parametrize("tokenizer", [True, False])
def test_an_elastic_checkpoint_is_listed_and_proved(tmp_path: Path, tokenizer: bool) -> None:
    folder = save(enlarged("qwen3_moe").build(), tmp_path, tokenizer=tokenizer)
    result = run(folder)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "Qwen3MoeForCausalLM: 2 MoE layers with a dial"
    said = "elastic k': proved; classes that share a step: each class at its own k'"
    assert result.stdout.splitlines()[-1] == said
    what = ["Qwen3MoeTopKRouter", "top_k", "3", "8", "8", "renormalised"]
    assert rows(result) == [[f"model.layers.{n}.mlp", *what] for n in (0, 1)]


@pytest.mark.parametrize(
    ("name", "fields", "weights"),
    [
        ("qwen3_moe", {"kprime": {"above_k": "anchored"}}, "anchored above k"),
        ("olmoe", {}, "not renormalised"),
        ("deepseek_v3", {}, "renormalised"),
    ],
)
def test_the_rule_of_the_weights_is_named(
    tmp_path: Path, name: str, fields: dict[str, object], weights: str
) -> None:
    result = run(save(enlarged(name, **fields).build(), tmp_path))
    assert [row[-1] for row in rows(result)] == [weights, weights]


def test_what_limits_k_and_what_sets_it_are_those_of_the_family(tmp_path: Path) -> None:
    gemma, deepseek = (
        save(FAMILIES[name].build(), tmp_path / name) for name in ("gemma4", "deepseek_v3")
    )
    assert [row[2] for row in rows(run(gemma))] == ["config.top_k_experts"] * 2
    assert [row[5] for row in rows(run(deepseek))] == ["4", "4"]


def test_the_json_has_the_same_facts(tmp_path: Path) -> None:
    folder, file = save(FAMILIES["olmoe"].build(), tmp_path / "model"), tmp_path / "facts.json"
    assert run(folder, "--json", file).exit_code == 0
    facts = json.loads(file.read_text())
    assert facts == {
        "checkpoint": str(folder),
        "model": "OlmoeForCausalLM",
        "layers": [
            {
                "layer": f"model.layers.{number}.mlp",
                "router": "OlmoeTopKRouter",
                "k_attribute": "top_k",
                "k": 3,
                "experts": 8,
                "max_k": 8,
                "weights": "not renormalised",
            }
            for number in (0, 1)
        ],
        "fixed": {},
        "elastic": True,
        "refusal": None,
        "by_class": "each class at its own k'",
    }


def test_a_layer_that_is_fixed_is_listed_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.checkpoint.best_dtype", lambda: torch.float32)
    mixed = enlarged("deepseek_v4", mlp_layer_types=["hash_moe", "moe"])
    result = run(save(mixed.build(), tmp_path))
    assert result.exit_code == 0
    assert [row[0] for row in rows(result)] == ["model.layers.1.mlp"]
    assert "fixed: model.layers.0.mlp: DeepseekV4HashRouter takes its experts" in result.stdout


def test_a_family_without_a_dial_is_refused_with_the_reason(tmp_path: Path) -> None:
    family, k, _layer, reason = REFUSED["llama4"]
    file = tmp_path / "facts.json"
    result = run(save(family.build(k), tmp_path / "model"), "--json", file)
    assert result.exit_code == 2
    assert result.stderr.startswith("refused: Llama4ForCausalLM: model.layers.0.feed_forward: ")
    assert reason in result.stderr
    facts = json.loads(file.read_text())
    assert (facts["layers"], facts["elastic"]) == ([], False)
    assert reason in facts["refusal"]


@pytest.mark.parametrize("tokenizer", [True, False])
def test_layers_that_fail_the_proof_are_listed_all_the_same(
    tmp_path: Path, tokenizer: bool
) -> None:
    model = enlarged("qwen3_moe").build()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.experts.down_proj)
    result = run(save(model, tmp_path, tokenizer=tokenizer))
    assert result.exit_code == 2
    assert "k'=1 leaves the output unchanged" in result.stderr
    assert [row[-1] for row in rows(result)] == ["unknown", "unknown"]


def test_a_model_that_does_not_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.19 leaves a part of DeepSeek-V4 in float32 when it is loaded in bfloat16."""
    monkeypatch.setattr("runtime.checkpoint.best_dtype", lambda: torch.bfloat16)
    result = run(save(FAMILIES["deepseek_v4"].build(), tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"refused: {tmp_path}: the model does not run here: ")
    assert len(rows(result)) == 2


def test_a_folder_without_a_checkpoint_is_bad_input(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"{tmp_path}: no config.json; expected a transformers checkpoint folder\n"
    )


def test_a_file_that_could_not_be_written_is_refused_before_the_proof(tmp_path: Path) -> None:
    result = run(tmp_path, "--json", tmp_path / "none" / "facts.json")
    assert result.exit_code == 2
    assert "expected a file name in an existing folder" in result.stderr


def test_the_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "kprime inspect checkpoints/prose-52m" in result.stdout
