"""The weights that experts get are those of the rule, for fewer and for more than the trained k."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.renormalisation import denominator
from runtime.elastic import ExpertDial
from tests.training.families import qwen

IDS_BS = torch.arange(20).view(1, 20)
TRAINED_K = 2


def weights_TK(k: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(weights that the first layer's experts got, its router's probabilities in falling order)."""
    model = qwen().eval()
    dial = ExpertDial(model)
    assert dial.trained_plan == (TRAINED_K, TRAINED_K)
    layer, seen = dial.layers[0], {}
    with denominator(SimpleNamespace(dial=dial), share), dial.at([k, k]):
        layer.experts.register_forward_pre_hook(lambda _m, args: seen.update(weights=args[2]))
        layer.router.register_forward_hook(lambda _m, _args, output: seen.update(logits=output[0]))
        with torch.inference_mode():
            model(IDS_BS)
    ranked_TE = seen["logits"].softmax(-1).sort(-1, descending=True).values
    return seen["weights"], ranked_TE


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_weights_are_divided_by_a_blend_of_both_sums(k: int, share: float) -> None:
    got_TK, ranked_TE = weights_TK(k, share)
    own_T1 = ranked_TE[:, :k].sum(-1, keepdim=True)
    trained_T1 = ranked_TE[:, :TRAINED_K].sum(-1, keepdim=True)
    expected_TK = ranked_TE[:, :k] / (own_T1 ** (1 - share) * trained_T1**share)
    assert torch.allclose(got_TK, expected_TK, atol=1e-6)
