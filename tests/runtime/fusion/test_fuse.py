"""What the kernels take over gives the model's own output; what is unusual stays as it is."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from runtime.elastic import ExpertDial
from runtime.experts import Backend, best_backend
from runtime.fusion import WHOLE, fuse, fuse_layers
from runtime.fusion.model import FusedModel
from runtime.native.library import can_run
from tests.runtime.families import FAMILIES as ALL_FAMILIES
from tests.runtime.families import IDS_BS
from tests.runtime.test_engine import prompt
from tests.runtime.tiny import Bench
from tests.training.families import mixtral, olmoe, qwen

pytestmark = pytest.mark.skipif(not can_run(torch.bfloat16), reason="needs AVX-512 BF16 and g++")
WIDE = {"head_dim": 32, "vocab_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
USUAL = pytest.mark.parametrize(
    ("build", "changes"),
    [
        (qwen, WIDE),  # norms of every head
        (qwen, WIDE | {"attention_bias": True}),
        (olmoe, WIDE | {"hidden_size": 128}),  # norms over all heads
        (mixtral, WIDE | {"sliding_window": None}),  # none
    ],
    ids=["by head", "with bias", "by token", "no norm"],
)


def built(build: Callable[..., PreTrainedModel], changes: dict, dtype: torch.dtype) -> nn.Module:
    model = build(**changes, initializer_range=0.5).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases start as ones and zeros, which hide mistakes
            parameter.data.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=generator)
    return model.to(dtype)


@torch.inference_mode()
def logits(model: nn.Module, ids_BS: torch.Tensor = IDS_BS) -> torch.Tensor:
    return model(ids_BS).logits


@USUAL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_part_of_a_usual_model_is_taken_over(build, changes, dtype: torch.dtype) -> None:  # noqa: ANN001
    fused = fuse(built(build, changes, dtype))
    for layer in (0, 1):
        parts = ("self_attn", "mlp.gate", "input_layernorm", "post_attention_layernorm")
        assert {f"model.layers.{layer}.{part}" for part in parts} <= set(fused)
    assert {"model.norm", "lm_head", "model.rotary_emb"} <= set(fused)


@USUAL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layers_of_a_usual_model_and_all_of_it_run_as_one(build, changes, dtype) -> None:  # noqa: ANN001
    model = built(build, changes, dtype)
    dial = ExpertDial(model)
    fuse(model)
    assert fuse_layers(dial) == []  # the experts are not packed yet
    dial.install(Backend.NATIVE, IDS_BS)
    before, output = dial.plan, logits(model)
    assert fuse_layers(dial) == ["model.layers.0", "model.layers.1", WHOLE]
    assert dial.plan == before
    assert torch.equal(logits(model), output)  # no cache: the model's own forward


def test_a_model_that_gives_its_routers_logits_keeps_its_layers() -> None:
    model = built(qwen, WIDE | {"output_router_logits": True}, torch.float32)
    dial = ExpertDial(model)
    fuse(model)
    dial.install(Backend.NATIVE, IDS_BS)
    assert fuse_layers(dial) == []


def test_a_layer_that_scales_what_it_adds_stays_with_the_model() -> None:
    model = ALL_FAMILIES["granitemoe"].build()
    dial = ExpertDial(model)
    fuse(model)
    dial.install(best_backend(dial.layers), IDS_BS)
    assert fuse_layers(dial) == []


@USUAL
def test_continuous_batches_of_a_fused_model_give_the_tokens_of_the_model(build, changes) -> None:  # noqa: ANN001
    prompts = {str(n): prompt(n, length) for n, length in enumerate((5, 40, 1, 70))}
    answers = []
    for fused in (False, True):
        model = built(build, changes, torch.float32)
        with Bench(model=model, max_batch_tokens=48, fused=fused) as bench:
            assert isinstance(bench.model.forward, FusedModel) == fused
            for name, ids in prompts.items():
                bench.submit(name, ids, 15)
            bench.wait_for_end(*prompts)
            answers.append([bench.tokens(name) for name in prompts])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_fusing_changes_the_output_of_no_family(name: str) -> None:
    model = ALL_FAMILIES[name].build()
    before = logits(model)
    fuse(model)
    assert (logits(model) - before).abs().max() <= 1e-4 * before.abs().max()


def unusual(model: PreTrainedModel) -> set[str]:
    """The attention blocks, norms and routers that stay as they are."""
    fused = set(fuse(model))
    kinds = ("self_attn", "gate", "layernorm", "norm")
    return {name for name, _ in model.named_modules() if name.endswith(kinds)} - fused


def test_queries_that_are_clipped_stay_with_the_model() -> None:
    left = unusual(built(olmoe, WIDE | {"hidden_size": 128, "clip_qkv": 0.1}, torch.float32))
    assert {"model.layers.0.self_attn", "model.layers.1.self_attn"} <= left


def test_a_sliding_window_stays_with_the_model() -> None:
    left = unusual(built(mixtral, WIDE | {"sliding_window": 8}, torch.float32))
    assert {"model.layers.0.self_attn", "model.layers.1.self_attn"} <= left


def test_heads_that_the_kernel_does_not_know_stay_with_the_model() -> None:
    left = unusual(built(qwen, {"head_dim": 8}, torch.float32))
    assert {"model.layers.0.self_attn", "model.layers.1.self_attn"} <= left


def test_a_router_with_another_score_stays_with_the_model() -> None:
    model = ALL_FAMILIES["deepseek_v3"].build()
    assert {"model.layers.0.mlp.gate", "model.layers.1.mlp.gate"} <= unusual(model)


def test_the_dial_still_turns_a_fused_router() -> None:
    model = built(qwen, WIDE, torch.float32)
    fuse(model)
    router = model.model.layers[0].mlp.gate
    for k in (1, 3, 8):
        router.top_k = k
        _logits, weight_TK, index_TK = router(torch.randn(4, 32))
        assert weight_TK.shape == index_TK.shape == (4, k)
        assert torch.allclose(weight_TK.sum(-1), torch.ones(4))
