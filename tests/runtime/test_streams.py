"""When what the engine makes goes on to the client: the first and the last token at once."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

from controller.admission import Refusal
from controller.telemetry import Telemetry
from runtime.engine import Emission
from runtime.streams import CHUNK_S, Stream, Streams
from tests.fakes import plan_at, profile

PLAN = plan_at(profile(), 8, 1)


class Timers:
    """A loop whose clock is set by hand."""

    def __init__(self) -> None:
        self._now_s = 100.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []

    def time(self) -> float:
        return self._now_s

    def call_at(self, at_s: float, act: Callable[[], object]) -> "Timer":
        timer = Timer(act)
        heappush(self._due, (at_s, len(self._due), timer.run))
        return timer

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
        while self._due and self._due[0][0] <= self._now_s:
            heappop(self._due)[2]()


class Timer:
    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def cancel(self) -> None:
        self._act = None

    def run(self) -> None:
        if self._act:
            self._act()


def emission(token: int, *, finished: bool = False, error: str | None = None) -> Emission:
    return Emission("x", (token,), PLAN, 0.0, finished, error)


async def now(stream: Stream) -> list[int] | None:
    """The tokens that are ready; None: nothing is to be sent yet."""
    taking = asyncio.ensure_future(stream.take())
    for _ in range(3):
        await asyncio.sleep(0)
    if not taking.done():
        taking.cancel()
        return None
    return [each.tokens[0] for each in taking.result() if isinstance(each, Emission)]


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_a_loop
async def test_the_first_token_goes_at_once() -> None:
    stream = Stream(Timers())
    assert await now(stream) is None
    stream.put(emission(1))
    assert await now(stream) == [1]


@on_a_loop
async def test_those_that_follow_go_together() -> None:
    timers = Timers()
    stream = Stream(timers)
    stream.put(emission(1))
    assert await now(stream) == [1]
    for token in (2, 3):
        timers.advance(0.4 * CHUNK_S)
        stream.put(emission(token))
        assert await now(stream) is None
    timers.advance(0.4 * CHUNK_S)
    assert await now(stream) == [2, 3]
    stream.put(emission(4))
    assert await now(stream) is None


@on_a_loop
async def test_a_token_that_comes_late_goes_at_once() -> None:
    timers = Timers()
    stream = Stream(timers)
    stream.put(emission(1))
    assert await now(stream) == [1]
    timers.advance(2 * CHUNK_S)
    assert await now(stream) is None
    stream.put(emission(2))
    assert await now(stream) == [2]


@on_a_loop
async def test_the_end_waits_for_nothing() -> None:
    for last in (emission(3, finished=True), emission(3, error="out of memory")):
        stream = Stream(Timers())
        stream.put(emission(1))
        assert await now(stream) == [1]
        stream.put(emission(2))
        stream.put(last)
        assert await now(stream) == [2, 3]


@on_a_loop
async def test_nor_does_a_refusal() -> None:
    stream, refusal = Stream(Timers()), Refusal("late", 1.0)
    stream.put(refusal)
    assert await stream.take() == [refusal]


@on_a_loop
async def test_what_the_engine_emits_in_its_thread_comes_in_order() -> None:
    telemetry = Telemetry("a", standing_s=1.0)
    streams = Streams(telemetry, asyncio.get_running_loop())
    telemetry.arrived("x", "default", 10, 3, 0.0)
    stream = streams.open("x")
    emissions = [emission(1), emission(2), emission(3, finished=True)]
    engine = threading.Thread(target=lambda: [streams.emit([each]) for each in emissions])
    engine.start()
    come: list[Emission | Refusal] = []
    while len(come) < 3:
        come += await asyncio.wait_for(stream.take(), timeout=30)
    engine.join()
    assert come == emissions
    streams.close("x")
    streams.emit([emission(4)])  # whose client has gone
