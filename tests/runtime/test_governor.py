import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controller.config import SloPolicy, parse_policy
from controller.journal import Adoption, JournalReader, Tick, profile_digest
from controller.profiles import write_profile
from controller.signals import Pace, Sample, Step, Work
from runtime.governor import Edition, Governor
from tests.fakes import profile

FULL_K = 8
Scenario = Callable[[Governor], Awaitable[None]]
Run = Callable[[Scenario], Path]


def slo_policy(**changes: object) -> SloPolicy:
    data: dict[str, object] = {
        "version": 1,
        "slo": {"ttft_s": 1.0, "tpot_s": 0.2},
        "experts": {"floor": 1, "ceiling": FULL_K},
        "policy": {"name": "fixed", "k": FULL_K},
        "cadence": {"tick_s": 0.01, "heartbeat_s": 0.05, "stale_s": 1.0, "lease_s": 5.0},
    }
    return parse_policy(data | changes)


def heartbeat(replica: str, epoch: int) -> Sample:
    return Sample(replica, epoch)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a scenario with a fresh governor; gives its journal."""
    profile_file, journal = tmp_path / "profile.json", tmp_path / "journal.jsonl"
    write_profile(profile(), profile_file)

    def scenario(body: Scenario) -> Path:
        async def main() -> None:
            governor = Governor(str(profile_file), str(journal))
            try:
                await asyncio.wait_for(body(governor), 10)
            finally:
                governor.close()

        asyncio.run(main())
        return journal

    return scenario


def test_a_governor_without_a_policy_asks_for_it_by_giving_no_plan(run: Run) -> None:
    async def body(governor: Governor) -> None:
        assert (await governor.exchange(heartbeat("a", 0))).plan is None
        orders = await governor.exchange(heartbeat("a", 0), slo_policy())
        assert orders.plan is not None
        assert orders.plan.k == (FULL_K,) * 4

    run(body)


def test_a_new_policy_reaches_every_waiting_replica_at_once(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        await governor.exchange(heartbeat("b", 0))
        polls = [asyncio.ensure_future(governor.exchange(heartbeat(name, 1))) for name in "ab"]
        await asyncio.sleep(0)
        cut = slo_policy(policy={"name": "fixed", "k": 2})
        assert (await governor.exchange(heartbeat("c", 0), cut)).plan is not None
        for poll in polls:
            orders = await poll
            if orders.plan.epoch == 1:  # the poll had just ended by itself
                orders = await governor.exchange(heartbeat("a", 1))
            assert orders.plan.k == (2,) * 4

    run(body)


def test_replicas_hear_how_far_off_their_steps_were(run: Run) -> None:
    async def body(governor: Governor) -> None:
        slow = Step(Work(100, 0, 5050, 0), 2.0, (800,) * 4, (16,) * 4)  # 0.09 s by the profile
        orders = await governor.exchange(Sample("a", 0, steps=(slow,)), slo_policy())
        assert orders.pace == Pace()  # nothing was estimated yet
        while (orders := await governor.exchange(heartbeat("a", 1))).pace == Pace():
            pass
        assert orders.pace.correction.experts > 1
        assert orders.pace.error > 0.9

    run(body)


def test_a_plan_counts_as_applied_when_every_fresh_replica_says_so(run: Run) -> None:
    async def body(governor: Governor) -> None:
        for name in "ab":
            await governor.exchange(heartbeat(name, 0), slo_policy())
        await governor.exchange(heartbeat("a", 1), slo_policy(policy={"name": "fixed", "k": 2}))
        while (await governor.exchange(heartbeat("a", 1))).plan.epoch < 2:
            pass
        await governor.exchange(heartbeat("a", 2))
        assert (await governor.status())["actuations"] == []
        await governor.exchange(heartbeat("b", 2))
        (actuation,) = (await governor.status())["actuations"]
        assert actuation["epoch"] == 2
        assert 0 <= actuation["ms"] < 10_000

    run(body)


def test_a_new_governor_continues_above_the_epochs_of_the_replicas(run: Run) -> None:
    async def body(governor: Governor) -> None:
        orders = await governor.exchange(heartbeat("a", 41), slo_policy())
        assert orders.plan.epoch == 42

    run(body)


def test_a_late_replica_gets_the_running_plan_without_waiting(run: Run) -> None:
    async def body(governor: Governor) -> None:
        calm = slo_policy(
            cadence={"tick_s": 0.01, "heartbeat_s": 3.0, "stale_s": 9.0, "lease_s": 30.0}
        )
        await governor.exchange(heartbeat("a", 0), calm)
        late = governor.exchange(heartbeat("late", 0))
        assert (await asyncio.wait_for(late, 1.0)).plan.epoch == 1

    run(body)


def test_every_tick_is_in_the_journal(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        for _ in range(3):
            await governor.exchange(heartbeat("a", 1))

    rows = [json.loads(line) for line in run(body).read_text().splitlines()]
    reasons = [row["budget"]["reason"] for row in rows if "budget" in row]
    assert len(reasons) >= 3
    assert set(reasons[1:]) == {"fixed at 8"}


CUT = {"policy": {"name": "fixed", "k": 2}}


async def settled(governor: Governor, replica: str, follows: Edition | None = None) -> None:
    """Exchanges until the replica has the governor's plan and policy."""
    orders = await governor.exchange(heartbeat(replica, 0), follows=follows)
    await governor.exchange(heartbeat(replica, orders.plan.epoch), follows=orders.edition)


