"""The training loop: recipe in, checkpoint folder out. Resumable, deterministic by seed.

Every step is a function of (seed, step): which windows it reads and which experts each layer runs.
So a resumed run continues exactly where the interrupted one stopped.
"""

import json
import math
import time
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TextColumn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from runtime.checkpoint import best_dtype
from training.corpus import Document
from training.data import plain_chat, read_jsonl
from training.experts import keep_freed_memory, use_fast_experts
from training.losses import (
    balance_loss,
    distillation_loss,
    hierarchical_router_loss,
    next_token_loss,
)
from training.models import build_model, load_start, wrap_lora
from training.recipe import Recipe, Stage
from training.routing import TrainingRouting
from training.tokens import token_stream, train_tokenizer, write_split

STEPS_BETWEEN_SAVES = 100
STEPS_BETWEEN_VALIDATIONS = 250
NUM_VALIDATION_WINDOWS = 24
VALIDATION_TOKENS = 256
VALIDATION_KS = (1, 2, 4, 8, 16, 24)


class DataError(ValueError):
    """The data set cannot be trained on."""


def train(recipe: Recipe, run: Path, out: Path) -> None:
    """Run `recipe` to its end, continuing from `run` if it holds an interrupted one.

    Writes metrics as JSON lines and the training state to `run`, the finished checkpoint,
    tokenizer and held-out texts to `out`. Raises ValueError for data or a start that do not fit.
    """
    keep_freed_memory()
    disable_progress_bar()  # there is one of our own
    torch.manual_seed(recipe.seed)
    model, tokenizer, documents = _materials(recipe)
    train_ids, validation_ids = (
        token_stream(documents, split, tokenizer) for split in ("train", "validation")
    )
    _check_lengths(recipe, train_ids, validation_ids)
    run.mkdir(parents=True, exist_ok=True)

    routing = TrainingRouting(model, recipe.elasticity)
    use_fast_experts(model)
    trained = wrap_lora(model, recipe.lora, routing.dial) if recipe.lora else model
    optimizer = torch.optim.AdamW(
        _decay_groups(trained, recipe.weight_decay), betas=(0.9, 0.95), fused=True
    )
    first_step = _resume(run, trained, optimizer)
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns) as progress, (run / "metrics.jsonl").open("a", buffering=1) as metrics:
        task = progress.add_task(recipe.name, total=recipe.num_steps, completed=first_step, loss="")
        for step in range(first_step, recipe.num_steps):
            row = train_step(recipe, step, trained, optimizer, routing, train_ids)
            last = step + 1 == recipe.num_steps
            if (step + 1) % STEPS_BETWEEN_VALIDATIONS == 0 or last:
                row["validation_nll"] = {
                    k: validation_nll(model, routing, validation_ids, k)
                    for k in VALIDATION_KS
                    if k <= routing.dial.max_k
                }
            if (step + 1) % STEPS_BETWEEN_SAVES == 0 or last:
                _save(run, trained, optimizer, step + 1)
            metrics.write(json.dumps(row) + "\n")
            progress.update(task, advance=1, loss=f"loss {row['loss']:.3f}")

    routing.dial.set([recipe.elasticity.k] * len(routing.dial.layers))
    if recipe.lora:
        trained.merge_and_unload()  # in place
    model.to(model.config.dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for split in ("validation", "test"):
        write_split(documents, split, out / f"{split}.txt")


def train_step(
    recipe: Recipe,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    routing: TrainingRouting,
    ids: np.ndarray,
) -> dict[str, Any]:
    """One update of the weights; gives the row of metrics."""
    started_s = time.perf_counter()
    stage = recipe.stage_at(step)
    routing.begin_step(recipe.seed, step, stage.batch)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    ids_BS = draw_windows(ids, stage, np.random.default_rng((recipe.seed, step)))
    if recipe.elasticity.distillation:
        with routing.served_at(recipe.elasticity.k):
            losses, teacher_BSV = _learn_from_text(recipe, model, routing, ids_BS)
        losses |= _learn_from_itself(recipe, model, ids_BS, teacher_BSV)
    else:
        losses, _ = _learn_from_text(recipe, model, routing, ids_BS)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "step": step,
        **losses,
        "draws": [[astuple(draw) for draw in draws] for draws in routing.draws],
        "grad_norm": norm.item(),
        "tokens_per_s": stage.batch * stage.context / (time.perf_counter() - started_s),
    }


