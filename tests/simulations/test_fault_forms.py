"""Faults as a command line says them."""

from math import inf

import pytest

from simulations.fault_forms import parse_fault
from simulations.faults import Fault, ReplicaLost, Silence, Slowdown


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("slow:factor=1.3", Slowdown(1.3, 0.0, inf, None)),
        ("slow:factor=2,from=10,until=20,replica=1", Slowdown(2.0, 10.0, 20.0, 1)),
        ("silent:from=10,until=20", Silence(10.0, 20.0, None)),
        ("silent: from=10, until=20, replica=0", Silence(10.0, 20.0, 0)),
        ("lost:at=30,replica=1", ReplicaLost(30.0, 1)),
    ],
)
def test_each_form_says_a_fault(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("broken", "'broken' is no fault"),
        ("slow", "'factor' is missing"),
        ("slow:factor=fast", "factor=fast is not a number"),
        ("slow:factor=0", "steps 0 times as long: expected a number above 0"),
        ("slow:factor=2,at=3", "no key 'at' here"),
        ("silent:from=20,until=10", "until=10 is not after from=20"),
        ("silent:from=20", "'until' is missing"),
        ("lost:at=30", "'replica' is missing"),
        ("lost:at=-1,replica=0", "at=-1 is before the start"),
        ("lost:at=1,replica=0.5", "replica=0.5 is not a whole number from 0"),
        ("lost:at", "'at' is not KEY=VALUE"),
    ],
)
def test_what_is_none_is_refused_with_what_is_accepted(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_fault(text)
    assert str(caught.value).startswith(f"{text}: {why}; expected slow:factor=1.3, ")
