"""The three ways side by side, and how their ranks agree."""

import pytest

from runtime.elastic import ExpertDial
from runtime.evaluate import evaluate
from runtime.ways import ALONE, ISOLATED, WAYS, correlations, sensitivities
from tests.runtime.families import FAMILIES
from tests.runtime.formula import checkpoint
from tests.runtime.test_sensitivity import tiny, windows


def test_every_way_gives_every_layer_at_every_k() -> None:
    calls: list[None] = []
    losses = sensitivities(tiny(), windows(3), [1, 4], evaluate, lambda: calls.append(None))
    assert tuple(losses) == WAYS
    assert [sorted(loss) for by_layer in losses.values() for loss in by_layer] == [[1, 4]] * 6
    assert len(calls) == 3 + 4


def test_a_model_whose_blocks_do_not_run_alone_has_the_two_ways_with_text() -> None:
    model = FAMILIES["gemma4"].build()
    loaded = checkpoint(model, dial=ExpertDial(model))
    text = windows(3)
    text.ids[:] = [[token % 64 for token in ids] for ids in text.ids]
    assert tuple(sensitivities(loaded, text, [1, 3], evaluate)) == (ALONE, ISOLATED)


def test_ways_that_order_alike_correlate_fully_whatever_their_unit() -> None:
    losses = [{1: 5.0, 2: 2.0, 4: 0.0, 8: 1.0}, {1: 4.0, 2: 3.0, 4: 0.0, 8: 0.5}]
    scaled = [{k: loss**3 for k, loss in layer.items()} for layer in losses]
    swapped = losses[::-1]
    found = correlations({"alone": losses, "scaled": scaled, "swapped": swapped}, full_k=4)
    same, other = found["alone, scaled"], found["alone, swapped"]
    assert (same.overall, same.below, same.between_layers) == pytest.approx((1, 1, 1))
    assert other.between_layers == pytest.approx(-1)
    # Ranks 4 1 3 2 against 3 2 4 1 below full k'.
    assert other.below == pytest.approx(0.6)
