"""What a controller that knew all arrivals could do: a fluid linear program, and its references.

Takes work by window, rates and qualities by rung; gives attainment and quality that no controller
of the same fluid exceeds. No batches, no token mix, switching free and instant, work divisible.
It does not bound what changes the rates themselves: where a rung's rate depends on the batch, its
largest over feasible batches has to be given. Knows no requests and no profile.

Letters: T windows, C rungs.

    variables   s_tc  work served in window t at rung c       t = 0..T-1, all at least 0
                B_t   backlog at the end of t                 mu_c rate, q_c quality of rung c
                d_t   work dropped in t                       a_t work that arrives in t
    time        sum_c s_tc / mu_c <= dt
    balance     sum_c s_tc + B_t - B_(t-1) + d_t = a_t        B_(-1) = 0
    deadline    B_t <= sum of a_j, j = max(0, t-w+1)..t       w = round(D / dt)

The deadline is exact where it is one for all work: in the order of arrival, work of window j may be
served in j..j+w, so the backlog fits into the arrivals of the last w windows. Work that would be
late is dropped. ceil(D / dt) + 1 empty windows at the end let the backlog drain.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil

import numpy as np
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import csr_array, eye_array, hstack, kron, vstack  # type: ignore[import-untyped]

from simulations.rates import FloatArray

TO_WIN = 5e-4  # of E, at least, for a regret: a measured quality is known to 1e-3
SLACK = 1e-9  # of all work: what the second program may drop beyond the first's least


class Objective(StrEnum):
    ATTAINMENT = "attainment"  # least dropped first, then the highest quality of what is served
    QUALITY = "quality"  # the highest sum of q over all work: the one bound on effective quality


@dataclass(frozen=True, slots=True)
class Fluid:
    """Work that flows to one server of several rungs. Refuses numbers that make no sense."""

    arrivals_T: FloatArray  # work that arrives in each window: requests, or tokens
    window_s: float
    deadline_s: float  # from a window's arrival to the end of its service
    rates_C: FloatArray  # work/s at each rung, of all replicas
    qualities_C: FloatArray  # full k' = 1.0

    def __post_init__(self) -> None:
        if self.arrivals_T.ndim != 1 or not _at_least_0(self.arrivals_T) or not self.total > 0:
            raise ValueError("arrivals: expected one row of numbers from 0, not all of them 0")
        if self.rates_C.ndim != 1 or self.rates_C.shape != self.qualities_C.shape:
            raise ValueError("rates and qualities: expected one of each for every rung")
        if not self.rates_C.size or not _above_0(self.rates_C):
            raise ValueError("rates: expected numbers above 0, at least one")
        if not _at_least_0(self.qualities_C):
            raise ValueError("qualities: expected numbers from 0")
        if not (_above_0(np.array(self.window_s)) and _at_least_0(np.array(self.deadline_s))):
            raise ValueError("window above 0 s and deadline from 0 s expected")

    @property
    def total(self) -> float:
        return float(self.arrivals_T.sum())

    @property
    def num_late(self) -> int:
        """w: windows after its own in which work may still be served."""
        return round(self.deadline_s / self.window_s)

    @property
    def drained_T(self) -> FloatArray:
        """The arrivals and the empty windows after them."""
        return np.append(self.arrivals_T, np.zeros(ceil(self.deadline_s / self.window_s) + 1))


@dataclass(frozen=True, slots=True)
class Schedule:
    """Work by window; empty windows at the end included."""

    served_TC: FloatArray
    dropped_T: FloatArray


@dataclass(frozen=True, slots=True)
class Outcome:
    attainment: float  # on time, of all work
    served_quality: float  # mean over served work
    effective_quality: float  # sum of q over what was on time, of all work


def oracle(fluid: Fluid, objective: Objective) -> Outcome:
    """The best that can be done, by one of two measures of best."""
    served_TC = solve(fluid, objective).served_TC
    served, worth = float(served_TC.sum()), float((served_TC @ fluid.qualities_C).sum())
    return Outcome(served / fluid.total, worth / served, worth / fluid.total)


def static(fluid: Fluid, rung: int) -> Outcome:
    """One rung throughout, in the order of arrival, nothing dropped: late work is served and
    missed.
    """
    arrivals_T = np.append(fluid.drained_T, np.zeros(fluid.num_late))
    arrived_T = np.cumsum(arrivals_T)
    surplus_T = np.cumsum(arrivals_T - fluid.rates_C[rung] * fluid.window_s)
    backlog_T = surplus_T - np.minimum(np.minimum.accumulate(surplus_T), 0.0)
    done_T = arrived_T - backlog_T
    # Of what arrived in a window: how much of it is done w windows later.
    last = len(arrivals_T) - fluid.num_late
    on_time_T = done_T[fluid.num_late :] - (arrived_T - arrivals_T)[:last]
    met = float(np.clip(on_time_T, 0.0, arrivals_T[:last]).sum()) / fluid.total
    quality = float(fluid.qualities_C[rung])
    return Outcome(met, quality, quality * met)


def best_static(fluid: Fluid) -> int:
    """The rung of the highest effective quality, in hindsight; of equals the best in quality."""
    return max(
        range(len(fluid.rates_C)),
        key=lambda rung: (static(fluid, rung).effective_quality, fluid.qualities_C[rung]),
    )


def regret(
    effective_quality: float, oracle_quality: float, best_static_quality: float
) -> float | None:
    """(E_oracle - E) / (E_oracle - E_best-static), the oracle's by `Objective.QUALITY`.

    0 is as good as the oracle, 1 no better than the best constant, above 1 worse. None where a
    constant is as good as the oracle, so that there was nothing to win: what is closer than
    qualities are known to is a ratio of noise.
    """
    to_win = oracle_quality - best_static_quality
    return (oracle_quality - effective_quality) / to_win if to_win > TO_WIN else None


def binned(arrivals_s: FloatArray, window_s: float) -> FloatArray:
    """Requests by window, (T,); every arrival from 0 s on."""
    return np.bincount((arrivals_s // window_s).astype(np.int64)).astype(np.float64)


def solve(fluid: Fluid, objective: Objective) -> Schedule:
    """The program's optimum. For attainment two programs in turn, the second held to the least
    dropped work of the first: no weight has to be chosen that dropped work has against quality.
    """
    program = _Program(fluid)
    worth = -np.tile(fluid.qualities_C, program.num_windows)
    if objective is Objective.QUALITY:
        return program.best(worth, drop_cost=0.0)
    dropped = program.best(np.zeros_like(worth), drop_cost=1.0).dropped_T.sum()
    return program.best(worth, drop_cost=0.0, most_dropped=dropped + SLACK * fluid.total)


class _Program:
    """The constraints, in the order of variables s (window by window), B, d.

    Work is counted in mean arrivals of a window, since the solver's tolerances are absolute.
    """

    def __init__(self, fluid: Fluid) -> None:
        self._num_rungs = len(fluid.rates_C)
        arrivals_T = fluid.drained_T
        self.num_windows = T = len(arrivals_T)
        self._unit = fluid.total / T
        a_T = arrivals_T / self._unit
        busy_C = self._unit / (fluid.rates_C * fluid.window_s)  # share of a window, of one unit
        each, before = eye_array(T), eye_array(T, k=-1)
        zeros = csr_array((T, T))
        self._time = hstack([kron(each, busy_C[None, :]), zeros, zeros], format="csr")
        rungs = np.ones((1, self._num_rungs))
        self._balance = hstack([kron(each, rungs), each - before, each], format="csr")
        self._a_T = a_T
        recent_T = np.cumsum(a_T)
        recent_T[fluid.num_late :] -= np.cumsum(a_T)[: T - fluid.num_late]
        unbounded = np.full(T * self._num_rungs, np.inf)
        self._most = np.concatenate([unbounded, np.maximum(recent_T, 0.0), np.full(T, np.inf)])

    def best(
        self, serve_cost: FloatArray, drop_cost: float, most_dropped: float | None = None
    ) -> Schedule:
        """Least cost; `most_dropped` bounds the work dropped in all."""
        T, num_served = self.num_windows, len(serve_cost)
        cost = np.concatenate([serve_cost, np.zeros(T), np.full(T, drop_cost)])
        upper, limits = self._time, np.ones(T)
        if most_dropped is not None:
            dropped = np.concatenate([np.zeros(num_served + T), np.ones(T)])
            upper = vstack([upper, dropped[None, :]], format="csr")
            limits = np.append(limits, most_dropped / self._unit)
        found = linprog(
            cost,
            A_ub=upper,
            b_ub=limits,
            A_eq=self._balance,
            b_eq=self._a_T,
            bounds=np.column_stack([np.zeros_like(self._most), self._most]),
            method="highs",
        )
        if not found.success:  # dropping everything is always allowed
            raise RuntimeError(f"the oracle's program was not solved: {found.message}")
        work = np.maximum(found.x, 0.0) * self._unit
        return Schedule(work[:num_served].reshape(T, self._num_rungs), work[num_served + T :])


def _above_0(values: FloatArray) -> bool:
    return bool(np.all(np.isfinite(values) & (values > 0)))


def _at_least_0(values: FloatArray) -> bool:
    return bool(np.all(np.isfinite(values) & (values >= 0)))
