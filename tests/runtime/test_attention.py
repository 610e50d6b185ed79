import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from runtime import attention
from runtime.native.library import can_run
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
    num_keys=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 2), (8, 1)]),
    head_dim=st.sampled_from([32, 64, 96, 256]),
    prefills=st.sets(st.integers(0, 4)),
    seed=st.integers(0, 2**31),
)
def test_the_kernel_is_attention_of_every_decoding_request_over_its_rows(
    dtype: torch.dtype,
    num_keys: list[int],
    heads: tuple[int, int],
    head_dim: int,
    prefills: set[int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    num_heads, kv_heads = heads
    keys_SKD, values_SKD = torch.randn(2, 100, kv_heads, head_dim).to(dtype)
    num_queries = [3 if request in prefills else 1 for request in range(len(num_keys))]
    query_ends, key_ends = (np.cumsum([0, *lengths]) for lengths in (num_queries, num_keys))
    query_THD = torch.randn(sum(num_queries), num_heads, head_dim).to(dtype)
    row_N = torch.randint(0, 100, (sum(num_keys),))
    kwargs = {
        "cu_seq_lens_q": torch.from_numpy(query_ends),
        "cu_seq_lens_k": {"full_attention": torch.from_numpy(key_ends)},
    }
    allocator = SimpleNamespace(layer_type="full_attention")
    cache = SimpleNamespace(layer_to_allocator={0: allocator})
    step = attention.lay_out(cache, 0, kwargs, by_kernel=True)
    assert len(step.token_R) == num_queries.count(1)
    output_THD = torch.zeros_like(query_THD)
    if len(step.token_R):
        attention._decode(query_THD, keys_SKD, values_SKD, row_N, step, None, output_THD)
    for request in range(len(num_keys)):
        queries = slice(query_ends[request], query_ends[request + 1])
        if num_queries[request] > 1:
            assert (output_THD[queries] == 0).all()  # not its business
            continue
        rows = row_N[key_ends[request] : key_ends[request + 1]]
        expected_1HQD = scaled_dot_product_attention(
            query_THD[queries].transpose(0, 1)[None].double(),
            keys_SKD[rows].transpose(0, 1)[None].double(),
            values_SKD[rows].transpose(0, 1)[None].double(),
            enable_gqa=True,
        )
        error = (output_THD[queries].double() - expected_1HQD[0].transpose(0, 1)).abs().max()
        assert error <= RELATIVE_ERROR[dtype] * expected_1HQD.abs().max()
