"""Corrects the step-time model by the steps that run.

Takes the parts of a step as the profile has them and what the step took; gives a multiplier for
each part. Knows no clock and no profile.
"""

import math
from collections.abc import Sequence

from controller.signals import Correction
from controller.step_time import Parts

MEMORY_S = 5.0  # of predicted engine time
START_S = 0.25  # of steps that ran as predicted, which it starts as if it had seen
COMMON_S = 0.02  # of steps: the weight of "all parts alike" where the steps cannot tell
SWEEPS = 50  # of coordinate descent, where a bound holds
SURPRISE = 2.0  # a step counts as no more than this many times faster or slower than expected
LOWEST, HIGHEST = 0.25, 4.0


class RecursiveCorrection:
    """Recursive least squares with exponential forgetting and bounds (Ljung, System
    Identification, 2nd ed., section 11.2), pulled to a common ratio (regularised as in Gunnarsson,
    "Combining tracking and regularization in recursive least squares identification", CDC 1996).

    A step predicted to take p seconds, with the shares s = parts / p, took y. The multipliers m
    are to explain y / p = s . m: relative errors, each weighing its step's p, so that an engine
    second counts alike in long steps and in short ones. (Relative to y they would ask for less than
    the mean: 16 % less where steps vary by 30 %; queues drain by the mean.) With f = exp(-p /
    memory):

        R = f R + p s s'        b = f b + y s        r = sum(b) / sum(R)
        m = argmin  m' R m - 2 b' m + common |m - r|^2,   lowest <= m <= highest

    r is measured over predicted time, of all steps alike. What steps cannot tell apart (their parts
    hardly vary, or do not occur) is r: a machine that decodes slower is expected to prefill slower
    as well. `common` also bounds the covariance, 1 / (R + common), however long a load stays the
    same. Idleness neither adds nor forgets: only steps move the clock. y is clipped around what was
    expected, so that a stalled step counts as a slow one.

    `common` keeps R definite: three equations have one solution. Where it is out of bounds,
    coordinate descent finds the best within them.
    """

    def __init__(self) -> None:
        self._r = [[START_S / 9] * 3 for _ in range(3)]
        self._b = [START_S / 3] * 3
        self._m = [1.0] * 3

    @property
    def value(self) -> Correction:
        return Correction(*self._m)

    def expected_s(self, parts: Parts) -> float:
        m0, m1, m2 = self._m
        return m0 * parts.base_s + m1 * parts.experts_s + m2 * parts.rest_s

    def learn(self, steps: Sequence[tuple[Parts, float]]) -> None:
        """Steps of one heartbeat, by their parts and the seconds they took; they fade together."""
        # A model without a base may expect nothing of a step without tokens.
        predicted = [(parts, sum(parts), duration_s) for parts, duration_s in steps]
        known = [each for each in predicted if each[1] > 0]
        if not known:
            return
        forget = math.exp(-sum(predicted_s for _, predicted_s, _ in known) / MEMORY_S)
        b0, b1, b2 = (forget * each for each in self._b)
        # Written out: every step comes by here, and R is symmetric.
        (r00, r01, r02), (_, r11, r12), (_, _, r22) = (
            [forget * each for each in row] for row in self._r
        )
        for parts, predicted_s, duration_s in known:
            base_s, experts_s, rest_s = parts
            expected_s = self.expected_s(parts)
            took = min(max(duration_s, expected_s / SURPRISE), expected_s * SURPRISE) / predicted_s
            b0 += took * base_s
            b1 += took * experts_s
            b2 += took * rest_s
            r00 += base_s * base_s / predicted_s
            r01 += base_s * experts_s / predicted_s
            r02 += base_s * rest_s / predicted_s
            r11 += experts_s * experts_s / predicted_s
            r12 += experts_s * rest_s / predicted_s
            r22 += rest_s * rest_s / predicted_s
        self._b = [b0, b1, b2]
        self._r = [[r00, r01, r02], [r01, r11, r12], [r02, r12, r22]]
        self._m = self._solve()

    def _solve(self) -> list[float]:
        """The minimum over all m; where that is out of bounds, coordinate descent within them."""
        common = sum(self._b) / sum(map(sum, self._r))
        rows = [
            [each + COMMON_S * (i == j) for j, each in enumerate(row)]
            for i, row in enumerate(self._r)
        ]
        right = [each + COMMON_S * common for each in self._b]
        m = _eliminate(rows, right)
        if all(LOWEST <= each <= HIGHEST for each in m):
            return m
        for _ in range(SWEEPS):
            for i, row in enumerate(rows):
                rest = sum(r * each for r, each in zip(row, m, strict=True)) - row[i] * m[i]
                m[i] = min(max((right[i] - rest) / row[i], LOWEST), HIGHEST)
        return m


def _eliminate(rows: list[list[float]], right: list[float]) -> list[float]:
    """Three equations; the matrix is positive definite, so no pivot is small."""
    (a, b, c), (_, d, e), (_, _, f) = rows
    b_a, c_a = b / a, c / a
    d, e, f = d - b * b_a, e - b * c_a, f - c * c_a
    y = right[1] - right[0] * b_a
    e_d = e / d
    z = (right[2] - right[0] * c_a - y * e_d) / (f - e * e_d)
    y = (y - e * z) / d
    return [(right[0] - b * y - c * z) / a, y, z]
