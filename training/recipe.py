"""A training recipe: everything that decides the checkpoint, in one strict YAML file."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
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
    moe_intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt


class Elasticity(Strict):
    """Which experts a layer runs while it trains. Served, it always runs the top k' of its router.

    With nothing but `k`: the top k, as in any MoE. With `k_range`, M-MoE (arXiv 2509.26520): every
    layer draws its k' anew in every step, or for every sequence of it. With `pool`, EMoE (arXiv
    2509.21892): every token draws its k' experts from its top k~, k~ ~ U[k', pool]. With both:
    pools grow in proportion to the drawn k', as pool : k.

    With `distillation`, a batch runs twice: with the top k, learning from the text, then as drawn,
    learning from what the first run predicted (in-place distillation, arXiv 1903.05134).
    """

    k: PositiveInt  # served as "full", and what the load is balanced over
    k_range: tuple[PositiveInt, PositiveInt] | None = None
    draw_per: Literal["step", "sequence"] = "step"
    # M-MoE's capacity-aware rule: P(k') ~ k'^(1 / temperature). None: uniform.
    capacity_temperature: PositiveFloat | None = None
    pool: PositiveInt | None = None  # k_ideal
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the draws; the rest run the top k
    distillation: NonNegativeFloat = 0.0  # weight of the second run's loss
    router_loss: NonNegativeFloat = 0.0  # lambda of the hierarchical router loss

    @model_validator(mode="after")
    def _ranges_hold_k(self) -> "Elasticity":
        if self.k_range and not self.k_range[0] <= self.k <= self.k_range[1]:
            raise ValueError(f"k_range {list(self.k_range)} does not hold k = {self.k}")
        if self.pool and self.pool < self.k:
            raise ValueError(f"pool {self.pool} is smaller than k = {self.k}")
        if self.capacity_temperature and not self.k_range:
            raise ValueError("capacity_temperature needs a k_range to draw from")
        if self.draw_per == "sequence" and (self.pool or not self.k_range):
            raise ValueError("draw_per: sequence draws from a k_range and knows no pool")
        if self.distillation and not (self.k_range or self.pool):
            raise ValueError("distillation needs a k_range or a pool to draw from")
        return self

    @property
    def widest(self) -> int:
        """The most experts of a token that any draw looks at."""
        return max(self.k, self.pool or 0, self.k_range[1] if self.k_range else 0)


class Lora(Strict):
    """Low-rank adapters on attention and experts; routers are small and train whole."""

    rank: PositiveInt
    alpha: PositiveFloat


class Stage(Strict):
    """A run of steps at one context length."""

    steps: PositiveInt
    batch: PositiveInt
    context: PositiveInt


class Recipe(Strict):
    name: str
    seed: int
    # From random weights of this shape, or from a checkpoint; "{seed}" in its path is filled in.
    model: ModelShape | None = None
    start: str | None = None
    data: Path  # JSON lines with "text" or "messages"; the prose corpus is runs/corpus/prose.jsonl
    lora: Lora | None = None  # without it, all weights train
    elasticity: Elasticity
    balance_coefficient: NonNegativeFloat
    learning_rate: PositiveFloat
    final_learning_rate: PositiveFloat
    warmup_steps: PositiveInt
    weight_decay: NonNegativeFloat
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _hangs_together(self) -> "Recipe":
        if (self.model is None) == (self.start is None):
            raise ValueError("either model (random weights) or start (a checkpoint) must be given")
        if self.lora and self.start is None:
            raise ValueError("lora adapts a checkpoint: start must be given")
        if self.model and self.elasticity.widest > self.model.num_experts:
            raise ValueError(
                f"elasticity reaches {self.elasticity.widest} experts, "
                f"the model has {self.model.num_experts}"
            )
        return self

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def start_folder(self) -> Path | None:
        return Path(self.start.format(seed=self.seed)) if self.start else None

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
