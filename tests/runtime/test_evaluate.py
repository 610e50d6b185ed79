"""Windows, their measures against models whose answers are known, and the intervals."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.evaluate import (
    Quality,
    TextError,
    Windows,
    cut_windows,
    evaluate,
    interval,
    retention,
)


class ByteTokenizer:
    """One token a byte."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class PairTokenizer:
    """One token for two bytes, numbered by the second."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode()[1::2])


class MemoryDial:
    """Keeps the plans that something ran under."""

    def __init__(self) -> None:
        self.plans: list[Sequence[int]] = []

    @contextmanager
    def at(self, plan: Sequence[int]) -> Iterator[None]:
        self.plans.append(plan)
        yield


class FormulaModel:
    """Logits over 256 tokens as a formula of the input ids."""

    device = torch.device("cpu")

    def __init__(self, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._logits = logits

    def __call__(self, ids_BS: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self._logits(ids_BS))


def undecided(ids_BS: torch.Tensor) -> torch.Tensor:
    """All tokens alike; the first of them, 0, counts as the guess."""
    return torch.zeros(*ids_BS.shape, 256)


def counting(ids_BS: torch.Tensor) -> torch.Tensor:
    """Certain that the next byte is one more than this."""
    return 100.0 * torch.nn.functional.one_hot((ids_BS + 1) % 256, 256)


def checkpoint(
    model: Any = None,  # noqa: ANN401  (stands in for a transformers model)
    tokenizer: Any = None,  # noqa: ANN401
) -> Checkpoint:
    return Checkpoint(
        Path("tiny"),
        model or FormulaModel(undecided),  # type: ignore[arg-type]
        tokenizer or ByteTokenizer(),
        MemoryDial(),  # type: ignore[arg-type]
    )


def windows(*rows: list[int]) -> Windows:
    return Windows(torch.tensor(rows), bytes_per_token=1.0)


def quality(*nll: float) -> Quality:
    return Quality(np.array(nll), np.zeros(len(nll)))


def test_windows_follow_each_other_and_leave_out_the_rest() -> None:
    cut = cut_windows(checkpoint(), "abcdefgh", window=3)
    assert cut.ids_WS.tolist() == [[97, 98, 99], [100, 101, 102]]


def test_a_text_of_one_window_is_enough() -> None:
    assert cut_windows(checkpoint(), "abc", window=3).ids_WS.tolist() == [[97, 98, 99]]


@pytest.mark.parametrize("text", ["", "ab"])
def test_a_text_shorter_than_a_window_is_refused_with_both_lengths(text: str) -> None:
    with pytest.raises(TextError, match=f"the text has {len(text)} tokens; a window takes 3"):
        cut_windows(checkpoint(), text, window=3)


def test_a_limit_spreads_the_windows_from_the_first_to_the_last() -> None:
    cut = cut_windows(checkpoint(), "abcdefghi", window=1, limit=3)
    assert cut.ids_WS.flatten().tolist() == [97, 101, 105]


@pytest.mark.parametrize("limit", [None, 4, 5])
def test_a_limit_that_is_no_limit_takes_all(limit: int | None) -> None:
    assert len(cut_windows(checkpoint(), "abcdefgh", window=2, limit=limit).ids_WS) == 4


def test_bytes_are_counted_not_characters() -> None:
    assert cut_windows(checkpoint(), "thé", window=2).bytes_per_token == 1.0
    paired = checkpoint(tokenizer=PairTokenizer())
    assert cut_windows(paired, "abcdefgh", window=2).bytes_per_token == 2.0


def test_a_model_that_knows_nothing_loses_the_log_of_the_vocabulary() -> None:
    measured = evaluate(checkpoint(), windows([5, 0, 7, 0, 9], [5, 6, 7, 8, 9]), [1])
    assert measured.nll_W == pytest.approx([math.log(256), math.log(256)])
    assert measured.accuracy_W == pytest.approx([0.5, 0.0])
    assert measured.nll == pytest.approx(math.log(256))
    assert measured.accuracy == pytest.approx(0.25)


def test_a_model_that_knows_the_next_token_loses_nothing() -> None:
    """It is asked for what follows each token, the last one excepted."""
    model = FormulaModel(counting)
    measured = evaluate(checkpoint(model), windows([1, 2, 3, 4], [1, 2, 3, 9]), [1])
    assert measured.accuracy_W == pytest.approx([1.0, 2 / 3])
    assert measured.nll_W == pytest.approx([0.0, 100 / 3])


def test_every_window_runs_under_the_plan_and_is_announced() -> None:
    announced: list[str] = []
    tiny = checkpoint()
    evaluate(tiny, windows([1, 2], [3, 4], [5, 6]), [2, 7], lambda: announced.append("window"))
    assert tiny.dial.plans == [[2, 7]]  # type: ignore[attr-defined]
    assert announced == ["window"] * 3


def test_a_real_model_is_better_at_some_plans_than_at_others_and_stays_as_it_was() -> None:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=8,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        initializer_range=0.3,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    real = Checkpoint(Path("tiny"), model, ByteTokenizer(), ExpertDial(model))  # type: ignore[arg-type]
    cut = cut_windows(real, "It was the best of times, it was the worst of times.", 16)
    full = evaluate(real, cut, [4, 4])
    assert evaluate(real, cut, [4, 1]).nll != full.nll
    assert real.dial.plan == (4, 4)
    assert evaluate(real, cut, [4, 4]).nll_W.tolist() == full.nll_W.tolist()


def test_an_interval_holds_its_mean_and_shrinks_with_more_windows() -> None:
    alternating = np.tile([1.0, 3.0], 8)
    low, high = interval(alternating)
    assert 1.0 < low < 2.0 < high < 3.0
    # A mean of 16 has a standard error of 1/4: 95 % lie within about half of 2.
    assert (low, high) == pytest.approx((1.5, 2.5), abs=0.13)
    narrow_low, narrow_high = interval(np.tile([1.0, 3.0], 128))
    assert narrow_high - narrow_low == pytest.approx((high - low) / 4, rel=0.15)


def test_an_interval_is_the_same_every_time() -> None:
    values_W = np.array([1.0, 2.0, 4.0, 8.0])
    assert interval(values_W) == interval(values_W)


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5]])
def test_windows_that_agree_leave_no_doubt(values: list[float]) -> None:
    assert interval(np.array(values)) == (2.5, 2.5)


def test_a_plan_as_good_as_full_retains_everything() -> None:
    assert retention(quality(2.0, 5.0), quality(2.0, 5.0)) == (1.0, 1.0, 1.0)


def test_a_bit_more_in_every_window_halves_the_quality() -> None:
    """Paired: the windows differ widely from each other, the plans by the same everywhere."""
    full = quality(1.0, 5.0, 9.0)
    plan = quality(*(nll + math.log(2) for nll in (1.0, 5.0, 9.0)))
    assert retention(plan, full) == pytest.approx((0.5, 0.5, 0.5))


def test_a_plan_better_than_full_retains_more_than_all() -> None:
    kept, low, high = retention(quality(1.0, 1.0, 1.0), quality(1.1, 1.2, 1.3))
    assert kept == pytest.approx(math.exp(0.2))
    assert math.exp(0.1) - 1e-9 <= low < kept < high <= math.exp(0.3) + 1e-9
