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
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 64,
    },
    "k_range": [1, 4],
    "balance_coefficient": 0.01,
    "learning_rate": 0.002,
    "final_learning_rate": 0.0001,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "stages": [{"steps": 3, "batch": 2, "context": 16}, {"steps": 2, "batch": 1, "context": 32}],
}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_recipe_loads_under_its_own_name(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_recipe_draws_the_k_it_is_served_at(path: Path) -> None:
    recipe = load_recipe(path)
    low, high = recipe.k_range
    assert low <= recipe.model.num_experts_per_tok <= high


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


@pytest.mark.parametrize("key", sorted(PLAIN))
def test_nothing_has_a_default(key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}\n  Field required"):
        Recipe.model_validate({name: value for name, value in PLAIN.items() if name != key})


@pytest.mark.parametrize("k_range", [[1, 5], [3, 2], [5, 6]])
def test_a_k_range_that_the_experts_cannot_serve_is_refused(k_range: list[int]) -> None:
    low, high = k_range
    with pytest.raises(ValidationError, match=rf"k_range {low}..{high} does not fit 1..4"):
        Recipe.model_validate({**PLAIN, "k_range": k_range})


def test_a_k_range_that_starts_at_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"k_range.0\n  Input should be greater than 0"):
        Recipe.model_validate({**PLAIN, "k_range": [0, 4]})


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
