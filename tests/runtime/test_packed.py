"""The compiled kernel computes what the sum over experts says, for any shape it accepts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import silu

from runtime.native.library import can_run
from runtime.packed import PackedExperts, can_pack
from tests.training.families import mixtral, qwen

DTYPES = [
    pytest.param(
        dtype, marks=pytest.mark.skipif(not can_run(dtype), reason="needs AVX-512 (BF16) and g++")
    )
    for dtype in (torch.float32, torch.bfloat16)
]
RELATIVE_ERROR = {torch.float32: 2e-6, torch.bfloat16: 8e-3}  # of the largest output


@st.composite
def layers(draw: st.DrawFn) -> dict[str, int]:
    return {
        "experts": draw(st.integers(1, 9)),
        "hidden": 16 * draw(st.integers(1, 9)),
        "inner": 2 * draw(st.integers(1, 50)),
        "tokens": draw(st.integers(0, 40)),
        "k": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 2**31)),
    }


def expected(hidden_TD, index_TK, weight_TK, gate_up_EFD, down_EDF) -> torch.Tensor:  # noqa: ANN001
    """The formula, token by token, in fp64."""
    output_TD = torch.zeros_like(hidden_TD, dtype=torch.float64)
    for t, k in (index_TK < len(down_EDF)).nonzero().tolist():
        gate_up_FD, down_DF = (w[index_TK[t, k]].double() for w in (gate_up_EFD, down_EDF))
        gate, up = (gate_up_FD @ hidden_TD[t].double()).chunk(2)
        output_TD[t] += weight_TK[t, k].double() * (down_DF @ (silu(gate) * up))
    return output_TD


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=layers())
def test_it_is_the_weighed_sum_of_the_experts_and_counts_them(
    dtype: torch.dtype, shape: dict[str, int]
) -> None:
    torch.manual_seed(shape["seed"])
    experts, hidden, inner = shape["experts"], shape["hidden"], shape["inner"]
    # Gates and ups of either sign whose own sums do not cancel: else rounding alone, torch's own in
    # fp32 as well, is now and then ten times the bound.
    sign_EF1 = torch.randn(experts, 2 * inner, 1).sign()
    gate_up_EFD = (torch.randn(experts, 2 * inner, hidden).abs() * sign_EF1 / hidden**0.5).to(dtype)
    down_EDF = (torch.randn(experts, hidden, inner) / inner**0.5).to(dtype)
    hidden_TD = (8 * torch.rand(shape["tokens"], hidden) / hidden**0.5).to(dtype)
    # The id just past the last is no expert.
    index_TK = torch.randint(0, experts + 1, (shape["tokens"], shape["k"]))
    weight_TK = torch.rand(shape["tokens"], shape["k"]).to(dtype)
    load_E = torch.ones(experts, dtype=torch.int32)
    output_TD = PackedExperts(gate_up_EFD, down_EDF)(hidden_TD, index_TK, weight_TK, load_E)
    right_TD = expected(hidden_TD, index_TK, weight_TK, gate_up_EFD, down_EDF)
    largest = right_TD.abs().max().item() if right_TD.numel() else 0
    assert output_TD.dtype is dtype
    assert (output_TD.double() - right_TD).abs().le(RELATIVE_ERROR[dtype] * largest + 1e-30).all()
    counted_E = torch.bincount(index_TK.flatten(), minlength=experts + 1)[:experts]
    assert torch.equal(load_E, 1 + counted_E.int())  # it adds to what stood there


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tokens_output_does_not_depend_on_who_shares_its_batch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed = PackedExperts(torch.randn(4, 64, 32).to(dtype), torch.randn(4, 32, 32).to(dtype))
    hidden_TD, weight_TK = torch.randn(50, 32).to(dtype), torch.rand(50, 2).to(dtype)
    index_TK, load_E = torch.randint(0, 4, (50, 2)), torch.zeros(4, dtype=torch.int32)
    together_TD = packed(hidden_TD, index_TK, weight_TK, load_E)
    for t in range(50):
        row = slice(t, t + 1)
        alone_TD = packed(hidden_TD[row], index_TK[row], weight_TK[row], load_E)
        assert torch.equal(alone_TD, together_TD[row])


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_activations_saturate_instead_of_overflowing(dtype: torch.dtype) -> None:
    ones = torch.ones(1, 32, 16, dtype=dtype)
    packed = PackedExperts(ones * 100, torch.ones(1, 16, 16, dtype=dtype))
    load_E, index_TK = torch.zeros(1, dtype=torch.int32), torch.zeros(2, 1, dtype=torch.long)
    hidden_TD = torch.tensor([[10.0] * 16, [-10.0] * 16], dtype=dtype)
    output_TD = packed(hidden_TD, index_TK, torch.ones(2, 1), load_E)
    assert output_TD[0].isfinite().all()
    assert (output_TD[1] == 0).all()  # silu(-16000) is 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_takes_gated_silu_experts_alone(dtype: torch.dtype) -> None:
    def experts(build, **changes):  # noqa: ANN001, ANN003, ANN202
        return build(**changes).to(dtype).model.layers[0].mlp.experts

    assert can_pack(experts(qwen))
    assert can_pack(experts(mixtral))
    assert not can_pack(experts(qwen, hidden_act="gelu"))
    assert not can_pack(experts(qwen, hidden_size=24, head_dim=6))
    assert not can_pack(experts(qwen).to(torch.float16))
