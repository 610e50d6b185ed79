"""A training recipe: everything that decides the checkpoint, in one strict YAML file."""

from pathlib import Path

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelShape(Strict):
    """Qwen3-MoE layout; sizes in units of features, heads and experts."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    num_experts: PositiveInt
    num_experts_per_tok: PositiveInt
    moe_intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt


class Stage(Strict):
    """A run of steps at one context length."""

    steps: PositiveInt
    batch: PositiveInt
    context: PositiveInt


class Recipe(Strict):
    name: str
    seed: int
    model: ModelShape
    k_range: tuple[PositiveInt, PositiveInt]  # k_l ~ U[low, high], per layer, per step
    balance_coefficient: float
    learning_rate: PositiveFloat
    final_learning_rate: PositiveFloat
    warmup_steps: PositiveInt
    weight_decay: float
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _draws_what_the_model_has(self) -> "Recipe":
        low, high = self.k_range
        if not low <= high <= self.model.num_experts:
            raise ValueError(f"k_range {low}..{high} does not fit 1..{self.model.num_experts}")
        return self

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise IndexError(f"step beyond the recipe's {self.num_steps}")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises ValueError naming the file and every problem in it."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        problems = (
            f"{path}: {'.'.join(map(str, each['loc'])) or 'recipe'}: {each['msg']}"
            for each in error.errors()
        )
        raise ValueError("\n".join(problems)) from error
