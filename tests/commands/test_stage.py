"""What the stage measures, as plain numbers."""

import pytest

from commands.stage import Capacity, fixed, under
from controller.config import PolicyChoice
from tests.fakes import slo_policy


def test_a_share_of_the_way_leads_from_full_k_to_the_floor() -> None:
    capacity = Capacity(full_rps=10.0, floor_rps=20.0)
    assert [capacity.between(share) for share in (0, 0.3, 1)] == pytest.approx([10, 13, 20])
    assert capacity.headroom == 2
    assert str(capacity) == "10.0 requests/s at full k', 20.0 at the floor"


def test_another_policy_leaves_the_rest_as_it_is() -> None:
    before = slo_policy()
    assert fixed(before, 3).policy == PolicyChoice(name="fixed", k=3)
    changed = under(before, PolicyChoice(name="aimd"))
    assert changed.policy.name == "aimd"
    assert changed.model_dump(exclude={"policy"}) == before.model_dump(exclude={"policy"})
