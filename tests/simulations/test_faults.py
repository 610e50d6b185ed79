"""What a run does when a replica dies, heartbeats stop or the profile is wrong."""

import pytest

from simulations.faults import Faults, ReplicaLost, Silence, Slowdown
from simulations.results import summarise
from simulations.settings import Settings
from simulations.simulate import Outcome
from simulations.timeline import Tick
from tests.fakes import slo_policy
from tests.simulations.cluster_fakes import every, fixed, profile_with, run, statuses


def between(outcome: Outcome, from_s: float, until_s: float) -> list[Tick]:
    return [tick for tick in outcome.ticks if from_s <= tick.at_s < until_s]


def test_a_lost_replicas_requests_fail_and_the_others_go_on() -> None:
    # A request each 50 ms takes 200 ms: each of two replicas has two at a time.
    requests = every(0.05, 200, prompt=20, output=10)
    lost = ReplicaLost(at_s=5.0, replica=1)
    outcome = run(requests, fixed(k=4), replicas=2, start_up_s=3.0, faults=(lost,))
    failed = [record for record in outcome.records if record.status == "failed"]
    assert 1 <= len(failed) <= 4
    for record in failed:
        assert record.scheduled_s + (record.took_s or 0) == pytest.approx(5.0)
        assert record.error == "the replica died"
    assert statuses(outcome).count("completed") == 200 - len(failed)
    assert outcome.replicas == [(0.0, 1), (0.0, 2), (5.0, 1), (8.0, 2)]


def test_what_comes_while_no_replica_is_there_waits_for_the_next_one() -> None:
    outcome = run(
        every(1.0, 4), fixed(), start_up_s=2.0, faults=(ReplicaLost(at_s=0.5, replica=0),)
    )
    # The one replica is there again at 2.5 s, and has two requests of 90 ms each to serve.
    assert [record.ttft_s for record in outcome.records] == pytest.approx([0.09, 1.59, 0.68, 0.09])


SILENCE = Silence(from_s=4.0, until_s=12.0)


def test_silent_telemetry_holds_k() -> None:
    burst = [*every(0.045, 100, from_s=2.0), *every(0.5, 20, from_s=6.6)]
    outcome = run(burst, slo_policy(), faults=(SILENCE,))
    # What came shortly before 4 s is believed for a second.
    (held,) = {(tick.mean_k, tick.reason) for tick in between(outcome, 5.1, 12.0)}
    assert held[1] == "no fresh sample: hold"
    assert between(outcome, 14.0, 99.0)[-1].mean_k == 8.0


def test_after_the_lease_a_replica_takes_the_safe_plan_until_it_hears_again() -> None:
    policy = fixed(k=4, experts={"floor": 1, "ceiling": 8, "safe": 2})
    outcome = run(every(0.1, 150), policy, faults=(SILENCE,))
    # The last answer came shortly before 4 s and holds for 5 s; each half of a second it looks.
    served = {record.scheduled_s: record.mean_k for record in outcome.records}
    assert {k for at_s, k in served.items() if 1.0 < at_s < 8.7} == {4.0}
    assert {k for at_s, k in served.items() if 9.6 < at_s < 11.9} == {2.0}
    assert {k for at_s, k in served.items() if at_s > 13.0} == {4.0}


def test_one_silent_replica_leaves_the_other_to_decide_by() -> None:
    silent = Silence(from_s=1.0, until_s=4.0, replica=1)
    outcome = run(every(0.2, 30), slo_policy(), replicas=2, faults=(silent,))
    waiting = {tick.waiting_requests for tick in between(outcome, 2.5, 4.0)}
    assert None not in waiting


def test_a_wrong_profile_is_corrected_by_the_steps_that_run() -> None:
    wrong = Slowdown(1.3)
    requests = every(0.1, 300, prompt=50, output=5)
    outcome = run(requests, fixed(k=4), profile_with(noise=0.05), replicas=2, faults=(wrong,))
    early, late = between(outcome, 2.0, 3.0), between(outcome, 29.0, 31.0)
    assert all(tick.step_time_error is not None for tick in early + late)
    assert late[-1].step_time_error == pytest.approx(0.02, abs=0.02)


def test_a_slow_replica_is_given_less() -> None:
    slow = Slowdown(3.0, replica=0, from_s=0.0)
    requests = every(0.06, 300)
    classes = slo_policy().slo_classes
    even, uneven = (run(requests, fixed(k=4), replicas=2, faults=f) for f in ((), (slow,)))
    assert summarise(even.records, classes)["ttft_p95_s"] == pytest.approx(0.05)
    p95_s = summarise(uneven.records, classes)["ttft_p95_s"]
    assert 0.15 <= p95_s < 0.5


def test_slowdowns_that_overlap_multiply() -> None:
    faults = Faults((Slowdown(2.0, from_s=1.0, until_s=3.0), Slowdown(1.5, replica=1)))
    assert [faults.factor(1, at_s) for at_s in (0.0, 1.0, 2.9, 3.0)] == [1.5, 3.0, 3.0, 1.5]
    assert faults.factor(0, 2.0) == 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 0},
        {"replicas": 2, "min_replicas": 1},
        {"replicas": 3, "min_replicas": 1, "max_replicas": 2},
        {"network_s": -0.1},
        {"faults": (ReplicaLost(1.0, replica=2),)},
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Settings(**changes)  # type: ignore[arg-type]  (any field)


def test_a_step_cannot_take_no_time() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Slowdown(0.0)
