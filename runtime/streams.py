"""Carries emissions from the engine's thread to the requests waiting on the event loop, and
refusals to those that have waited in vain.
"""

import asyncio

from controller.admission import Refusal
from controller.telemetry import Telemetry
from runtime.engine import Emission


class Streams:
    """One queue a request. Crosses threads once a step, however many requests the step served."""

    def __init__(self, telemetry: Telemetry, loop: asyncio.AbstractEventLoop) -> None:
        self._telemetry = telemetry
        self._loop = loop
        self._queues: dict[str, asyncio.Queue[Emission | Refusal]] = {}

    def open(self, request_id: str) -> "asyncio.Queue[Emission | Refusal]":
        self._queues[request_id] = asyncio.Queue()
        return self._queues[request_id]

    def close(self, request_id: str) -> None:
        del self._queues[request_id]

    def refuse(self, request_id: str, refusal: Refusal) -> None:
        """Called on the event loop."""
        if queue := self._queues.get(request_id):
            queue.put_nowait(refusal)

    def emit(self, emissions: list[Emission]) -> None:
        """Called in the engine's thread, inside the step."""
        for emission in emissions:
            self._telemetry.produced(emission.request_id, len(emission.tokens), emission.at_s)
        self._loop.call_soon_threadsafe(self._hand_out, emissions)

    def _hand_out(self, emissions: list[Emission]) -> None:
        for emission in emissions:
            if queue := self._queues.get(emission.request_id):
                queue.put_nowait(emission)