def _learn_from_text(
    recipe: Recipe, model: torch.nn.Module, routing: TrainingRouting, ids_BS: torch.Tensor
) -> tuple[dict[str, float], torch.Tensor]:
    """Add the gradient of the next token's and the routers' losses; gives these and the logits."""
    with _mixed_precision():
        logits_BSV = model(ids_BS, use_cache=False).logits
    cross_entropy = next_token_loss(logits_BSV, ids_BS)
    layers = routing.router_logits
    balance = sum(balance_loss(logits, recipe.elasticity.k) for logits in layers) / len(layers)
    router = sum(hierarchical_router_loss(logits) for logits in layers) / len(layers)
    loss = (
        cross_entropy
        + recipe.balance_coefficient * balance
        + recipe.elasticity.router_loss * router
    )
    loss.backward()
    losses = {"loss": cross_entropy, "balance": balance, "router": router}
    return {name: each.item() for name, each in losses.items()}, logits_BSV.detach()


def _learn_from_itself(
    recipe: Recipe, model: torch.nn.Module, ids_BS: torch.Tensor, teacher_BSV: torch.Tensor
) -> dict[str, float]:
    """Add the gradient of the divergence from what the model predicted at its full k'."""
    with _mixed_precision():
        logits_BSV = model(ids_BS, use_cache=False).logits
    divergence = distillation_loss(logits_BSV, teacher_BSV)
    (recipe.elasticity.distillation * divergence).backward()
    return {"distillation": divergence.item()}


def draw_windows(ids: np.ndarray, stage: Stage, random: np.random.Generator) -> torch.Tensor:
    """Random windows of the stream, shape (batch, context)."""
    starts = random.integers(0, len(ids) - stage.context + 1, size=stage.batch)
    return torch.from_numpy(np.stack([ids[s : s + stage.context] for s in starts])).long()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.num_steps - recipe.warmup_steps)
    span = recipe.learning_rate - recipe.final_learning_rate
    return recipe.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def validation_nll(
    model: torch.nn.Module, routing: TrainingRouting, ids: np.ndarray, k: int
) -> float:
    """Mean nats a token over evenly spaced windows, every layer at `k`."""
    size = min(VALIDATION_TOKENS, len(ids))
    starts = np.linspace(0, len(ids) - size, NUM_VALIDATION_WINDOWS).astype(int)
    windows_BS = torch.from_numpy(np.stack([ids[s : s + size] for s in starts])).long()
    with routing.served_at(k), _mixed_precision():
        logits_BSV = model(windows_BS, use_cache=False).logits
    return next_token_loss(logits_BSV, windows_BS).item()


def _materials(
    recipe: Recipe,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, list[Document]]:
    """Model, tokenizer and documents: a new tokenizer for a new model, else the checkpoint's."""
    if recipe.model:
        documents = read_jsonl(recipe.data)
        tokenizer = train_tokenizer(documents, recipe.model.vocab_size)
        return build_model(recipe, tokenizer.eos_token_id), tokenizer, documents
    model, tokenizer = load_start(recipe)
    template = partial(tokenizer.apply_chat_template, tokenize=False)
    return (
        model,
        tokenizer,
        read_jsonl(recipe.data, template if tokenizer.chat_template else plain_chat),
    )


def _check_lengths(recipe: Recipe, train_ids: np.ndarray, validation_ids: np.ndarray) -> None:
    longest = max(stage.context for stage in recipe.stages)
    if len(train_ids) < longest:
        raise DataError(
            f"{recipe.data}: {len(train_ids)} tokens to train on; a window has {longest}"
        )
    if len(validation_ids) < 2:
        raise DataError(
            f"{recipe.data}: no document fell to validation (one in twenty does, by the hash of "
            "its name); give more documents"
        )


def _mixed_precision() -> torch.autocast:
    """Weights stay fp32; products are bf16 where the processor multiplies it."""
    return torch.autocast(
        "cuda" if torch.cuda.is_available() else "cpu",
        dtype=torch.bfloat16,
        enabled=best_dtype() == torch.bfloat16,
    )


def _decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; norms do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _save(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, run / "state.tmp")
    (run / "state.tmp").rename(run / "state.pt")


def _resume(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not (run / "state.pt").exists():
        return 0
    state = torch.load(run / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
