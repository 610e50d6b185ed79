"""A user's own checkpoint, of any family, becomes an elastic one that can be calibrated."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from controller.signals import Step
from runtime.calibrate import calibrate
from runtime.checkpoint import load_checkpoint
from runtime.evaluate import cut_windows, read_documents
from runtime.ledger import Ledger
from runtime.measurements import CHOOSING, MEASURING, Measurements, Plan
from runtime.step_fit import TimedStep
from tests.training.families import FAMILIES
from training.recipe import Recipe
from training.train import train

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
SENTENCES = (
    "The whale rose.",
    "Call me Ishmael.",
    "It was the best of times.",
    "All happy families",
)


BOTH_PAPERS = {"k": 2, "k_range": [1, 4], "pool": 4, "router_loss": 0.001}
DISTILLED = {"k": 2, "k_range": [1, 4], "draw_per": "sequence", "distillation": 1.0}


class OwnClock(Measurements):
    """Steps run on the real engine; what they take is by what was counted, and no clock.

    Of a model so small, time says little of k': a busy moment makes one expert as dear as two.
    """

    def steps(self, name: str, plans: Sequence[Plan], repeats: int) -> list[TimedStep]:
        return [
            each._replace(step=replace(each.step, duration_s=_seconds(each.step)))
            for each in super().steps(name, plans, repeats)
        ]


def _seconds(step: Step) -> float:
    counted = step.work.tokens + sum(step.distinct_experts) + sum(step.expert_slots)
    return 1e-3 + 1e-5 * counted


@pytest.fixture(params=FAMILIES, ids=lambda build: build.__name__)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random checkpoint of one family with a tokenizer that has a chat template."""
    folder = tmp_path / "start"
    request.param(vocab_size=300, eos_token_id=0).save_pretrained(folder)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES, 300, special_tokens=["<|end|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Enough chats for one in twenty to be held out."""
    path = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": SENTENCES[n % 4] * 8}]} for n in range(120)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def fine_tuned(start: Path, chats: Path, tmp_path: Path, **changes: Any) -> Path:  # noqa: ANN401
    plain = {
        "name": "tuned",
        "seed": 3,
        "start": str(start),
        "data": chats,
        "elasticity": BOTH_PAPERS,
        "balance_coefficient": 0.01,
        "learning_rate": 0.01,
        "final_learning_rate": 0.01,
        "warmup_steps": 1,
        "weight_decay": 0.0,
        "stages": [{"steps": 8, "batch": 4, "context": 32}],
    }
    train(Recipe.model_validate(plain | changes), tmp_path / "run", tmp_path / "out")
    return tmp_path / "out"


def losses(tmp_path: Path) -> list[float]:
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 16}], ids=["full", "lora"])
@pytest.mark.parametrize("elasticity", [BOTH_PAPERS, DISTILLED], ids=["papers", "distilled"])
def test_fine_tuning_learns_and_ends_in_an_elastic_checkpoint(
    start: Path,
    chats: Path,
    tmp_path: Path,
    elasticity: dict[str, Any],
    lora: dict[str, float] | None,
) -> None:
    out = fine_tuned(start, chats, tmp_path, elasticity=elasticity, lora=lora)
    first, *_, last = losses(tmp_path)
    assert last < first - 0.1
    assert load_checkpoint(out).dial.plan == (2, 2)
    assert "<user>" in (out / "validation.txt").read_text()  # by the tokenizer's own template


@pytest.mark.slow
def test_a_fine_tuned_checkpoint_can_be_calibrated(
    start: Path, chats: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(fine_tuned(start, chats, tmp_path))
    windows = cut_windows(read_documents(checkpoint, "The whale rose. " * 40), 16)
    measured = OwnClock(
        checkpoint,
        dict(zip((CHOOSING, MEASURING), windows.split(3), strict=True)),
        Ledger(tmp_path / "partial", {}),
        threads=1,
        max_batch_tokens=64,
    )
    profile = calibrate(measured, [1, 2], repeats=1, noise_bound=10.0)
    assert profile.fit.mape_held_out < 0.1
    # A plan by layer half-way between is a rung if the few windows say so.
    assert [rung.mean_k for rung in profile.rungs] in ([1, 2], [1, 1.5, 2])


def test_adapters_reach_attention_experts_and_routers_and_nothing_else(
    start: Path, chats: Path, tmp_path: Path
) -> None:
    before = load_file(start / "model.safetensors")
    after = load_file(
        fine_tuned(start, chats, tmp_path, lora={"rank": 4, "alpha": 16}) / "model.safetensors"
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name])}
    layer = {name.split("layers.1.")[1] for name in changed if "layers.1." in name}
    assert any("q_proj" in name for name in layer)
    assert any("experts" in name for name in layer)
    assert any(name.endswith("gate.weight") for name in layer)
    assert not any("norm" in name or "embed" in name or "lm_head" in name for name in changed)
