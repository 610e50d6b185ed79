"""A replica's door: what it refuses and sheds is counted and told. Time is moved by hand."""

import asyncio
from itertools import count

import pytest

from controller.config import SloPolicy
from controller.signals import Device, Pace
from controller.telemetry import Telemetry
from runtime.door import Door, Terms
from runtime.streams import Streams
from tests.fakes import plan_at, profile, slo_policy


class Replica:
    """What stands behind a door; a full chunk takes 90 ms at the only k', 8."""

    def __init__(self) -> None:
        self._numbers = count()
        self.slo_policy = fixed()
        self.telemetry = Telemetry("a", standing_s=9.0)
        self.streams = Streams(self.telemetry, asyncio.get_running_loop())
        self.door = Door(self.telemetry, self.streams, profile(), self.terms)

    def wait_for(self, num_requests: int) -> None:
        """So many of 100 tokens each: the next as long is the one that goes."""
        for _ in range(num_requests):
            self.telemetry.arrived(f"{next(self._numbers)}", "default", 100, 5, 0.0)

    def terms(self) -> Terms:
        return Terms(self.slo_policy, plan_at(profile(), 8, 1), Pace())

    def counts(self) -> tuple[int, int, int]:
        """Requests that wait, were refused and were shed since this was last asked."""
        told = self.telemetry.sample(1, Device(), 0.0).classes["default"]
        return told.waiting_requests, told.refused_requests, told.shed_requests


def fixed(**admission: object) -> SloPolicy:
    return slo_policy(policy={"name": "fixed", "k": 8}, admission=admission)


def test_a_refusal_is_told_and_counted() -> None:
    async def main() -> None:
        replica = Replica()
        assert replica.door.knock(["default"], 100, 0.0) is None
        replica.wait_for(11)
        refusal = replica.door.knock(["default"], 100, 0.0)
        assert refusal is not None and "first token is 1.08 s away" in refusal.reason
        assert replica.counts() == (11, 1, 0)

    asyncio.run(main())


def test_while_its_class_is_open_a_request_is_refused_only_if_each_would_refuse_it() -> None:
    async def main() -> None:
        replica = Replica()
        replica.slo_policy = slo_policy(
            policy={"name": "fixed", "k": 8}, classes={"batch": {"ttft_s": 9.0, "tpot_s": 0.5}}
        )
        replica.wait_for(11)
        assert replica.door.knock(["default", "batch"], 100, 0.0) is None
        assert replica.counts() == (11, 0, 0)
        replica.wait_for(100)
        assert replica.door.knock(["default", "batch"], 100, 0.0) is not None
        assert replica.counts() == (111, 1, 0)
        assert replica.door.knock([], 100, 0.0) is None

    asyncio.run(main())


def test_who_is_shed_hears_of_it_once() -> None:
    async def main() -> None:
        replica = Replica()
        stream = replica.streams.open("x")
        replica.telemetry.arrived("x", "default", 500, 5, 0.0)
        for now_s in (0.5, 0.6, 0.65):
            replica.door.look(now_s)
        [refusal] = await stream.take()
        assert "its prompt is the longest of them, 500 tokens" in refusal.reason
        assert replica.counts() == (0, 0, 1)

    asyncio.run(main())


def test_a_new_slo_policy_is_followed_at_once() -> None:
    async def main() -> None:
        replica = Replica()
        replica.telemetry.arrived("x", "default", 100, 5, 0.0)
        assert replica.door.knock(["default"], 100, 0.0) is None
        replica.slo_policy = fixed(max_waiting=1, standing_s=3.0)
        refusal = replica.door.knock(["default"], 100, 0.0)
        assert refusal is not None and refusal.queue_full
        assert replica.telemetry.standing_s == 3.0

    asyncio.run(main())


def test_it_looks_for_itself_once_started() -> None:
    async def main() -> None:
        replica = Replica()
        stream = replica.streams.open("x")
        replica.telemetry.arrived("x", "default", 500, 5, now_s=-9.0)  # long ago on any clock
        replica.door.start()
        [refusal] = await asyncio.wait_for(stream.take(), timeout=30)
        replica.door.stop()
        assert "allows 1.00 s" in refusal.reason

    asyncio.run(main())


def test_a_look_that_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        replica, looks, again = Replica(), [], asyncio.Event()

        def look(now_s: float) -> None:
            looks.append(now_s)
            if len(looks) == 1:
                raise RuntimeError("the first one fails")
            again.set()

        monkeypatch.setattr(replica.door, "look", look)
        replica.door.start()
        await asyncio.wait_for(again.wait(), timeout=30)
        replica.door.stop()
        assert len(looks) == 2

    asyncio.run(main())
