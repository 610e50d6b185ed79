"""Replicas on one host: each is slower for every other that runs steps."""

import pytest

from simulations.host import Host
from simulations.settings import Settings
from tests.simulations.cluster_fakes import every, run


def test_nobody_is_slower_for_being_busy_alone() -> None:
    host = Host(0.4)
    host.enter("a")
    assert host.slowdown == 1.0


def test_each_other_that_runs_counts_once_until_it_rests() -> None:
    host = Host(0.4)
    for replica in ("a", "b", "b", "c"):
        host.enter(replica)
    assert host.slowdown == pytest.approx(1.8)
    host.leave("b")
    host.leave("b")
    assert host.slowdown == pytest.approx(1.4)


def test_a_negative_contention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a contention of -0\.1: expected 0 or more"):
        Settings(contention=-0.1)


def test_two_at_once_on_two_replicas_take_longer_than_one_after_the_other() -> None:
    def e2e_s(gap_s: float, contention: float) -> list[float]:
        records = run(every(gap_s, 2, 500, 50), replicas=2, contention=contention).records
        return [record.e2e_s or 0.0 for record in records]

    alone_s, together_s = e2e_s(10.0, 0.0), e2e_s(0.0, 0.0)
    assert together_s == pytest.approx(alone_s)
    assert e2e_s(10.0, 0.5) == pytest.approx(alone_s)
    # One begins, and one ends, while the other does not run.
    for slowed_s, unhindered_s in zip(e2e_s(0.0, 0.5), alone_s, strict=True):
        assert 1.4 * unhindered_s < slowed_s < 1.5 * unhindered_s
