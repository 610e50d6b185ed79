"""How much longer the steps of a replica take while another one runs steps on the same machine.

Through the served application, so that what else the machine has to do for a request counts: a
request that decodes alone and two on a replica each, in turn.
"""

from collections.abc import Sequence
from statistics import median

from simulations.results import Record
from simulations.schedule import Requests
from simulations.traces import Request

ROUNDS = 6
ROUND_S, PAIR_S = 8.0, 4.0  # the pair comes so long after the one, which is done by then
APART_S = 0.1  # of the two of a pair: the router sees the first before it places the second
PROMPT_TOKENS, OUTPUT_TOKENS = 16, 200


def schedule() -> Requests:
    """One, then two, round after round."""
    starts_s = [ROUND_S * number for number in range(ROUNDS)]
    offsets_s = (0.0, PAIR_S, PAIR_S + APART_S)
    return tuple(
        Request(start_s + offset_s, PROMPT_TOKENS, OUTPUT_TOKENS)
        for start_s in starts_s
        for offset_s in offsets_s
    )


def contention_of(records: Sequence[Record]) -> float:
    """Of the requests of `schedule`: 0.4 where steps take 1.4 times as long; never below 0. A
    ValueError where too few have ended to tell.
    """
    alone_s = [each.tpot_s for each in records if each.index % 3 == 0 and each.tpot_s]
    both_s = [each.tpot_s for each in records if each.index % 3 and each.tpot_s]
    if not alone_s or not both_s:
        raise ValueError("no request alone, or none of a pair, was answered")
    return max(0.0, median(both_s) / median(alone_s) - 1)
