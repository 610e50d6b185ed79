"""Which of a queue to let go so that the most of it are on time: the rule of Moore and Hodgson.

Takes times; knows no requests and no prompts.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple


class Turn(NamedTuple):
    """Of one in a queue."""

    takes_s: float
    left_s: float  # until it is due


def to_let_go(queue: Iterable[Turn], begins_s: float = 0.0) -> set[int]:
    """Positions of the fewest without whom all others are on time, the first beginning then.

    In order of service: once somebody would be late, the longest so far goes, of equals the last.
    Nothing leaves more on time where those before are due before (Moore, "An n job, one machine
    sequencing algorithm for minimizing the number of late jobs", Management Science 15, 1968).
    """
    gone: set[int] = set()
    longest_first: list[tuple[float, int]] = []
    ends_s = begins_s
    for position, (takes_s, left_s) in enumerate(queue):
        heappush(longest_first, (-takes_s, -position))
        ends_s += takes_s
        while longest_first and ends_s > left_s:
            shorter_s, before = heappop(longest_first)
            ends_s += shorter_s
            gone.add(-before)
    return gone
