"""When a simulated door looks at its queues: every 50 ms, as runtime/door.py, while somebody waits.

Knows no queue.
"""

from collections.abc import Callable
from math import floor

from controller.admission import WATCH_S
from simulations.events import Events, Order


class Looks:
    """`look` says whether somebody waited; `saw_nobody` is told when the last look would have been
    that was left out since nobody waited.
    """

    def __init__(
        self, events: Events, look: Callable[[], bool], saw_nobody: Callable[[float], None]
    ) -> None:
        self._events = events
        self._look = look
        self._saw_nobody = saw_nobody
        self._born_s = events.now_s
        self._goes_on = False

    def begin(self) -> None:
        """Somebody comes who will wait."""
        if self._goes_on:
            return
        last = floor((self._events.now_s - self._born_s) / WATCH_S)
        self._saw_nobody(self._born_s + last * WATCH_S)
        self._goes_on = True
        self._await(last + 1)

    def _await(self, number: int) -> None:
        # A sum of many small times may be a bit late, or a bit early, which it must not be.
        at_s = max(self._born_s + number * WATCH_S, self._events.now_s)
        self._events.at(at_s, Order.LOOK, lambda: self._take(number))

    def _take(self, number: int) -> None:
        self._goes_on = self._look()
        if self._goes_on:
            self._await(number + 1)
