import asyncio

from controller.config import SloPolicy, parse_policy
from controller.metrics import DeviceReader
from controller.signals import ExpertUse, Plan, Sample
from controller.telemetry import Telemetry
from runtime.governor import Edition, Orders
from runtime.heartbeat import Heartbeat

SAFE_K = 8
USE = ExpertUse(distinct=(3.5,), worst_load=(2.0,), never_used=(1,))


class FakeEngine:
    """Takes any plan at once."""

    def __init__(self) -> None:
        self.plan = Plan(0, (SAFE_K,), 1.0)
        self.applied = asyncio.Event()

    def expert_use(self) -> ExpertUse | None:
        return USE

    async def apply_async(self, plan: Plan) -> None:
        self.plan = plan
        self.applied.set()
        self.applied = asyncio.Event()


def policy(lease_s: float) -> SloPolicy:
    return parse_policy(
        {
            "version": 1,
            "slo": {"ttft_s": 1.0, "tpot_s": 0.2},
            "experts": {"floor": 1, "ceiling": SAFE_K},
            "policy": {"name": "predictive"},
            "cadence": {"heartbeat_s": 0.01, "stale_s": 0.02, "lease_s": lease_s},
        }
    )


def beating(exchange, engine: FakeEngine, lease_s: float = 5.0) -> Heartbeat:  # noqa: ANN001
    return Heartbeat(
        exchange,
        engine,
        Telemetry("a", standing_s=1.0),
        DeviceReader(None),
        policy(lease_s),
        lambda epoch: Plan(epoch, (SAFE_K,), 1.0),
    )


def test_the_plan_at_start_is_the_governors() -> None:
    async def main() -> None:
        engine = FakeEngine()

        async def exchange(
            _sample: Sample, _deployed: SloPolicy | None, _follows: Edition | None
        ) -> Orders:
            return Orders(Plan(7, (2,), 0.9))

        heartbeat = beating(exchange, engine)
        await heartbeat.start()
        heartbeat.stop()
        assert engine.plan == Plan(7, (2,), 0.9)

    asyncio.run(main())


def test_an_older_plan_is_not_taken() -> None:
    async def main() -> None:
        engine = FakeEngine()
        engine.plan = Plan(9, (4,), 0.95)

        async def exchange(
            _sample: Sample, _deployed: SloPolicy | None, _follows: Edition | None
        ) -> Orders:
            return Orders(Plan(8, (1,), 0.8))

        heartbeat = beating(exchange, engine)
        await heartbeat.start()
        heartbeat.stop()
        assert engine.plan.epoch == 9

    asyncio.run(main())


def test_silence_beyond_the_lease_brings_the_safe_plan_and_the_governor_is_obeyed_again() -> None:
    async def main() -> None:
        engine, silent = FakeEngine(), asyncio.Event()
        low = Plan(3, (1,), 0.8)

        async def exchange(
            _sample: Sample, _deployed: SloPolicy | None, _follows: Edition | None
        ) -> Orders:
            if silent.is_set():
                raise ConnectionError("governor died")
            return Orders(low)

        heartbeat = beating(exchange, engine, lease_s=0.05)
        await heartbeat.start()
        assert engine.plan == low
        applied = engine.applied
        silent.set()
        await asyncio.wait_for(applied.wait(), 5)
        assert engine.plan == Plan(3, (SAFE_K,), 1.0)
        applied = engine.applied
        silent.clear()
        await asyncio.wait_for(applied.wait(), 5)
        assert engine.plan == low
        heartbeat.stop()

    asyncio.run(main())


def test_a_governor_that_knows_no_policy_is_told_it() -> None:
    async def main() -> None:
        told: list[SloPolicy | None] = []
        done = asyncio.Event()

        async def exchange(
            _sample: Sample, slo_policy: SloPolicy | None, _follows: Edition | None
        ) -> Orders:
            told.append(slo_policy)
            if len(told) == 3:
                done.set()
            return Orders(Plan(1, (SAFE_K,), 1.0) if len(told) != 2 else None)

        heartbeat = beating(exchange, FakeEngine())
        await heartbeat.start()
        await asyncio.wait_for(done.wait(), 5)
        heartbeat.stop()
        # At first, because it is new; then not; then again, because the governor asked.
        assert told[:3] == [policy(5.0), None, policy(5.0)]

    asyncio.run(main())


def test_a_policy_that_did_not_get_through_is_sent_again() -> None:
    async def main() -> None:
        told: list[SloPolicy | None] = []
        done = asyncio.Event()

        async def exchange(
            _sample: Sample, slo_policy: SloPolicy | None, _follows: Edition | None
        ) -> Orders:
            told.append(slo_policy)
            if len(told) == 1:
                raise ConnectionError("not up yet")
            done.set()
            return Orders(Plan(1, (SAFE_K,), 1.0))

        heartbeat = beating(exchange, FakeEngine())
        await heartbeat.start()
        await asyncio.wait_for(done.wait(), 5)
        heartbeat.stop()
        assert told == [policy(5.0), policy(5.0)]

    asyncio.run(main())


def edition(number: int, lease_s: float = 5.0) -> Edition:
    return Edition(number, policy(lease_s), policy(5.0))


async def heard(answers: list[Edition | None]) -> tuple[Heartbeat, list[Edition | None]]:
    """A heartbeat that was given these editions, and what it said it followed each time."""
    said: list[Edition | None] = []
    done = asyncio.Event()

    async def exchange(
        _sample: Sample, _deployed: SloPolicy | None, follows: Edition | None
    ) -> Orders:
        said.append(follows)
        if len(said) > len(answers):
            done.set()
        return Orders(Plan(1, (SAFE_K,), 1.0), answers[min(len(said), len(answers)) - 1])

    heartbeat = beating(exchange, FakeEngine())
    await heartbeat.start()
    await asyncio.wait_for(done.wait(), 5)
    heartbeat.stop()
    return heartbeat, said


def test_the_governors_policy_is_followed_and_said_back() -> None:
    heartbeat, said = asyncio.run(heard([edition(2), edition(3, lease_s=9.0)]))
    assert said[:3] == [None, edition(2), edition(3, lease_s=9.0)]
    assert heartbeat.slo_policy == policy(9.0)


def test_a_new_governor_that_does_not_know_the_latest_policy_yet_changes_nothing() -> None:
    heartbeat, said = asyncio.run(heard([edition(3, lease_s=9.0), edition(1)]))
    assert said[:3] == [None, edition(3, lease_s=9.0), edition(3, lease_s=9.0)]
    assert heartbeat.slo_policy == policy(9.0)


def test_the_same_user_config_given_again_takes_no_applied_policy_back() -> None:
    async def main() -> None:
        heartbeat, _ = await heard([edition(2, lease_s=9.0)])
        heartbeat.deploy(policy(5.0))
        assert heartbeat.slo_policy == policy(9.0)
        heartbeat.deploy(policy(7.0))
        assert heartbeat.slo_policy == policy(7.0)

    asyncio.run(main())
