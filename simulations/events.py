"""Virtual time: what is to happen, in order. Knows nothing of what happens."""

from collections.abc import Callable
from enum import IntEnum
from heapq import heappop, heappush

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


class Events:
    """A heap keyed by (time, order, sequence): of what is due together, first come first served."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, int, Act]] = []
        self._num_added = 0
        self._stopped = False

    def at(self, time_s: float, order: Order, act: Act) -> None:
        assert time_s >= self.now_s, "virtual time never goes back"
        self._num_added += 1
        heappush(self._heap, (time_s, order, self._num_added, act))

    def after(self, delay_s: float, order: Order, act: Act) -> None:
        self.at(self.now_s + delay_s, order, act)

    def skip_to(self, time_s: float) -> bool:
        """Whether nothing else is due until then; if so, it is then."""
        if self._heap and self._heap[0][0] <= time_s:
            return False
        self.now_s = time_s
        return True

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Act after act, until nothing is left to do or one says to stop."""
        heap = self._heap
        while heap and not self._stopped:
            self.now_s, _, _, act = heappop(heap)
            act()
