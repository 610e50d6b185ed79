"""What each layer loses at each k': held-out loss with all other layers at full k'."""

from collections.abc import Callable, Sequence

from runtime.bootstrap import difference
from runtime.checkpoint import Checkpoint
from runtime.evaluate import Windows, evaluate


def losses_by_layer(
    checkpoint: Checkpoint,
    windows: Windows,
    ks: Sequence[int],
    on_plan: Callable[[], object] = lambda: None,
) -> list[dict[int, float]]:
    """Nats per token over full k', for every layer and k'. One call of `on_plan` per plan run."""
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


def num_plans(num_layers: int, ks: Sequence[int]) -> int:
    """How often `losses_by_layer` calls `on_plan`; the trained k is among `ks`."""
    return 1 + num_layers * (len(set(ks)) - 1)
