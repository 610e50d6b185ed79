"""Carries emissions from the engine's thread to the requests waiting on the event loop, and
refusals to those that have waited in vain.
"""

import asyncio

from controller.admission import Refusal
from controller.telemetry import Telemetry
from runtime.engine import Emission

# Every chunk that is sent takes the interpreter from the engine's thread for about a millisecond,
# more than a token does: after the first token they go together, no more often than this.
CHUNK_S = 0.05


class Stream:
    """What one request is waiting for. Used on the event loop alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._come: list[Emission | Refusal] = []
        self._ready = asyncio.Event()
        self._due_s = 0.0  # not before, unless the end has come
        self._timer: asyncio.TimerHandle | None = None

    def put(self, each: Emission | Refusal) -> None:
        self._come.append(each)
        ends = isinstance(each, Refusal) or each.finished or each.error is not None
        if ends or self._loop.time() >= self._due_s:
            self._ready.set()
        elif self._timer is None:
            self._timer = self._loop.call_at(self._due_s, self._ready.set)

    async def take(self) -> list[Emission | Refusal]:
        """All that has come, at least one: the first and the last at once, others `CHUNK_S` apart.

        Nothing follows a refusal, an error or the last token.
        """
        await self._ready.wait()
        self._ready.clear()
        self.close()
        come, self._come = self._come, []
        self._due_s = self._loop.time() + CHUNK_S
        return come

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Streams:
    """One stream a request. Crosses threads once a step, however many requests the step served."""

    def __init__(self, telemetry: Telemetry, loop: asyncio.AbstractEventLoop) -> None:
        self._telemetry = telemetry
        self._loop = loop
        self._streams: dict[str, Stream] = {}

    def open(self, request_id: str) -> Stream:
        self._streams[request_id] = Stream(self._loop)
        return self._streams[request_id]

    def close(self, request_id: str) -> None:
        self._streams.pop(request_id).close()

    def refuse(self, request_id: str, refusal: Refusal) -> None:
        """Called on the event loop."""
        if stream := self._streams.get(request_id):
            stream.put(refusal)

    def emit(self, emissions: list[Emission]) -> None:
        """Called in the engine's thread, inside the step."""
        for emission in emissions:
            self._telemetry.produced(emission.request_id, len(emission.tokens), emission.at_s)
        self._loop.call_soon_threadsafe(self._hand_out, emissions)

    def _hand_out(self, emissions: list[Emission]) -> None:
        for emission in emissions:
            if stream := self._streams.get(emission.request_id):
                stream.put(emission)
