"""Every step is a function of seed and step, so an interrupt leaves no trace in the weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from runtime.checkpoint import load_checkpoint
from training import train as training
from training.corpus import Document
from training.data import write_jsonl
from training.recipe import Recipe, Stage
from training.train import DataError, draw_windows, learning_rate, train

WORDS = ("whale", "sea", "ship", "the", "and", "of", "Ahab", "said", "white", "deep")
STAGE = Stage(steps=1, batch=3, context=10)


def recipe(**changes: Any) -> Recipe:  # noqa: ANN401  (any field of a Recipe)
    plain = {
        "name": "tiny",
        "seed": 7,
        "model": {
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_experts": 12,
            "moe_intermediate_size": 16,
            "max_position_embeddings": 512,
        },
        "data": "books.jsonl",
        "elasticity": {"k": 2, "k_range": [1, 4], "pool": 4, "router_loss": 0.001},
        "balance_coefficient": 0.01,
        "learning_rate": 0.002,
        "final_learning_rate": 0.0001,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "stages": [
            {"steps": 4, "batch": 2, "context": 16},
            {"steps": 2, "batch": 1, "context": 32},
        ],
    }
    return Recipe.model_validate(plain | changes)


def generator(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng((seed, step))


def test_the_learning_rate_climbs_to_its_peak_and_falls_to_its_end() -> None:
    long = recipe(warmup_steps=10, stages=[{"steps": 110, "batch": 1, "context": 16}])
    rates = [learning_rate(long, step) for step in range(111)]
    assert rates[0] == pytest.approx(0.0002)
    assert rates[4] == pytest.approx(0.001)
    assert rates[9] == rates[10] == 0.002
    assert rates[60] == pytest.approx(0.00105)
    assert rates[110] == pytest.approx(0.0001)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_recipe_that_is_all_warm_up_only_climbs() -> None:
    short = recipe(warmup_steps=6)
    rates = [learning_rate(short, step) for step in range(6)]
    assert rates == sorted(rates)
    assert rates[-1] == 0.002


def test_windows_are_stretches_of_the_stream() -> None:
    windows_BS = draw_windows(np.arange(100, dtype=np.int32), STAGE, generator(7, 0))
    assert windows_BS.shape == (3, 10)
    assert windows_BS.dtype == torch.int64
    assert torch.equal(windows_BS - windows_BS[:, :1], torch.arange(10).expand(3, 10))
    assert windows_BS.min() >= 0
    assert windows_BS.max() <= 99


def test_windows_follow_from_seed_and_step() -> None:
    ids = np.arange(1000, dtype=np.int32)
    windows_BS = draw_windows(ids, STAGE, generator(7, 3))
    assert torch.equal(windows_BS, draw_windows(ids, STAGE, generator(7, 3)))
    assert not torch.equal(windows_BS, draw_windows(ids, STAGE, generator(7, 4)))


def test_a_stream_as_long_as_one_window_is_enough() -> None:
    windows_BS = draw_windows(np.arange(10, dtype=np.int32), STAGE, generator(7, 0))
    assert torch.equal(windows_BS, torch.arange(10).expand(3, 10))


def book(name: str, seed: int) -> Document:
    return Document(name, " ".join(np.random.default_rng(seed).choice(WORDS, 1200)))


# The names decide the split: two for training, one to validate, one to test.
BOOKS = [book("austen/emma_001", 1), book("moby/chapter_1", 2)]
HELD_OUT = [book("austen/emma_026", 3), book("austen/emma_009", 4)]


class Run:
    """One training run of a tiny model in a folder of its own."""

    def __init__(self, folder: Path, **changes: Any) -> None:  # noqa: ANN401
        self.run, self.out = folder / "run", folder / "out"
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / "books.jsonl"
        write_jsonl([*BOOKS, *HELD_OUT], data)
        self.recipe = recipe(data=data, **changes)

    def go(self) -> None:
        train(self.recipe, self.run, self.out)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]

    @property
    def state(self) -> dict[str, Any]:
        return torch.load(self.run / "state.pt", weights_only=True)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.out / "model.safetensors")


def interrupted_at(step: int) -> Callable[[Recipe, int], float]:
    """Stands in for learning_rate, which every step asks before it changes a weight."""

    def rate(of: Recipe, at: int) -> float:
        if at == step:
            raise KeyboardInterrupt
        return learning_rate(of, at)

    return rate


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Saves and validates every second step, on little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STEPS_BETWEEN_SAVES", 2)
        patch.setattr(training, "STEPS_BETWEEN_VALIDATIONS", 2)
        patch.setattr(training, "NUM_VALIDATION_WINDOWS", 2)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The six steps of the recipe without an interrupt."""
    run = Run(tmp_path_factory.mktemp("finished"))
    run.go()
    return run


