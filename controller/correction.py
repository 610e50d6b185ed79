"""Corrects the step-time model by the steps that run.

Takes the parts of a step as the profile has them and what the step took; gives a multiplier for
each part. Knows no clock and no profile.
"""

import math

from controller.signals import Correction
from controller.step_time import Parts

MEMORY_S = 5.0  # of predicted engine time
START_S = 0.2  # of steps that ran as predicted, which it starts as if it had seen
COMMON_S = 0.02  # of steps: the weight of "all parts alike" where the steps cannot tell
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

    m is kept by one sweep of coordinate descent a step, which starts from the last m, keeps the
    bounds exactly and needs no inverse; `common` keeps R definite, so it converges.
    """

    def __init__(self) -> None:
        self._r = [[START_S / 9] * 3 for _ in range(3)]
        self._b = [START_S / 3] * 3
        self._m = [1.0] * 3

    @property
    def value(self) -> Correction:
        return Correction(*self._m)

    def expected_s(self, parts: Parts) -> float:
        return sum(m * part for m, part in zip(self._m, parts, strict=True))

    def learn(self, parts: Parts, duration_s: float) -> None:
        """A step of these parts took so long."""
        predicted_s, expected_s = sum(parts), self.expected_s(parts)
        if predicted_s == 0:  # a model without a base, a step without tokens
            return
        took_s = min(max(duration_s, expected_s / SURPRISE), expected_s * SURPRISE)
        forget = math.exp(-predicted_s / MEMORY_S)
        shares = [part / predicted_s for part in parts]
        for i, share in enumerate(shares):
            self._b[i] = forget * self._b[i] + took_s * share
            for j, other in enumerate(shares):
                self._r[i][j] = forget * self._r[i][j] + predicted_s * share * other
        self._descend()

    def _descend(self) -> None:
        common = sum(self._b) / sum(map(sum, self._r))
        for i, row in enumerate(self._r):
            slope = self._b[i] - sum(r * m for r, m in zip(row, self._m, strict=True))
            slope += COMMON_S * (common - self._m[i])
            m = self._m[i] + slope / (row[i] + COMMON_S)
            self._m[i] = min(max(m, LOWEST), HIGHEST)
