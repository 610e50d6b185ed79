"""Above the trained k, the weights are those of the rule that the checkpoint names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from runtime.checkpoint import CheckpointError, check_checkpoint, load_checkpoint
from runtime.denominator import AboveK, rule_of, rules
from runtime.elastic import ExpertDial
from runtime.experts import Backend
from runtime.moe_layers import NotElasticError, watch_experts
from tests.training.families import FAMILIES, mixtral, olmoe, qwen

IDS_BS = torch.arange(20).view(1, 20)
TRAINED_K = 2
TOKENIZER = Path("checkpoints/prose-52m")

RENORMALISING = pytest.mark.parametrize("build", [qwen, mixtral])


@torch.inference_mode()
def run(model: PreTrainedModel, dial: ExpertDial, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, weights by which the first layer's experts are summed) with every layer at k."""
    first = dial.layers[:1]
    with dial.at([k] * len(dial.layers)), watch_experts(first) as seen:
        logits_BSV = model(IDS_BS).logits
    return logits_BSV, dial.elastic[0].narrow(*seen[first[0].name])[1]


def models(build: Callable[[], PreTrainedModel]) -> list[tuple[PreTrainedModel, ExpertDial]]:
    """The same model twice, the second anchored."""
    pair = []
    for rule in (AboveK.RENORMALISED, AboveK.ANCHORED):
        model = build().eval()
        dial = ExpertDial(model)
        dial.install(Backend.EAGER, IDS_BS, rule)
        pair.append((model, dial))
    return pair


@RENORMALISING
@pytest.mark.parametrize("k", [1, TRAINED_K])
def test_up_to_the_trained_k_nothing_changes_by_a_bit(build, k: int) -> None:  # noqa: ANN001
    plain, anchored = models(build)
    assert torch.equal(run(*plain, k)[0], run(*anchored, k)[0])


@RENORMALISING
@pytest.mark.parametrize("k", [3, 8])
def test_above_it_the_best_keep_the_weights_they_were_trained_with(
    build,  # noqa: ANN001
    k: int,
) -> None:
    plain, anchored = models(build)
    trained_TK, wider_TK = run(*anchored, TRAINED_K)[1], run(*anchored, k)[1]
    assert torch.allclose(wider_TK[:, :TRAINED_K], trained_TK, atol=1e-6)
    assert (wider_TK[:, TRAINED_K:] > 0).all()
    assert not torch.allclose(run(*plain, k)[1], wider_TK, atol=1e-3)


def test_a_router_may_give_its_selection_in_any_order() -> None:
    _plain, (model, dial) = models(qwen)
    in_order, _ = run(model, dial, 5)
    for layer in dial.layers:
        layer.router.register_forward_hook(
            lambda _m, _args, output: (output[0], output[1].flip(-1), output[2].flip(-1))
        )
    assert torch.allclose(run(model, dial, 5)[0], in_order, atol=1e-5)


def test_a_router_that_does_not_renormalise_is_refused() -> None:
    with pytest.raises(NotElasticError, match=r"layers\.0\.mlp: its router does not renormalise"):
        ExpertDial(olmoe()).install(Backend.EAGER, IDS_BS, AboveK.ANCHORED)


@pytest.mark.parametrize("build", FAMILIES)
def test_the_rule_of_renormalisation_is_found_by_asking_the_model(build) -> None:  # noqa: ANN001
    expected = {qwen: True, olmoe: False, mixtral: True}[build]
    model = build()
    dial = ExpertDial(model)
    found = rules(model, dial.layers, IDS_BS, AboveK.RENORMALISED)
    assert [rule.renormalises for rule in found] == [expected, expected]
    assert dial.plan == (2, 2)


def test_a_flag_of_the_checkpoint_decides_where_the_family_has_one() -> None:
    model = qwen(norm_topk_prob=False)
    found = rules(model, ExpertDial(model).layers, IDS_BS, AboveK.RENORMALISED)
    assert not found[0].renormalises


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    qwen(kprime={"above_k": "anchored"}, vocab_size=4096).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, tmp_path)
    return tmp_path


def test_a_checkpoint_is_loaded_under_the_rule_it_names(folder: Path) -> None:
    named, plain = (load_checkpoint(folder, rule) for rule in (None, AboveK.RENORMALISED))
    assert torch.equal(*(run(each.model, each.dial, 2)[0] for each in (named, plain)))
    sums = [run(each.model, each.dial, 5)[1].float().sum(-1) for each in (named, plain)]
    assert (sums[0] > sums[1]).all()
    assert torch.allclose(sums[1], torch.ones(20), atol=1e-2)


def test_a_checkpoint_without_a_word_follows_its_router() -> None:
    assert rule_of(qwen().config) is AboveK.RENORMALISED


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ("anchored", r"config\.json: kprime: 'anchored'; accepted: \{\"above_k\": renormalised"),
        ({"abovek": "anchored"}, r"kprime: \{'abovek': 'anchored'\}; accepted"),
        ({"above_k": "anchord"}, r"kprime\.above_k: 'anchord'; accepted: .* \| anchored"),
    ],
)
def test_another_rule_is_refused_before_the_weights_are_read(
    folder: Path, ours: object, message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"kprime": ours}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(folder)
