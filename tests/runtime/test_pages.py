"""Which rows of the cache are a request's, by the pages that hold it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.pages import PageTable, in_sequence
from tests.runtime.test_engine import prompt
from tests.runtime.tiny import Bench
from tests.training.families import mixtral


def test_rows_follow_the_pages_and_end_with_the_last_key() -> None:
    table = PageTable(np.array([[40, 8, 0], [16, 0, 0]]), page_tokens=4)
    assert table.rows(0, 7).tolist() == [40, 41, 42, 43, 8, 9, 10]
    assert table.rows(1, 4).tolist() == [16, 17, 18, 19]
    assert table.of(np.array([1])).rows(0, 1).tolist() == [16]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_keys_in_sequence_lie_one_after_the_other(num_keys: list[int]) -> None:
    table = in_sequence(np.cumsum([0, *num_keys]))
    rows = [table.rows(request, count) for request, count in enumerate(num_keys)]
    assert torch.cat(rows).tolist() == list(range(sum(num_keys)))


@pytest.mark.parametrize("head_dim", [8, 32], ids=["by SDPA", "by the kernels"])
@pytest.mark.parametrize("max_batch_tokens", [16, 64])
def test_a_sliding_window_keeps_its_own_rows_and_tokens_see_no_more(
    max_batch_tokens: int, head_dim: int
) -> None:
    """Broke: keys were read from rows that new ones had taken, and prompts saw all of theirs."""
    model = mixtral(sliding_window=8, initializer_range=0.5, head_dim=head_dim).eval()
    model.generation_config.eos_token_id = None
    prompts = {str(n): [t % 64 for t in prompt(n, length)] for n, length in enumerate((5, 30, 1))}
    expected = {
        name: model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )[0, len(ids) :].tolist()
        for name, ids in prompts.items()
    }
    with Bench(model=model, max_batch_tokens=max_batch_tokens) as bench:
        for name, ids in prompts.items():
            bench.submit(name, ids, 12)
        bench.wait_for_end(*prompts)
        assert {name: bench.tokens(name) for name in prompts} == expected
