import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controller.config import SloPolicy, parse_policy
from controller.profiles import write_profile
from controller.signals import Device, Sample
from runtime.governor import Governor
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
    return Sample(replica, epoch, 0, 0, 0, 0.0, 0, 0, 0, device=Device())


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
    assert len(rows) >= 3
    assert {row["budget"]["reason"] for row in rows[1:]} == {"fixed at 8"}
