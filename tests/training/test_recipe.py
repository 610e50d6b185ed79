"""A recipe is strict, and knows which stage a step belongs to."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from training.recipe import Recipe, Stage, load_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"

PLAIN: dict[str, Any] = {
    "name": "plain",
    "seed": 1,
    "model": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 64,
    },
    "data": "texts.jsonl",
    "elasticity": {"k": 2, "k_range": [1, 4], "pool": 4},
    "balance_coefficient": 0.01,
    "learning_rate": 0.002,
    "final_learning_rate": 0.0001,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "stages": [{"steps": 3, "batch": 2, "context": 16}, {"steps": 2, "batch": 1, "context": 32}],
}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_under_its_own_name(path: Path) -> None:
    assert load_recipe(path).name in (path.stem, f"{path.parent.name}-{path.stem}")


def test_the_rows_of_the_elasticity_table_differ_in_nothing_but_their_routing() -> None:
    paths = [path for path in RECIPES.glob("table/*.yaml") if path.stem != "base"]
    assert len(paths) >= 7
    rows = [load_recipe(path).model_dump(exclude={"name", "elasticity"}) for path in paths]
    assert all(row == rows[0] for row in rows)


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    assert load_recipe(path) == Recipe.model_validate(PLAIN)


@pytest.mark.parametrize("section", ["recipe", "model", "stage"])
def test_an_unknown_key_is_refused_by_name(section: str) -> None:
    changed = {
        "recipe": {**PLAIN, "dropout": 0.1},
        "model": {**PLAIN, "model": {**PLAIN["model"], "dropout": 0.1}},
        "stage": {**PLAIN, "stages": [{**PLAIN["stages"][0], "dropout": 0.1}]},
    }
    with pytest.raises(ValidationError, match=r"dropout\n  Extra inputs are not permitted"):
        Recipe.model_validate(changed[section])


@pytest.mark.parametrize("key", sorted(PLAIN.keys() - {"model"}))
def test_nothing_that_decides_the_weights_has_a_default(key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}\n  Field required"):
        Recipe.model_validate({name: value for name, value in PLAIN.items() if name != key})


@pytest.mark.parametrize(
    ("elasticity", "complaint"),
    [
        ({"k": 2, "k_range": [3, 4]}, r"k_range \[3, 4\] does not hold k = 2"),
        ({"k": 2, "k_range": [1, 1]}, r"k_range \[1, 1\] does not hold k = 2"),
        ({"k": 2, "k_range": [0, 4]}, r"k_range.0\n  Input should be greater than 0"),
        ({"k": 2, "pool": 1}, "pool 1 is smaller than k = 2"),
        ({"k": 2, "capacity_temperature": 2}, "capacity_temperature needs a k_range"),
        ({"k": 2, "draw_per": "sequence"}, "draws from a k_range"),
        ({"k": 2, "k_range": [1, 4], "pool": 4, "draw_per": "sequence"}, "knows no pool"),
        ({"k": 2, "distillation": 1}, "distillation needs a k_range or a pool"),
        ({"k": 2, "share": 0}, "greater than 0"),
        ({"k": 2, "share": 1.5}, "less than or equal to 1"),
        ({"k": 2, "router_loss": -1}, "greater than or equal to 0"),
        ({"k": 2, "pool": 5}, "elasticity reaches 5 experts, the model has 4"),
        ({"k": 5}, "elasticity reaches 5 experts, the model has 4"),
        ({}, "k\n  Field required"),
    ],
)
def test_a_routing_that_cannot_be_is_refused(elasticity: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Recipe.model_validate({**PLAIN, "elasticity": elasticity})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": None}, r"either model \(random weights\) or start \(a checkpoint\)"),
        ({"start": "checkpoints/one"}, r"either model \(random weights\) or start"),
        ({"lora": {"rank": 4, "alpha": 8}}, "lora adapts a checkpoint: start must be given"),
    ],
)
def test_a_recipe_starts_from_one_thing(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Recipe.model_validate({**PLAIN, **changes})


def test_the_seed_finds_its_place_in_the_path_of_the_start() -> None:
    recipe = Recipe.model_validate({**PLAIN, "model": None, "start": "runs/base-{seed}/out"})
    assert recipe.start_folder == Path("runs/base-1/out")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe.model_validate(PLAIN).seed = 2  # type: ignore[misc]


def test_a_step_belongs_to_the_stage_it_falls_in() -> None:
    recipe = Recipe.model_validate(PLAIN)
    short = Stage(steps=3, batch=2, context=16)
    long = Stage(steps=2, batch=1, context=32)
    assert [recipe.stage_at(step) for step in range(5)] == [short, short, short, long, long]
    assert recipe.num_steps == 5


def test_a_step_beyond_the_recipe_is_refused() -> None:
    with pytest.raises(IndexError, match="step beyond the recipe's 5"):
        Recipe.model_validate(PLAIN).stage_at(5)
