"""What a queued request costs those who come after it: the price at which experts are given up.

Takes how fast requests are served and what quality that loses, by level, and what is known of
arrivals; gives a price by the length of the queue. Knows neither tokens nor seconds of a step.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

PRECISE = 1e-4  # share of what a second loses
LEAST = math.exp(-650)  # of what a second loses, this much is as good as nothing
SAME = 1e-9


class Pace(NamedTuple):
    """A level, in requests."""

    rate_rps: float  # served while there is a queue
    loss: float  # of a request's quality


class BacklogPrice:
    """Of a queue that is served at the best of several paces, for ever.

    Requests come at a rate a, the work of a second varies by v, they are served at one of the rates
    m_i, which loses c_i of each one's quality, and each that comes while L are queued is lost, for
    C. As a Brownian motion between 0 and L whose drift is controlled, the queue has an optimal
    policy in closed form (Ata, Harrison and Shepp, "Drift rate control of a Brownian processing
    system", Annals of Applied Probability 2005, after George and Harrison, "Dynamic control of a
    queue with adjustable service rate", Operations Research 2001). With p(x) the price of one more
    request where x are queued, and g what is lost in a second, in the mean:

        v/2 p'(x) = g - a p(x) + h(p(x)),    h(p) = max_i m_i (p - c_i),    p(0) = 0,    p(L) = C

    The best pace is the one that h takes. h is piecewise linear, so x is a sum of logarithms of p,
    and g the one number for which it comes to L at C.

    Little load: the price is next to nothing until shortly before L. Much: it rises evenly. More
    than any pace serves: it is near C from the first few on.
    """

    def __init__(
        self,
        paces: Sequence[Pace],
        *,
        arrival_rps: float,
        variance: float,
        longest: float,
        lost: float = 1.0,
    ) -> None:
        """All above 0, but for the arrivals and the losses, which may be 0."""
        self._half = variance / 2
        # Where the best pace changes, and what h(p) - a p is there, above its least.
        self._prices = _turns(paces, lost)
        net = [_gain(paces, price) - arrival_rps * price for price in self._prices]
        self._above = [each - min(net) for each in net]
        # At that price the queue may rest, so near to it that floats cannot tell.
        self._rest = self._above.index(0.0)
        self._excess = self._solve(longest)
        lengths = self._lengths(self._excess)
        rests = max(0.0, longest - sum(lengths))
        self._starts, self._ends = list[float](), list[float]()  # of the queue, by stretch
        queued = 0.0
        for stretch, length in enumerate(lengths):
            if stretch == self._rest:
                queued += rests
            self._starts.append(queued)
            queued += length
            self._ends.append(queued)

    def at(self, queued: float) -> float:
        for stretch, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            if queued < start:
                return self._prices[self._rest]
            if queued < end:
                return self._price(stretch, queued)
        return self._prices[-1]

    def _solve(self, longest: float) -> float:
        """g above its least: by bisection of its logarithm, as prices rise with it."""
        slopes = [abs(self._slope(stretch)) for stretch in range(len(self._prices) - 1)]
        # Every denominator is at least the excess, and at most steepest * lost more than that.
        steepest, lost = max(SAME, *slopes), self._prices[-1]
        high = math.log(lost * self._half / longest)
        low = max(math.log(LEAST), math.log(lost * steepest) - longest * steepest / self._half)
        low = min(low, high) - 1
        while high - low > PRECISE:
            middle = (low + high) / 2
            if sum(self._lengths(math.exp(middle))) > longest:
                low = middle
            else:
                high = middle
        return math.exp(high)

    def _lengths(self, excess: float) -> list[float]:
        """By how much the queue is longer at the end of each stretch than at its start."""
        lengths = []
        for stretch in range(len(self._prices) - 1):
            first, last = excess + self._above[stretch], excess + self._above[stretch + 1]
            rise = self._prices[stretch + 1] - self._prices[stretch]
            if abs(last - first) <= SAME * first:
                lengths.append(self._half * rise / first)
            else:
                lengths.append(self._half * rise / (last - first) * math.log(last / first))
        return lengths

    def _slope(self, stretch: int) -> float:
        above, prices = self._above, self._prices
        return (above[stretch + 1] - above[stretch]) / (prices[stretch + 1] - prices[stretch])

    def _price(self, stretch: int, queued: float) -> float:
        """From the end of the stretch that is farther from where the queue may rest."""
        falls = stretch < self._rest
        knot = stretch if falls else stretch + 1
        known = self._excess + self._above[knot]
        away = queued - (self._starts[stretch] if falls else self._ends[stretch])
        # p' = (known + slope (p - price)) / half
        exponent = self._slope(stretch) * away / self._half
        growth = away / self._half * (math.expm1(exponent) / exponent if exponent else 1.0)
        low, high = self._prices[stretch], self._prices[stretch + 1]
        return min(max(self._prices[knot] + known * growth, low), high)


def _gain(paces: Sequence[Pace], price: float) -> float:
    return max(rate_rps * (price - loss) for rate_rps, loss in paces)


def _turns(paces: Sequence[Pace], lost: float) -> list[float]:
    """From none to that of a lost request, the prices at which another pace gains most: the corners
    of the upper envelope of the lines m (p - c), the slowest pace first.
    """
    corners: list[tuple[float, Pace]] = []
    for pace in sorted(paces, key=lambda each: (each.rate_rps, -each.loss)):
        start = 0.0
        while corners:
            before, slower = corners[-1]
            faster_by = pace.rate_rps - slower.rate_rps
            if faster_by > 0:
                start = (pace.rate_rps * pace.loss - slower.rate_rps * slower.loss) / faster_by
                if start > before:
                    break
            corners.pop()
            start = 0.0
        corners.append((start, pace))
    return [*(start for start, _ in corners if start < lost), lost]
