import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime import attention
from runtime.native.library import can_run
from runtime.pages import PageTable
from tests.runtime.tiny import VOCAB, Bench, tiny_model

HEAD_DIMS = {"by the kernel": 32, "by SDPA": 8}
RELATIVE_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("head_dim", HEAD_DIMS.values(), ids=HEAD_DIMS.keys())
@pytest.mark.parametrize("max_batch_tokens", [8, 24, 128])
def test_each_request_sees_its_own_keys_only_however_prompts_are_chunked(
    max_batch_tokens: int, head_dim: int
) -> None:
    prompts = [random.Random(n).choices(range(VOCAB), k=10 + 13 * n) for n in range(4)]
    alone = []
    for n, ids in enumerate(prompts):
        with Bench(max_batch_tokens=128, head_dim=head_dim) as bench:
            bench.submit(str(n), ids, 6)
            bench.wait_for_end(str(n))
            alone.append(bench.tokens(str(n)))
    with Bench(max_batch_tokens=max_batch_tokens, head_dim=head_dim) as bench:
        for n, ids in enumerate(prompts):
            bench.submit(str(n), ids, 6)
        bench.wait_for_end(*map(str, range(4)))
        assert [bench.tokens(str(n)) for n in range(4)] == alone


def test_without_a_paged_cache_it_is_plain_sdpa() -> None:
    model = tiny_model()
    ids_BS = torch.arange(20)[None]
    with torch.inference_mode():
        expected = model(ids_BS).logits
        attention.register()
        model.set_attn_implementation(attention.NAME)
        assert torch.equal(model(ids_BS).logits, expected)


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(
            dtype,
            marks=pytest.mark.skipif(not can_run(dtype), reason="needs AVX-512 (BF16) and g++"),
        )
        for dtype in (torch.float32, torch.bfloat16)
    ],
)
@given(
    requests=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 140)), min_size=1, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 2), (8, 1)]),
    head_dim=st.sampled_from([32, 64, 96, 256]),
    page_tokens=st.sampled_from([16, 64]),
    window=st.none() | st.integers(1, 90),
    seed=st.integers(0, 2**31),
)
def test_the_kernels_are_attention_of_every_request_over_its_own_keys(
    dtype: torch.dtype,
    requests: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    page_tokens: int,
    window: int | None,
    seed: int,
) -> None:
    """`requests`: tokens of the step and keys before them; a window leaves decoding ones no more
    keys than that."""
    torch.manual_seed(seed)
    num_heads, kv_heads = heads
    if window:
        requests = [(n, min(before, window - 1) if n == 1 else before) for n, before in requests]
    num_tokens = [n for n, _ in requests]
    num_keys = [n + before for n, before in requests]
    num_pages = -(-max(num_keys) // page_tokens)
    total = num_pages * len(requests)
    pages = PageTable(
        torch.randperm(total).view(len(requests), num_pages).numpy() * page_tokens, page_tokens
    )
    keys_SKD, values_SKD = torch.randn(2, total * page_tokens, kv_heads, head_dim).to(dtype)
    query_THD = torch.randn(sum(num_tokens), num_heads, head_dim).to(dtype)
    kwargs = {
        "cu_seq_lens_q": torch.tensor(np.cumsum([0, *num_tokens])),
        "cu_seq_lens_k": {"full_attention": torch.tensor(np.cumsum([0, *num_keys]))},
        "pages": {0: pages},
    }
    allocator = SimpleNamespace(layer_type="full_attention", index=0)
    cache = SimpleNamespace(layer_to_allocator={0: allocator})
    step = attention.lay_out(cache, 0, kwargs, by_kernel=True)
    assert len(step.decodes) == num_tokens.count(1)
    assert len(step.prompts) == len(requests) - len(step.decodes)
    ours_THD, expected_THD = (
        attention.attend(
            *states,
            attention.lay_out(cache, 0, kwargs, by_kernel=by_kernel),
            scaling=head_dim**-0.5,
            window=window,
        )
        for states, by_kernel in (
            ((query_THD, keys_SKD, values_SKD), True),
            ((query_THD.double(), keys_SKD.double(), values_SKD.double()), False),
        )
    )
    of_request = zip(ours_THD.split(num_tokens), expected_THD.split(num_tokens), strict=True)
    for ours, expected in of_request:
        error = (ours.double() - expected).abs().max()
        assert error <= RELATIVE_ERROR[dtype] * expected.abs().max()


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (1, 3), (4, 4), (4, 9), (9, 9)])
def test_a_token_sees_the_keys_before_it_and_its_own_within_the_window(
    num_queries: int, num_keys: int, window: int | None
) -> None:
    seen = attention._mask(num_queries, num_keys, window, torch.device("cpu"))
    before = num_keys - num_queries
    expected = [
        [key <= before + query and key > before + query - (window or 99) for key in range(num_keys)]
        for query in range(num_queries)
    ]
    if seen is None:  # torch's own causal order, or all there is
        seen = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(before)
    assert seen.tolist() == expected