def test_an_applied_policy_reaches_every_waiting_replica_at_once(run: Run) -> None:
    async def body(governor: Governor) -> None:
        slow = {"tick_s": 0.01, "heartbeat_s": 3.0, "stale_s": 9.0, "lease_s": 30.0}
        orders = await governor.exchange(heartbeat("a", 0), slo_policy(cadence=slow))
        polls = [
            asyncio.ensure_future(governor.exchange(heartbeat(name, 1), follows=orders.edition))
            for name in "ab"
        ]
        await asyncio.sleep(0)
        in_force = await governor.apply(slo_policy(**CUT))
        assert in_force == {"slo_policy": slo_policy(**CUT).model_dump(), "edition": 2} | {
            "applied": True
        }
        for poll in polls:
            edition = (await asyncio.wait_for(poll, 1.0)).edition
            assert (edition.number, edition.slo_policy) == (2, slo_policy(**CUT))

    run(body)


def test_a_replica_that_starts_later_does_not_bring_the_deployed_policy_back(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        await governor.apply(slo_policy(**CUT))
        late = await governor.exchange(heartbeat("late", 0), slo_policy())
        assert late.edition.slo_policy == slo_policy(**CUT)
        assert (await governor.status())["applied"] is True

    run(body)


def test_the_next_deployment_takes_an_applied_policy_back(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        await governor.apply(slo_policy(**CUT))
        next_one = slo_policy(policy={"name": "fixed", "k": 4})
        for replica in "ab":
            orders = await governor.exchange(heartbeat(replica, 0), next_one)
            assert orders.edition == Edition(3, next_one, next_one)

    run(body)


def test_a_new_governor_learns_the_applied_policy_from_any_replica_that_follows_it(
    run: Run,
) -> None:
    async def body(governor: Governor) -> None:
        first = await governor.exchange(heartbeat("late", 0), slo_policy())
        assert first.edition.number == 1
        applied = Edition(7, slo_policy(**CUT), slo_policy())
        orders = await governor.exchange(heartbeat("a", 5), follows=applied)
        assert orders.edition == applied
        assert (await governor.exchange(heartbeat("late", 0), slo_policy())).edition == applied

    run(body)


def test_applying_the_deployed_policy_takes_the_applied_one_back(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        await governor.apply(slo_policy(**CUT))
        assert (await governor.apply(slo_policy()))["applied"] is False

    run(body)


def test_applying_what_is_in_force_changes_nothing(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        assert (await governor.apply(slo_policy()))["edition"] == 1

    entries = list(JournalReader([run(body)]))
    assert sum(isinstance(entry.what, Adoption) for entry in entries) == 1


def test_nothing_is_applied_before_a_replica_has_said_what_is_deployed(run: Run) -> None:
    async def body(governor: Governor) -> None:
        assert await governor.apply(slo_policy()) is None

    run(body)


def test_the_status_tells_which_replicas_follow_which_edition(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        await governor.apply(slo_policy(**CUT))
        await settled(governor, "b")
        assert (await governor.status())["replica_editions"] == {"a": 0, "b": 2}

    run(body)


def test_every_adopted_policy_is_in_the_journal_with_what_a_replay_needs(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy())
        await governor.apply(slo_policy(**CUT))

    journal = run(body)
    adoptions = [e.what for e in JournalReader([journal]) if isinstance(e.what, Adoption)]
    assert [each.slo_policy for each in adoptions] == [slo_policy(), slo_policy(**CUT)]
    assert [(each.edition, each.applied) for each in adoptions] == [(1, False), (2, True)]
    assert {each.profile for each in adoptions} == {str(journal.with_name("profile.json"))}
    assert {each.profile_digest for each in adoptions} == {profile_digest(profile())}


def test_in_a_dry_run_the_replicas_get_the_safe_plan_and_the_journal_what_was_decided(
    run: Run,
) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy(**CUT))
        while (await governor.exchange(heartbeat("a", 1))).plan.k != (2,) * 4:
            pass
        await governor.apply(slo_policy(mode="dry-run", **CUT))
        orders = await governor.exchange(heartbeat("a", 2))
        if orders.plan.epoch == 2:  # the poll ended before the first tick
            orders = await governor.exchange(heartbeat("a", 2))
        assert (orders.plan.epoch, orders.plan.k) == (3, (FULL_K,) * 4)
        assert (await governor.status())["slo_policy"]["mode"] == "dry-run"

    *_, last = JournalReader([run(body)])
    assert isinstance(last.what, Tick)
    assert (last.what.budget.mean_k, last.what.budget.reason) == (2, "dry run: fixed at 2")
    assert last.what.plan.k == (FULL_K,) * 4


SOON = {"replicas": {"up_after_s": 0.05, "down_after_s": 0.05}}


async def idle_until(governor: Governor, wished: int) -> None:
    """Two replicas without work, until the number is what Serve would be told."""
    while await governor.replicas_wished() != wished:
        for name in "ab":
            await governor.exchange(heartbeat(name, 1))


def test_the_number_of_replicas_that_serve_is_told_is_in_the_status_with_its_reason(
    run: Run,
) -> None:
    async def body(governor: Governor) -> None:
        assert (await governor.status())["replica_wish"] is None
        await governor.exchange(heartbeat("a", 0), slo_policy(**SOON))
        assert await governor.replicas_wished() is None
        await idle_until(governor, 1)
        wish = (await governor.status())["replica_wish"]
        assert wish["replicas"] == 1
        assert "full k' needs 0.00 replicas" in wish["reason"]

    run(body)


def test_in_a_dry_run_serve_is_told_no_number(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy(**SOON))
        await idle_until(governor, 1)
        await governor.apply(slo_policy(mode="dry-run", **SOON))
        assert await governor.replicas_wished() is None
        assert (await governor.status())["replica_wish"]["replicas"] == 1

    run(body)


def test_a_new_policy_keeps_the_number_that_was_asked_for(run: Run) -> None:
    async def body(governor: Governor) -> None:
        await governor.exchange(heartbeat("a", 0), slo_policy(**SOON))
        await idle_until(governor, 1)
        await governor.apply(slo_policy(**CUT))
        for name in "ab":
            await governor.exchange(heartbeat(name, 1))
        assert await governor.replicas_wished() == 1

    run(body)
