"""Which experts ran is summed up over the steps between two heartbeats."""

from types import SimpleNamespace

import pytest
import torch

from runtime.expert_load import ExpertLoad


@pytest.fixture
def dial() -> SimpleNamespace:
    """Two layers, of four experts and of three."""
    layers = [SimpleNamespace(num_experts=4), SimpleNamespace(num_experts=3)]
    return SimpleNamespace(layers=layers, load_LE=torch.zeros(2, 4, dtype=torch.int32))


def ran(dial: SimpleNamespace, *loads: list[int]) -> None:
    dial.load_LE += torch.tensor(loads, dtype=torch.int32)


def test_a_step_gives_its_slots_and_distinct_experts_by_layer_and_starts_the_next_from_nothing(
    dial: SimpleNamespace,
) -> None:
    load = ExpertLoad(dial)
    ran(dial, [3, 0, 1, 0], [0, 4, 0, 0])
    assert load.step() == ((4, 4), (2, 1))
    ran(dial, [1, 1, 1, 1], [1, 0, 1, 0])
    assert load.step() == ((4, 2), (4, 2))


def test_the_use_is_the_mean_of_the_steps_and_the_busiest_expert_over_the_mean(
    dial: SimpleNamespace,
) -> None:
    load = ExpertLoad(dial)
    ran(dial, [3, 0, 1, 0], [0, 4, 0, 0])
    load.step()
    ran(dial, [1, 1, 1, 1], [1, 0, 1, 0])
    load.step()
    use = load.take()
    assert use is not None
    assert use.distinct == (3.0, 1.5)
    assert use.worst_load == (4 / 2, 4 / 2)  # of [4, 1, 2, 1] and [1, 4, 1]
    assert use.never_used == (0, 0)


def test_an_expert_is_never_used_until_it_is_once(dial: SimpleNamespace) -> None:
    load = ExpertLoad(dial)
    ran(dial, [1, 0, 0, 0], [1, 0, 0, 0])
    load.step()
    first = load.take()
    ran(dial, [0, 1, 0, 0], [1, 0, 0, 0])
    load.step()
    second = load.take()
    assert first is not None
    assert second is not None
    assert (first.never_used, second.never_used) == ((3, 2), (2, 2))


def test_without_a_step_there_is_nothing_to_say(dial: SimpleNamespace) -> None:
    load = ExpertLoad(dial)
    assert load.take() is None
    ran(dial, [1, 0, 0, 0], [1, 0, 0, 0])
    load.step()
    assert load.take() is not None
    assert load.take() is None


def test_what_ran_before_it_was_made_does_not_count(dial: SimpleNamespace) -> None:
    ran(dial, [1, 1, 1, 1], [1, 1, 1, 0])
    load = ExpertLoad(dial)
    ran(dial, [1, 0, 0, 0], [1, 0, 0, 0])
    assert load.step() == ((1, 1), (1, 1))
