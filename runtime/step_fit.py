"""Fits the step-time model to steps that ran, and says how far it can be trusted.

Takes timed steps by plan and round; gives the model, its error on points it has not seen, and the
interval that the machine's noise leaves open. Knows no engine.

Shapes: S steps, P points (steps of one shape), L layers, C coefficients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar, nnls

from controller.profiles import Fit
from controller.signals import Step, Work
from controller.step_time import Layer, StepTime

CONTEXT_BUCKET_TOKENS = 64
MIN_SPREAD = 0.3
NUM_RESAMPLES = 200
COEFFICIENTS = ("base_s", "token_s", "expert_s", "slot_s", "prefill_key_s", "decode_key_s")


class TimedStep(NamedTuple):
    plan: tuple[int, ...]
    round: int  # all plans once
    step: Step


class Shape(NamedTuple):
    """Steps that are timed as one point: their tokens, and the context of each in buckets."""

    plan: tuple[int, ...]
    prefill_tokens: int
    decode_tokens: int
    context: int


@dataclass(frozen=True)
class Points:
    """Steps of one shape each: what they had in the mean, and the median of what they took."""

    shapes: list[Shape]
    features_PC: np.ndarray
    seconds_P: np.ndarray

    def errors_P(self, model: StepTime) -> np.ndarray:
        """Relative, of the model."""
        coefficients_C = np.array([getattr(model, name) for name in COEFFICIENTS])
        return np.abs(self.features_PC @ coefficients_C / self.seconds_P - 1)


class Timings:
    """Steps that ran, as arrays. `experts`: number and size of each layer's (see `Layer`)."""

    def __init__(self, timed: Sequence[TimedStep], experts: Sequence[tuple[int, float]]) -> None:
        works = [step.work for _, _, step in timed]
        tokens_S = np.array([work.tokens for work in works])
        k_SL = np.array([plan for plan, _, _ in timed])
        distinct_SL = np.array([step.distinct_experts for _, _, step in timed])
        self.layers = tuple(
            Layer(num_experts=number, size=size, spread=spread(number, *columns))
            for (number, size), *columns in zip(
                experts, k_SL.T, [tokens_S] * len(experts), distinct_SL.T, strict=True
            )
        )
        sizes_L = np.array([size for _, size in experts])
        self._features_SC = np.stack(
            [
                np.ones(len(timed)),
                tokens_S,
                distinct_SL @ sizes_L,
                np.array([step.expert_slots for _, _, step in timed]) @ sizes_L,
                np.array([work.prefill_keys for work in works]),
                np.array([work.decode_keys for work in works]),
            ],
            axis=1,
        )
        self._seconds_S = np.array([step.duration_s for _, _, step in timed])
        self._round_S = np.array([each.round for each in timed])
        shapes = [_shape(plan, step.work) for plan, _, step in timed]
        self._shapes = sorted(set(shapes))
        number_of = {shape: number for number, shape in enumerate(self._shapes)}
        self._shape_S = np.array([number_of[shape] for shape in shapes])
        foreseen_SL = np.stack(
            [
                _distinct(layer.num_experts, k_S, tokens_S, layer.spread)
                for layer, k_S in zip(self.layers, k_SL.T, strict=True)
            ],
            axis=1,
        )
        self.distinct_error = float(np.abs(foreseen_SL / distinct_SL - 1).mean())

    def points(
        self, wanted: Callable[[Shape], bool], rounds: Sequence[int] | None = None
    ) -> Points:
        """Of the wanted shapes; of some rounds, each as often as it is named, or of all."""
        chosen = np.array([wanted(shape) for shape in self._shapes])[self._shape_S]
        picks = np.flatnonzero(chosen)
        if rounds is not None:
            by_round = [picks[self._round_S[picks] == number] for number in rounds]
            picks = np.concatenate(by_round)
        order = picks[np.lexsort((self._seconds_S[picks], self._shape_S[picks]))]
        numbers, first, count = np.unique(
            self._shape_S[order], return_index=True, return_counts=True
        )
        middle = (
            self._seconds_S[order[first + (count - 1) // 2]]
            + self._seconds_S[order[first + count // 2]]
        )
        return Points(
            [self._shapes[number] for number in numbers],
            np.add.reduceat(self._features_SC[order], first) / count[:, None],
            middle / 2,
        )

    def fit(self, points: Points) -> StepTime:
        """The model of least relative error on points, no coefficient negative."""
        rows_PC = points.features_PC / points.seconds_P[:, None]
        scale_C = rows_PC.mean(axis=0)
        scale_C[scale_C == 0] = 1.0  # what never happened costs nothing
        solution_C, _ = nnls(rows_PC / scale_C, np.ones(len(rows_PC)))
        named = dict(zip(COEFFICIENTS, (solution_C / scale_C).tolist(), strict=True))
        return StepTime(**named, layers=self.layers)

    def describe(
        self,
        model: StepTime,
        held_out: Callable[[Shape], bool],
        references: Sequence[tuple[Sequence[int], Work]],
    ) -> Fit:
        """How well a model that has not seen the shapes held out meets them.

        The interval: what the model says of the references when rounds are resampled, half its
        width over the middle, the widest of them.
        """
        wrong_P = self.points(held_out).errors_P(model)
        return Fit(
            mape_held_out=float(wrong_P.mean()),
            p95_held_out=float(np.quantile(wrong_P, 0.95)),
            points=len(self._shapes) - len(wrong_P),
            points_held_out=len(wrong_P),
            interval=self._interval(held_out, references),
            distinct_experts_error=self.distinct_error,
        )

    def _interval(
        self,
        held_out: Callable[[Shape], bool],
        references: Sequence[tuple[Sequence[int], Work]],
    ) -> float:
        rounds, random = np.unique(self._round_S), np.random.default_rng(0)
        seconds = []
        for _ in range(NUM_RESAMPLES):
            picks = random.choice(rounds, len(rounds))
            model = self.fit(self.points(lambda shape: not held_out(shape), picks.tolist()))
            seconds.append([model.step_s(plan, work) for plan, work in references])
        low, high = np.quantile(seconds, [0.025, 0.975], axis=0)
        return float(((high - low) / (high + low)).max())


def spread(
    num_experts: int, k_S: np.ndarray, tokens_S: np.ndarray, distinct_S: np.ndarray
) -> float:
    """The spread under which `Layer.distinct` meets the counts best."""

    def error(spread: float) -> float:
        foreseen_S = _distinct(num_experts, k_S, tokens_S, spread)
        return float(np.mean((foreseen_S / distinct_S - 1) ** 2))

    return float(minimize_scalar(error, bounds=(MIN_SPREAD, 1.0), method="bounded").x)


def _distinct(num_experts: int, k_S: np.ndarray, tokens_S: np.ndarray, spread: float) -> np.ndarray:
    """`Layer.distinct` of many steps."""
    return num_experts * (1 - (1 - k_S / num_experts) ** (tokens_S**spread))


def _shape(plan: tuple[int, ...], work: Work) -> Shape:
    context = (work.prefill_keys + work.decode_keys) / work.tokens
    return Shape(
        plan,
        int(work.prefill_tokens),
        int(work.decode_tokens),
        round(context / CONTEXT_BUCKET_TOKENS),
    )