@pytest.mark.parametrize("step", [3, 4])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Bit for bit, whether the interrupt came just after a save or a step later."""
    resumed = Run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "learning_rate", interrupted_at(step))
        resumed.go()
    assert not resumed.out.exists()
    assert resumed.state["step"] == step // 2 * 2

    resumed.go()
    assert resumed.state["step"] == finished.state["step"] == 6
    expected = finished.state["model"]
    for name, weight in resumed.state["model"].items():
        assert torch.equal(weight, expected[name]), name
    weights = "model.safetensors"
    assert (resumed.out / weights).read_bytes() == (finished.out / weights).read_bytes()


def test_a_finished_run_started_again_only_writes_the_checkpoint(
    finished: Run, tmp_path: Path
) -> None:
    again = Run(tmp_path)
    again.run = finished.run
    again.go()
    assert len(finished.metrics) == 6
    weights = "model.safetensors"
    assert (again.out / weights).read_bytes() == (finished.out / weights).read_bytes()


def test_every_step_leaves_a_line_with_what_every_layer_drew(finished: Run) -> None:
    rows = finished.metrics
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert all(len(row["draws"]) == 2 for row in rows)
    assert len({str(row["draws"]) for row in rows}) > 1
    drawn = [draw for row in rows for [draw] in row["draws"]]
    assert all(1 <= k <= 4 and pool == 2 * k for k, pool in drawn)
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in rows)


def test_with_distillation_the_text_is_learnt_at_full_k_and_the_draw_learns_from_that(
    tmp_path: Path,
) -> None:
    one_step = [{"steps": 1, "batch": 4, "context": 16}]
    plain = Run(tmp_path / "plain", stages=one_step, elasticity={"k": 2})
    drawn = {"k": 2, "k_range": [1, 4], "draw_per": "sequence", "distillation": 1}
    distilled = Run(tmp_path / "distilled", stages=one_step, elasticity=drawn)
    plain.go()
    distilled.go()
    [expected], [row] = plain.metrics, distilled.metrics
    assert row["loss"] == expected["loss"]
    assert row["balance"] == expected["balance"]
    assert row["distillation"] > 0
    assert {k for draws in row["draws"] for k, _pool in draws} > {2}
    assert row["grad_norm"] != expected["grad_norm"]


def test_held_out_quality_is_measured_between_steps(finished: Run) -> None:
    measured = [row["step"] for row in finished.metrics if "validation_nll" in row]
    assert measured == [1, 3, 5]
    assert set(finished.metrics[5]["validation_nll"]) == {"1", "2", "4", "8"}


def test_another_seed_trains_another_model(finished: Run, tmp_path: Path) -> None:
    other = Run(tmp_path, seed=8)
    other.go()
    name = "model.layers.0.mlp.gate.weight"
    assert not torch.equal(other.weights[name], finished.weights[name])


def test_the_checkpoint_can_be_served(finished: Run) -> None:
    checkpoint = load_checkpoint(finished.out)
    assert checkpoint.dial.plan == (2, 2)
    assert checkpoint.context_tokens == 512
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("the whale")) == "the whale"
    assert isinstance(checkpoint.tokenizer, PreTrainedTokenizerFast)
    assert {weight.dtype for weight in finished.weights.values()} == {torch.bfloat16}


def test_the_held_out_texts_are_shipped_with_the_checkpoint(finished: Run) -> None:
    validation, test = HELD_OUT
    assert (finished.out / "validation.txt").read_text() == validation.text + "\n"
    assert (finished.out / "test.txt").read_text() == test.text + "\n"


def test_a_run_can_start_from_the_checkpoint_of_another(finished: Run, tmp_path: Path) -> None:
    """With another k to serve with: that is how the specialists are made."""
    (tmp_path / "fini7").symlink_to(finished.out)
    start = str(tmp_path / "fini{seed}")
    further = Run(tmp_path, model=None, start=start, elasticity={"k": 3})
    further.go()
    assert load_checkpoint(further.out).dial.plan == (3, 3)
    assert further.metrics[0]["loss"] < finished.metrics[0]["loss"]
    assert (further.out / "tokenizer.json").read_text() == (
        finished.out / "tokenizer.json"
    ).read_text()


@pytest.mark.parametrize(
    ("documents", "complaint"),
    [
        (BOOKS, "no document fell to validation"),
        (HELD_OUT, "0 tokens to train on; a window has 32"),
        ([Document("austen/emma_001", "the sea"), *HELD_OUT], "tokens to train on; a window has"),
    ],
)
def test_data_that_leave_a_split_too_small_are_refused(
    tmp_path: Path, documents: list[Document], complaint: str
) -> None:
    run = Run(tmp_path)
    write_jsonl(documents, run.recipe.data)
    with pytest.raises(DataError, match=complaint):
        run.go()
    assert not run.run.exists()


def test_a_start_that_has_too_few_experts_is_refused(finished: Run, tmp_path: Path) -> None:
    run = Run(tmp_path, model=None, start=str(finished.out), elasticity={"k": 2, "pool": 13})
    with pytest.raises(ValueError, match="elasticity reaches 13 experts, the model has 12"):
        run.go()


def test_a_start_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, model=None, start=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"none: no config.json"):
        run.go()
