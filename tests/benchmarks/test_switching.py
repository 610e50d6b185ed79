"""A schedule's cost is what switching itself adds, place by place."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import switching
from benchmarks.switching import WINDOW_TOKENS, finding, halves, schedules, second_half
from runtime.evaluate import Windows


def test_schedules_give_every_place_a_k_up_to_the_trained_one() -> None:
    named = schedules(8)
    assert all(len(k_S) == WINDOW_TOKENS for k_S in named.values())
    assert all(1 <= k <= 8 for k_S in named.values() for k in k_S)
    assert named["1 and 8, 1 tokens each"][:4] == [8, 1, 8, 1]
    assert named["ramp 8 to 1"] == named["ramp 1 to 8"][::-1]
    assert named["ramp 8 to 1"][0] == 8
    assert named["ramp 8 to 1"][-1] == 1


@pytest.fixture
def windows() -> Windows:
    return Windows([[0] * WINDOW_TOKENS] * 3, np.arange(3), 0)


def test_what_fixed_ks_cost_is_no_cost_of_switching(
    monkeypatch: pytest.MonkeyPatch, windows: Windows
) -> None:
    def one_over_k(_checkpoint: object, windows: Windows, k_S: list[int]) -> np.ndarray:
        return np.tile(1 / np.array(k_S[:-1]), (len(windows.ids), 1))

    monkeypatch.setattr(switching, "nats", one_over_k)
    found = finding(SimpleNamespace(), windows, {}, schedules(8)["2 and 8, 16 tokens each"])
    assert found.cost.mean == pytest.approx(0.0)
    assert found.mean_k == pytest.approx(5.0, abs=0.1)
    assert found.nll == pytest.approx((1 / 2 + 1 / 8) / 2, abs=0.01)


def test_of_a_prefix_the_second_half_alone_counts(
    monkeypatch: pytest.MonkeyPatch, windows: Windows
) -> None:
    def dearer_after_a_switch(_checkpoint: object, windows: Windows, k_S: list[int]) -> np.ndarray:
        switched = np.arange(WINDOW_TOKENS - 1) >= WINDOW_TOKENS // 2
        added = 0.25 * switched if len(set(k_S)) > 1 else np.zeros(WINDOW_TOKENS - 1)
        return np.tile(1 / np.array(k_S[:-1]) + added, (len(windows.ids), 1))

    monkeypatch.setattr(switching, "nats", dearer_after_a_switch)
    found = finding(SimpleNamespace(), windows, {}, halves(1, 8), second_half())
    assert found.cost.mean == pytest.approx(0.25)
    assert found.mean_k == 8
