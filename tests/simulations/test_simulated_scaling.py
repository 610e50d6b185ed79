"""Replicas that come and go by the governor's wish, within the bounds of the settings.

At k' 8 a replica takes in 11 prompts of a full step a second, at k' 1 50 of them.
"""

from controller.config import SloPolicy
from simulations.simulate import Outcome
from tests.fakes import slo_policy
from tests.simulations.cluster_fakes import every, run, statuses


def policy(**changes: object) -> SloPolicy:
    """Refuses nothing: here a request that is not served would be one that scaling has lost."""
    replicas = {"up_at": 0.2, "up_after_s": 2.0, "down_after_s": 5.0}
    return slo_policy(replicas=replicas | changes, admission={"late": "serve"})


def grown(**settings: object) -> Outcome:
    """For 30 s more than one replica takes at full k', then almost nothing."""
    requests = [*every(0.06, 500), *every(1.0, 40, from_s=30.0)]
    bounds = {"min_replicas": 1, "max_replicas": 2, "start_up_s": 4.0}
    return run(requests, policy(), **(bounds | settings))


def test_a_second_replica_is_started_and_serves_after_its_start_up() -> None:
    outcome = grown()
    times_s, numbers = zip(*outcome.replicas, strict=True)
    assert numbers == (1, 2, 1)
    # Asked for after two seconds of too little, and there four seconds later.
    assert 6.0 < times_s[1] < 9.0
    assert set(statuses(outcome)) == {"completed"}


def test_k_bridges_the_time_until_then() -> None:
    outcome = grown()
    joined_s = outcome.replicas[1][0]
    lowest = min(tick.mean_k for tick in outcome.ticks if tick.at_s < joined_s)
    later = [tick.mean_k for tick in outcome.ticks if joined_s + 5 < tick.at_s < 29]
    assert lowest < 8
    assert sum(later) / len(later) > lowest


def test_a_replica_that_goes_ends_what_it_has_begun() -> None:
    outcome = grown()
    gone_s = outcome.replicas[2][0]
    assert gone_s > 30
    assert all(record.completed for record in outcome.records)


def test_without_bounds_their_number_stays() -> None:
    assert grown(min_replicas=None, max_replicas=None).replicas == [(0.0, 1)]


def test_a_dry_run_moves_no_replicas() -> None:
    requests = every(0.06, 300)
    dry = policy().model_copy(update={"mode": "dry-run"})
    outcome = run(requests, dry, min_replicas=1, max_replicas=2, start_up_s=1.0)
    assert outcome.replicas == [(0.0, 1)]


def test_who_is_not_done_within_the_limit_fails() -> None:
    # Answers of 900 tokens take ten seconds; the second replica is told to go while it has some.
    requests = [*every(0.06, 500), *every(3.0, 8, prompt=10, output=900, from_s=30.0)]
    outcome = run(
        requests,
        policy(),
        min_replicas=1,
        max_replicas=2,
        start_up_s=4.0,
        drain_limit_s=0.5,
    )
    gone_s = outcome.replicas[-1][0]
    failed = [record for record in outcome.records if record.status == "failed"]
    assert {record.error for record in failed} == {"the replica was stopped"}
    for record in failed:
        assert abs(record.scheduled_s + (record.took_s or 0) - gone_s - 0.5) < 1e-6
        assert record.output_tokens > 0
