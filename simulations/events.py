"""Virtual time: what is to happen, in order. Knows nothing of what happens."""

from collections.abc import Callable
from enum import IntEnum
from heapq import heappop, heappush
from math import inf

Act = Callable[[], None]


class Order(IntEnum):
    """Of what happens at one time, the lower goes first: news before those who act upon it."""

    FAULT = 0
    STEP = 1
    ANSWER = 2
    EXCHANGE = 3
    TICK = 4
    REPLICA = 5
    LOOK = 6
    ARRIVAL = 7


Due = tuple[float, int, int, Act]


class Events:
    """Heaps keyed by (time, order, sequence): of what is due together, first come first served.

    Ends of steps have one of their own: they are no news to other replicas.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[Due] = []
        self._steps: list[Due] = []
        self._num_added = 0
        self._stopped = False

    def at(self, time_s: float, order: Order, act: Act) -> None:
        assert time_s >= self.now_s, "virtual time never goes back"
        self._num_added += 1
        heap = self._steps if order is Order.STEP else self._heap
        heappush(heap, (time_s, order, self._num_added, act))

    def after(self, delay_s: float, order: Order, act: Act) -> None:
        self.at(self.now_s + delay_s, order, act)

    def skip_to(self, time_s: float) -> bool:
        """Whether nothing else is due until then; if so, it is then."""
        if self.news_s <= time_s or (self._steps and self._steps[0][0] <= time_s):
            return False
        self.now_s = time_s
        return True

    @property
    def news_s(self) -> float:
        """When the next is due that is not the end of a step."""
        return self._heap[0][0] if self._heap else inf

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Act after act, until nothing is left to do or one says to stop."""
        heap, steps = self._heap, self._steps
        while (heap or steps) and not self._stopped:
            is_step = not heap or (steps and steps[0] < heap[0])
            self.now_s, _, _, act = heappop(steps if is_step else heap)
            act()
