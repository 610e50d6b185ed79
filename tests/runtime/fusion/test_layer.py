"""A fused layer gives what its modules give one by one, under every plan."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from controller.signals import Plan
from runtime.fusion.layer import probe_step
from runtime.native.library import can_run
from tests.runtime.fusion.test_fuse import WIDE, built
from tests.runtime.test_engine import prompt
from tests.runtime.tiny import Bench
from tests.training.families import olmoe, qwen

pytestmark = pytest.mark.skipif(not can_run(torch.bfloat16), reason="needs AVX-512 BF16 and g++")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
KINDS = pytest.mark.parametrize(
    ("build", "changes"),
    [(qwen, WIDE | {"attention_bias": True}), (olmoe, WIDE | {"hidden_size": 128})],
    ids=["norms of heads, biases, renormalising", "norms of tokens, not renormalising"],
)
PLANS = {
    "full": Plan(2, (4, 4), 1.0),
    "uneven": Plan(2, (1, 6), 1.0),
    "by class": Plan(2, (2, 3), 1.0, class_k={"batch": (1, 8), "gold": (6, 2)}),
    "capped": Plan(2, (4, 4), 1.0, expert_cap=(3, 2)),
    "capped by class": Plan(2, (3, 3), 1.0, class_k={"batch": (1, 5)}, expert_cap=(4, 3)),
}
CLASSES = ("batch", "gold", None, "batch")


def answers(
    build: Callable[..., PreTrainedModel],
    changes: dict,
    dtype: torch.dtype,
    plan: Plan,
    layers: bool,
) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """Tokens of some requests that share steps, and the distinct experts of each step."""
    model = built(build, changes, dtype)
    with Bench(model=model, max_batch_tokens=48) as bench:
        if not layers:
            for module in (model, *model.model.layers):
                del module.forward  # what fuse_layers put there
        bench.engine.apply(plan)
        for n, length in enumerate((5, 40, 1, 70)):
            bench.submit(str(n), prompt(n, length), 12, CLASSES[n])
        bench.wait_for_end(*map(str, range(4)))
        return [bench.tokens(str(n)) for n in range(4)], [s.distinct_experts for s in bench.steps]


@KINDS
@DTYPES
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_it_gives_the_tokens_of_its_modules(build, changes, dtype: torch.dtype, plan: Plan) -> None:  # noqa: ANN001
    fused, _ = answers(build, changes, dtype, plan, layers=True)
    by_module, _ = answers(build, changes, dtype, plan, layers=False)
    assert fused == by_module


@KINDS
@DTYPES
@pytest.mark.parametrize("k", [1, 2, 8])
@torch.inference_mode()
def test_a_step_of_it_is_that_of_its_modules_bit_for_bit(build, changes, dtype, k: int) -> None:  # noqa: ANN001
    with Bench(model=built(build, changes, dtype)) as bench:
        bench.dial.set([k, k])
        layer = bench.model.model.layers[1]
        fused = layer.forward
        del layer.forward
        step = probe_step([fused.attention], dtype)
        hidden = torch.randn(1, 5, layer.input_layernorm.weight.numel()).to(dtype)
        positions = bench.model.model.rotary_emb(hidden, torch.arange(5)[None])
        outputs = [
            forward(hidden, position_embeddings=positions, attention_mask=None, **step)
            for forward in (layer.forward, fused)
        ]
    assert torch.equal(*outputs)


def test_who_watches_the_experts_sees_them_run() -> None:
    seen = []
    with Bench(model=built(qwen, WIDE, torch.float32)) as bench:
        experts = bench.dial.layers[0].experts
        handle = experts.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
        bench.submit("watched", prompt(0, 7), 3)
        bench.wait_for_end("watched")
        handle.remove()
        bench.submit("not watched", prompt(0, 7), 3)
        bench.wait_for_end("not watched")
        assert bench.tokens("watched") == bench.tokens("not watched")
    assert seen == [7, 1, 1]


def test_it_says_how_long_its_experts_took() -> None:
    with Bench(model=built(qwen, WIDE, torch.float32)) as bench:
        layers = [layer.forward for layer in bench.model.model.layers]
        bench.submit("r", prompt(0, 30), 4)
        bench.wait_for_end("r")
    assert all(0 < layer.experts_s < 1 for layer in layers)
