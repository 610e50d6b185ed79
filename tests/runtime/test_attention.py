import random

import pytest
import torch

from runtime import attention
from tests.runtime.tiny import VOCAB, Bench, tiny_model


@pytest.mark.parametrize("max_batch_tokens", [8, 24, 128])
def test_each_request_sees_its_own_keys_only_however_prompts_are_chunked(
    max_batch_tokens: int,
) -> None:
    prompts = [random.Random(n).choices(range(VOCAB), k=10 + 13 * n) for n in range(4)]
    alone = []
    for n, ids in enumerate(prompts):
        with Bench(max_batch_tokens=128) as bench:
            bench.submit(str(n), ids, 6)
            bench.wait_for_end(str(n))
            alone.append(bench.tokens(str(n)))
    with Bench(max_batch_tokens=max_batch_tokens) as bench:
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
