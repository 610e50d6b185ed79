"""What each layer loses at each k', in the three published ways. Larger is worse, full k' is 0.

- `losses_by_layer`: held-out loss with all other layers at full k'.
- `isolated_losses_by_layer`: held-out loss with the layers before at full k' and those behind at
  one expert, so that these cannot make up for what is lost (Alloc-MoE, arXiv 2604.08133).
- `output_changes_by_layer`: how far the layer's output on random input moves, without any text and
  without the rest of the model (LExI, arXiv 2509.02753).

The first two are in nats per token, the third in units of the output: only ranks and plans made of
them compare. All give, by layer, k' -> sensitivity, as `controller.ladder.best_plans` takes it.

Shapes: N draws, B sequences, S tokens each, H hidden features.
"""

from collections.abc import Callable, Sequence

import torch

from runtime.bootstrap import difference
from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.evaluate import Quality, Windows, evaluate
from runtime.moe_layers import MoeLayer, NotElasticError

Evaluate = Callable[[Checkpoint, Windows, Sequence[int]], Quality]

NUM_DRAWS, DRAW_SHAPE_BS = 16, (4, 128)


def losses_by_layer(
    checkpoint: Checkpoint,
    windows: Windows,
    ks: Sequence[int],
    on_plan: Callable[[], object] = lambda: None,
    evaluate: Evaluate = evaluate,
) -> list[dict[int, float]]:
    """Nats per token over full k', for every layer and k'. One call of `on_plan` per plan run.

    `evaluate` runs a plan; another one may keep what it has run.
    """
    full = checkpoint.dial.trained_plan
    reference = evaluate(checkpoint, windows, full).nll
    on_plan()
    losses: list[dict[int, float]] = []
    for layer, full_k in enumerate(full):
        losses.append({full_k: 0.0})
        for k in sorted(set(ks) - {full_k}):
            plan = [*full[:layer], k, *full[layer + 1 :]]
            losses[-1][k] = difference(evaluate(checkpoint, windows, plan).nll, reference).mean
            on_plan()
    return losses


def isolated_losses_by_layer(
    checkpoint: Checkpoint,
    windows: Windows,
    ks: Sequence[int],
    on_plan: Callable[[], object] = lambda: None,
    evaluate: Evaluate = evaluate,
) -> list[dict[int, float]]:
    """Nats per token over the layer's full k', with all layers behind it at one expert.

    One call of `on_plan` per plan run. Full k' of a layer and one expert in the next are the same
    plan: an `evaluate` that keeps what it has run saves one plan a layer.
    """
    full = checkpoint.dial.trained_plan
    losses = []
    for layer, full_k in enumerate(full):
        nll = {}
        for k in sorted({*ks, full_k}):
            plan = [*full[:layer], k, *[1] * (len(full) - layer - 1)]
            nll[k] = evaluate(checkpoint, windows, plan).nll
            on_plan()
        losses.append({k: difference(each, nll[full_k]).mean for k, each in nll.items()})
    return losses


@torch.inference_mode()
def output_changes_by_layer(
    checkpoint: Checkpoint,
    ks: Sequence[int],
    on_plan: Callable[[], object] = lambda: None,
    *,
    num_draws: int = NUM_DRAWS,
    shape_BS: tuple[int, int] = DRAW_SHAPE_BS,
    seed: int = 0,
) -> list[dict[int, float]]:
    """Frobenius norm of the MoE block's output at k' less that at full k', for every layer and k'.

    The mean of `num_draws` inputs X ~ N(0, 1), the same for all layers. One call of `on_plan` per
    layer and k', the trained k included. Raises NotElasticError, naming the layer, if its block
    takes more than hidden states.
    """
    dial, model = checkpoint.dial, checkpoint.model
    shape_NBSH = (num_draws, *shape_BS, model.config.get_text_config().hidden_size)
    drawn_NBSH = torch.randn(shape_NBSH, generator=torch.Generator().manual_seed(seed))
    hidden_NBSH = drawn_NBSH.to(model.device, model.dtype)
    full, changes = dial.trained_plan, []
    for number, (layer, full_k) in enumerate(zip(dial.layers, full, strict=True)):
        output = {}
        for k in sorted({*ks, full_k}):
            with dial.at([*full[:number], k, *full[number + 1 :]]):
                output[k] = _run_alone(dial, layer, hidden_NBSH)
            on_plan()
        distance_N = {
            k: (each - output[full_k]).flatten(1).norm(dim=1) for k, each in output.items()
        }
        changes.append({k: float(each_N.mean()) for k, each_N in distance_N.items()})
    return changes


def num_plans(num_layers: int, ks: Sequence[int]) -> int:
    """How often `losses_by_layer` calls `on_plan`; the trained k is among `ks`."""
    return 1 + num_layers * (len(set(ks)) - 1)


def num_layer_runs(num_layers: int, ks: Sequence[int]) -> int:
    """How often the other two call it; the trained k is among `ks`."""
    return num_layers * len(set(ks))


def _run_alone(dial: ExpertDial, layer: MoeLayer, hidden_NBSH: torch.Tensor) -> torch.Tensor:
    """What router and experts of the layer give, in fp32."""
    block = dial.model.get_submodule(layer.name)
    try:
        outputs = [block(hidden_BSH) for hidden_BSH in hidden_NBSH]
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _more_than_hidden(layer, block, str(error)) from error
    if isinstance(outputs[0], tuple):
        outputs = [output[0] for output in outputs]
    if outputs[0].numel() != hidden_NBSH[0].numel():  # some give it flat
        raise _more_than_hidden(layer, block, f"it gives {tuple(outputs[0].shape)}")
    return torch.stack(outputs).float()


def _more_than_hidden(layer: MoeLayer, block: torch.nn.Module, why: str) -> NotElasticError:
    return NotElasticError(
        f"{layer.name}: {type(block).__name__} does not run on hidden states alone: {why}"
    )
