"""What a controller that knew all requests could reach at most: the oracle of `kprime simulate`.

Takes the requests of a run, their objectives, rungs and replicas; gives an effective quality that
no arm of the same run exceeds. A linear program over requests, since the fluid of
`simulations.oracle` does not bound what is sent here: it has work of one size and one deadline, and
on the Azure code trace arms that let the longest prompts go did better than it. Here every request
has its own work and its own two deadlines: its prompt has to be done within its TTFT objective, its
answer by its last token. The engine holds no answer of the highest priority back: its tokens come
one a step (no more requests decode than a step has tokens: each that begins took one of them for
its prompt), and so its last as many steps later, if that is sooner than by its TPOT objective. Each
request is left out where that pays, as admission may.

It bounds because each of these can only help: replicas are one, work is divisible, switching is
free and instant, each request has a rung of its own, and a token takes what it takes in a full
step. A step's time is concave in its tokens and has a fixed part, so none costs less a token.

Letters: G groups of requests alike, T windows, C rungs; times in windows of all replicas.

    variables   y_gc  requests of g at rung c or above     0..n_g
                s_t   time spent on prompts, and on answers, in window t
                B_t   what has come and is not done        both at least 0
                V_t   what is done and is not yet due
    time        s_t of prompts + s_t of answers <= 1
    balance     B_t - B_(t-1) = come_t - s_t               come_t, due_t: sums of cost_gc y_gc
                V_t - V_(t-1) = s_t - due_t
    maximise    sum_gc (q_c - q_(c-1)) y_gc

cost_gc is what rung c takes beyond the one below. Only rungs on the hull of cost and quality are in
it: a mix of two others is as good as any between. That y_gc falls with c is not asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import csr_array, eye_array, hstack, vstack  # type: ignore[import-untyped]

from controller.config import DEFAULT_CLASS, SloClass
from controller.profiles import Profile, Served
from controller.signals import KByLayer, Work
from controller.step_time import StepTime
from simulations.rates import FloatArray
from simulations.traces import Request

WINDOW_S = 0.5
MAX_WINDOWS = 1000  # of the arrivals: wider windows beyond, which only loosens the bound
NUM_SIZES = 8  # requests of one window and about one size are one group
PACE = 1.5  # of the slowest step by the profile: so much longer may the steps of an answer take


@dataclass(frozen=True, slots=True)
class Bound:
    """Shares and means are over requests."""

    effective_quality: float
    attainment: float
    served_quality: float | None  # of those on time; None: there is none
    mean_k: float | None
    window_s: float


@dataclass(frozen=True, slots=True)
class Groups:
    """Requests alike. The first axis is prompts (0) or answers (1)."""

    counts_G: FloatArray
    come_G: NDArray[np.int64]  # the window of their arrival
    due_2G: NDArray[np.int64]  # the last window in which they are on time
    cost_2GC: FloatArray  # seconds of a replica, of one request at each rung


def bound(
    requests: Sequence[Request],
    slo_classes: Mapping[str, SloClass],
    profile: Profile,
    rungs: Sequence[Served],
    replicas: float,
    cache_tokens: int,
    slowest: float = 1.0,
) -> Bound:
    """By `rungs`, cheapest first, on so many replicas that never fail; fast ones count for more.

    The profile's step times have to be those of the machine; `slowest` is how many times as long
    some may take for a reason beside noise.
    """
    window_s = max(WINDOW_S, requests[-1].arrival_s / MAX_WINDOWS)
    pace_s = PACE * slowest * slowest_step_s(requests, profile, rungs, cache_tokens)
    groups = _groups(requests, slo_classes, profile, rungs, window_s, pace_s)
    mean_C = groups.cost_2GC.sum(axis=0).T @ groups.counts_G
    kept = hull(mean_C, np.array([rung.quality for rung in rungs]))
    steps_2GC = np.diff(groups.cost_2GC[:, :, kept], axis=2, prepend=0.0) / (replicas * window_s)
    quality_C = np.diff([rungs[c].quality for c in kept], prepend=0.0)
    reached_C = _solve(groups, steps_2GC, quality_C).sum(axis=0)
    worth, served = float(reached_C @ quality_C), float(reached_C[0])
    k_C = np.diff([rungs[c].mean_k for c in kept], prepend=0.0)
    return Bound(
        worth / len(requests),
        served / len(requests),
        worth / served if served else None,
        float(reached_C @ k_C) / served if served else None,
        window_s,
    )


def least_s(
    model: StepTime,
    plan: KByLayer,
    prompt_tokens: FloatArray,
    output_tokens: FloatArray,
    chunk_tokens: int,
) -> tuple[FloatArray, FloatArray]:
    """Engine time of prompts and of answers if all their tokens were in full steps.

    The prompt's last step makes the first token of the answer.
    """
    prompt_token_s = model.step_s(plan, Work(chunk_tokens, 0, 0, 0)) / chunk_tokens
    answer_token_s = model.step_s(plan, Work(0, chunk_tokens, 0, 0)) / chunk_tokens
    decoded = output_tokens - 1
    prompt_keys = prompt_tokens * (prompt_tokens + 1) / 2
    answer_keys = decoded * (prompt_tokens + output_tokens / 2)
    return (
        prompt_token_s * prompt_tokens + model.prefill_key_s * prompt_keys,
        answer_token_s * decoded + model.decode_key_s * answer_keys,
    )


def slowest_step_s(
    requests: Sequence[Request], profile: Profile, rungs: Sequence[Served], cache_tokens: int
) -> float:
    """A full step that reads as much as it can: each token of a prompt as long as the longest, or
    the whole cache by those that decode.
    """
    tokens, model = profile.max_batch_tokens, profile.step_time
    longest = max(each.input_tokens for each in requests)
    works = Work(tokens, 0, tokens * longest, 0), Work(0, tokens, 0, cache_tokens)
    return max(model.step_s(rung.layers, work) for rung in rungs for work in works)


def hull(cost_C: FloatArray, quality_C: FloatArray) -> list[int]:
    """Those of which a mix is as good as any of all, by rising cost: each step up buys less."""
    kept: list[int] = []
    for rung in sorted(range(len(cost_C)), key=lambda c: (cost_C[c], -quality_C[c])):
        if kept and quality_C[rung] <= quality_C[kept[-1]]:
            continue
        while len(kept) > 1 and _slope(kept[-2], rung, cost_C, quality_C) >= _slope(
            kept[-2], kept[-1], cost_C, quality_C
        ):
            kept.pop()
        kept.append(rung)
    return kept


def _slope(low: int, high: int, cost_C: FloatArray, quality_C: FloatArray) -> float:
    return float((quality_C[high] - quality_C[low]) / (cost_C[high] - cost_C[low]))


def _groups(
    requests: Sequence[Request],
    slo_classes: Mapping[str, SloClass],
    profile: Profile,
    rungs: Sequence[Served],
    window_s: float,
    pace_s: float,
) -> Groups:
    """By window, class and size. Of a group each is due with the last."""
    columns = [(each.arrival_s, each.input_tokens, each.output_tokens) for each in requests]
    at_N, prompt_N, output_N = np.array(columns, dtype=np.float64).T
    names = list(slo_classes)
    class_N = np.array([names.index(each.slo_class or DEFAULT_CLASS) for each in requests])
    slos = list(slo_classes.values())
    ttft_N = np.array([slo.ttft_s for slo in slos])[class_N]
    highest = max(slo.priority for slo in slos)
    tpots_s = [min(slo.tpot_s, pace_s) if slo.priority == highest else slo.tpot_s for slo in slos]
    tpot_N = np.array(tpots_s)[class_N]
    model, chunk = profile.step_time, profile.max_batch_tokens
    cost_C2N = np.array([least_s(model, each.layers, prompt_N, output_N, chunk) for each in rungs])
    come_N = (at_N // window_s).astype(np.int64)
    last_2N = at_N + np.array([ttft_N, ttft_N + tpot_N * (output_N - 1)])
    whole_N = cost_C2N[-1].sum(axis=0)
    limits = np.quantile(whole_N, np.arange(1, NUM_SIZES) / NUM_SIZES)
    size_N = np.searchsorted(limits, whole_N)
    key_N = (come_N * len(names) + class_N) * NUM_SIZES + size_N
    _, first_G, group_N = np.unique(key_N, return_index=True, return_inverse=True)
    counts_G = np.bincount(group_N).astype(np.float64)
    due_2G = np.zeros((2, len(counts_G)), dtype=np.int64)
    for due_G, last_N in zip(due_2G, last_2N, strict=True):
        np.maximum.at(due_G, group_N, (last_N // window_s).astype(np.int64))
    sums_C2G = [[np.bincount(group_N, weights=part_N) for part_N in each] for each in cost_C2N]
    return Groups(
        counts_G, come_N[first_G], due_2G, (np.array(sums_C2G) / counts_G).transpose(1, 2, 0)
    )


def _solve(groups: Groups, steps_2GC: FloatArray, quality_C: FloatArray) -> FloatArray:
    """y_gc of the best, (G, C)."""
    num_groups, num_rungs = steps_2GC.shape[1:]
    num_y, num_windows = num_groups * num_rungs, int(groups.due_2G.max()) + 1
    one = eye_array(num_windows, format="csr")
    change = one - eye_array(num_windows, k=-1, format="csr")
    none = csr_array((num_windows, num_windows))

    def work(part: int, window_G: NDArray[np.int64]) -> Any:  # noqa: ANN401  (a sparse matrix)
        """Time of y in the window that each group has, (T, y)."""
        at = np.repeat(window_G, num_rungs), np.arange(num_y)
        return csr_array((steps_2GC[part].ravel(), at), shape=(num_windows, num_y))

    balance = []
    for part in (0, 1):
        # Columns of a part: s, B, V.
        before, after = [none] * 3 * part, [none] * 3 * (1 - part)
        come, due = work(part, groups.come_G), work(part, groups.due_2G[part])
        balance.append(hstack([-come, *before, one, change, none, *after]))
        balance.append(hstack([due, *before, -one, none, change, *after]))
    time = hstack([csr_array((num_windows, num_y)), one, none, none, one, none, none])
    rest = 6 * num_windows
    most = np.concatenate([np.repeat(groups.counts_G, num_rungs), np.full(rest, np.inf)])
    found = linprog(
        np.concatenate([-np.tile(quality_C, num_groups), np.zeros(rest)]),
        A_ub=time.tocsr(),
        b_ub=np.ones(num_windows),
        A_eq=vstack(balance, format="csr"),
        b_eq=np.zeros(4 * num_windows),
        bounds=np.column_stack([np.zeros_like(most), most]),
        method="highs",
    )
    if not found.success:  # leaving everything out is always allowed
        raise RuntimeError(f"the bound's program was not solved: {found.message}")
    reached_GC: FloatArray = np.maximum(found.x[:num_y], 0.0).reshape(num_groups, num_rungs)
    return reached_GC
