"""Corrects the step-time model by the steps that run.

Takes the parts of a step as the profile has them and what the step took; gives a multiplier for
each part and seconds for each decoding token. Knows no clock and no profile.
"""

import math
from collections.abc import Sequence

from controller.signals import Correction
from controller.step_time import Parts

MEMORY_S = 5.0  # of predicted engine time
START_S = 0.25  # of steps that ran as predicted, which it starts as if it had seen
COMMON_S = 0.02  # of steps: the weight of "all parts alike" where the steps cannot tell
SWEEPS = 50  # of coordinate descent, where a bound holds
# Steps of 2 ms that wait for a core take several times as long, and queues wait with them: that is
# the machine's pace (docs/log.md). Beyond this many times what was expected, a step was stalled.
STALLED = 8.0
SURPRISE = 2.0  # what a stalled step counts as, and its inverse the least that any does
LOWEST, HIGHEST = 0.25, 4.0  # of a multiplier
TOKEN_S = 0.001  # what decoding tokens take besides is counted in these, to be near a multiplier
BOUNDS = (*[(LOWEST, HIGHEST)] * 3, (0.0, HIGHEST))


class RecursiveCorrection:
    """Recursive least squares with exponential forgetting and bounds (Ljung, System
    Identification, 2nd ed., section 11.2), pulled to a common ratio (regularised as in Gunnarsson,
    "Combining tracking and regularization in recursive least squares identification", CDC 1996).

    A step predicted to take p seconds, with the shares s = parts / p, took y; n of its tokens were
    decoded. The multipliers m, and d seconds for each of those, are to explain y / p = s . m + d n
    / p: relative errors, each weighing its step's p, so that an engine second counts alike in long
    steps and in short ones. (Relative to y they would ask for less than the mean: 16 % less where
    steps vary by 30 %; queues drain by the mean.) With x = (s, n / p) and f = exp(-p / memory):

        R = f R + p x x'        b = f b + y x        r = (sum(b) - d sum(R_d)) / sum(R) of the parts
        z = (m, d) = argmin  z' R z - 2 b' z + common (|m - r|^2 + d^2),   within bounds

    r is measured over predicted time, of all steps alike, less what their decoding tokens took.
    What steps cannot tell apart (their parts hardly vary, or do not occur) is r: a machine that
    decodes slower is expected to prefill slower as well. d is nothing until steps show it: sending
    a token takes the interpreter from the engine, at any k' (docs/log.md). `common` also bounds the
    covariance, 1 / (R + common), however long a load stays the same. Idleness neither adds nor
    forgets: only steps move the clock. A stalled step counts as a slow one.

    `common` keeps R definite: four equations have one solution. Where it is out of bounds,
    coordinate descent finds the best within them.
    """

    def __init__(self) -> None:
        each = START_S / 9  # of the three parts
        # By row, from the diagonal on: R is symmetric.
        self._r = [each, each, each, 0.0, each, each, 0.0, each, 0.0, 0.0]
        self._b = [START_S / 3] * 3 + [0.0]
        self._z = [1.0, 1.0, 1.0, 0.0]

    @property
    def value(self) -> Correction:
        base, experts, rest, tokens = self._z
        return Correction(base, experts, rest, TOKEN_S * tokens)

    def learn(self, steps: Sequence[tuple[Parts, float]]) -> float:
        """Steps of one heartbeat, by their parts and the seconds they took; they fade together.

        Gives the seconds that it had expected of them all.
        """
        # Written out: every step comes by here.
        z0, z1, z2, z3 = self._z
        total_s = all_expected_s = b0 = b1 = b2 = b3 = 0.0
        r00 = r01 = r02 = r03 = r11 = r12 = r13 = r22 = r23 = r33 = 0.0
        for (base_s, experts_s, rest_s, decode_tokens), took_s in steps:
            predicted_s = base_s + experts_s + rest_s
            tokens_s = TOKEN_S * decode_tokens
            expected_s = z0 * base_s + z1 * experts_s + z2 * rest_s + z3 * tokens_s
            all_expected_s += expected_s
            # A model without a base may expect nothing of a step without tokens.
            if predicted_s <= 0:
                continue
            total_s += predicted_s
            if took_s > expected_s * STALLED:
                took_s = expected_s * SURPRISE
            elif took_s < expected_s / SURPRISE:
                took_s = expected_s / SURPRISE
            took = took_s / predicted_s
            b0 += took * base_s
            b1 += took * experts_s
            b2 += took * rest_s
            b3 += took * tokens_s
            share = base_s / predicted_s
            r00 += share * base_s
            r01 += share * experts_s
            r02 += share * rest_s
            r03 += share * tokens_s
            share = experts_s / predicted_s
            r11 += share * experts_s
            r12 += share * rest_s
            r13 += share * tokens_s
            share = rest_s / predicted_s
            r22 += share * rest_s
            r23 += share * tokens_s
            r33 += tokens_s / predicted_s * tokens_s
        if not total_s:
            return all_expected_s
        forget = math.exp(-total_s / MEMORY_S)
        new_b = (b0, b1, b2, b3)
        new_r = (r00, r01, r02, r03, r11, r12, r13, r22, r23, r33)
        self._b = [forget * old + new for old, new in zip(self._b, new_b, strict=True)]
        self._r = [forget * old + new for old, new in zip(self._r, new_r, strict=True)]
        self._z = self._solve()
        return all_expected_s

    def _solve(self) -> list[float]:
        """The minimum over all z; where that is out of bounds, coordinate descent within them."""
        r00, r01, r02, r03, r11, r12, r13, r22, r23, r33 = self._r
        b0, b1, b2, b3 = self._b
        parts_r = r00 + r11 + r22 + 2 * (r01 + r02 + r12)
        besides = self._z[3] * (r03 + r13 + r23)  # as found until now
        pull = COMMON_S * (b0 + b1 + b2 - besides) / parts_r
        right = [b0 + pull, b1 + pull, b2 + pull, b3]
        rows = (
            (r00 + COMMON_S, r01, r02, r03),
            (r01, r11 + COMMON_S, r12, r13),
            (r02, r12, r22 + COMMON_S, r23),
            (r03, r13, r23, r33 + COMMON_S),
        )
        z = _eliminate(rows, right)
        if all(low <= each <= high for each, (low, high) in zip(z, BOUNDS, strict=True)):
            return z
        for _ in range(SWEEPS):
            before = z.copy()
            for i, ((r0, r1, r2, r3), (low, high)) in enumerate(zip(rows, BOUNDS, strict=True)):
                own = rows[i][i]
                rest = r0 * z[0] + r1 * z[1] + r2 * z[2] + r3 * z[3] - own * z[i]
                z[i] = min(max((right[i] - rest) / own, low), high)
            if z == before:
                break
        return z


def _eliminate(rows: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Four equations; the matrix is positive definite, so no pivot is small."""
    (a, b, c, d), (_, e, f, g), (_, _, h, i), (_, _, _, j) = rows
    w, x, y, z = right
    b_a, c_a, d_a = b / a, c / a, d / a
    e, f, g, x = e - b * b_a, f - c * b_a, g - d * b_a, x - w * b_a
    h, i, y = h - c * c_a, i - d * c_a, y - w * c_a
    j, z = j - d * d_a, z - w * d_a
    f_e, g_e = f / e, g / e
    h, i, y = h - f * f_e, i - g * f_e, y - x * f_e
    j, z = j - g * g_e, z - x * g_e
    i_h = i / h
    z = (z - y * i_h) / (j - i * i_h)
    y = (y - i * z) / h
    x = (x - f * y - g * z) / e
    return [(w - b * x - c * y - d * z) / a, x, y, z]
