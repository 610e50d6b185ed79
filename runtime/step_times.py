"""Step time against what a step holds, measured on the real engine and fitted rung by rung.

Rungs are interleaved and repeated, so that a drift of the machine touches all of them alike.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.optimize import nnls
from torch import nn

from controller.profiles import Fit, StepCost
from controller.signals import Plan, Step
from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.engine import Emission, Engine
from runtime.sampling import Sampling

PREFILL_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the largest step
DECODE_BATCHES = (1, 2, 4, 8, 16)
PROMPT_TOKENS = 256  # of the decoding requests: an average context
DECODE_TOKENS = 8  # while all of a batch decode
HELD_OUT_SHARE, HELD_OUT_BATCH = 1 / 2, 4  # never fitted, only predicted
GREEDY = Sampling(temperature=0)

Point = tuple[int, int]


@dataclass(frozen=True)
class Table:
    """Median seconds of a step by (prefill tokens, decoding requests)."""

    seconds: dict[Point, float]
    held_out: frozenset[Point]

    def fit(self) -> StepCost:
        """Least squares on relative errors, no negative coefficient."""
        points = [point for point in self.seconds if point not in self.held_out]
        rows = np.array([[1.0, *point] for point in points])
        seconds = np.array([self.seconds[point] for point in points])
        (base, prefill, decode), _ = nnls(rows / seconds[:, None], np.ones(len(points)))
        tiny = 1e-9  # a coefficient of exactly zero would make work free
        return StepCost(
            base_s=base, prefill_token_s=max(prefill, tiny), decode_token_s=max(decode, tiny)
        )

    def held_out_errors(self, cost: StepCost) -> list[float]:
        """Relative errors of the fit where it was not fitted."""
        return [
            abs(cost.step_s(*point) / seconds - 1)
            for point, seconds in self.seconds.items()
            if point in self.held_out
        ]


def measure(
    checkpoint: Checkpoint,
    plans: Sequence[tuple[int, ...]],
    *,
    max_batch_tokens: int,
    repeats: int,
    seed: int = 0,
    on_round: Callable[[], None] = lambda: None,
) -> dict[tuple[int, ...], Table]:
    """A table for every plan. One call of `on_round` per plan and repeat."""
    random = np.random.default_rng(seed)
    seen: dict[tuple[int, ...], dict[Point, list[float]]] = {
        plan: defaultdict(list) for plan in plans
    }
    with Bench(checkpoint.model, checkpoint.dial, max_batch_tokens) as bench:
        bench.run([(PROMPT_TOKENS, 2)], random)  # the first steps pay for allocation
        for _ in range(repeats):
            for epoch, number in enumerate(random.permutation(len(plans)), 1):
                bench.apply_plan(plans[number], epoch)
                for step in bench.round(random):
                    point = step.prefill_tokens, step.decode_tokens
                    seen[plans[number]][point].append(step.duration_s)
                on_round()
    sizes = prefill_sizes(max_batch_tokens)
    wanted = {(size, 0) for size in sizes} | {(0, batch) for batch in DECODE_BATCHES}
    wanted |= {(max_batch_tokens - batch, batch) for batch in DECODE_BATCHES[:-2]}
    held_out = frozenset({(round(HELD_OUT_SHARE * max_batch_tokens), 0), (0, HELD_OUT_BATCH)})
    tables = {}
    for plan, points in seen.items():
        assert wanted <= set(points), f"{plan}: steps never seen: {wanted - set(points)}"
        tables[plan] = Table({point: median(points[point]) for point in wanted}, held_out)
    return tables


def prefill_sizes(max_batch_tokens: int) -> list[int]:
    return [round(share * max_batch_tokens) for share in PREFILL_SHARES]


def describe(tables: dict[tuple[int, ...], Table], costs: dict[tuple[int, ...], StepCost]) -> Fit:
    errors = [error for plan in tables for error in tables[plan].held_out_errors(costs[plan])]
    num_points = sum(len(table.seconds) for table in tables.values())
    return Fit(
        mape_held_out=float(np.mean(errors)),
        points=num_points - len(errors),
        points_held_out=len(errors),
    )


class Bench:
    """An engine that runs batches of made-up requests to their end and keeps the steps."""

    def __init__(
        self,
        model: nn.Module,
        dial: ExpertDial,
        max_batch_tokens: int,
        on_step: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        self._vocab_size = int(model.config.vocab_size)
        self._sizes = prefill_sizes(max_batch_tokens)
        self._num_layers = len(dial.layers)
        self._steps: list[Step] = []
        self._on_step = on_step
        self._running = 0
        self._idle = threading.Event()
        self._num_submitted = 0
        self._engine = Engine(
            model,
            dial,
            Plan(0, dial.plan, 1.0),
            max_batch_tokens=max_batch_tokens,
            cache_tokens=32_768,
            on_step=self._stepped,
            on_emissions=self._emitted,
        )

    def __enter__(self) -> "Bench":
        self._engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop()

    def apply(self, k: int, epoch: int, expert_cap: int | None = None) -> None:
        """All layers alike."""
        self.apply_plan((k,) * self._num_layers, epoch, expert_cap)

    def apply_plan(self, plan: tuple[int, ...], epoch: int, expert_cap: int | None = None) -> None:
        cap = None if expert_cap is None else (expert_cap,) * self._num_layers
        self._engine.apply(Plan(epoch, plan, 1.0, expert_cap=cap))

    def round(self, random: np.random.Generator) -> list[Step]:
        """Prompts of every size alone, then every decode batch."""
        steps = [step for size in self._sizes for step in self.run([(size, 1)], random)]
        for batch in DECODE_BATCHES:
            steps += self.decode(batch, random)
        return steps

    def decode(self, batch: int, random: np.random.Generator) -> list[Step]:
        """Prefill `batch` prompts, then decode them all together."""
        # The first to decode must still be at it when the last has been prefilled, in what room
        # the decoding leaves.
        waiting = math.ceil(batch * PROMPT_TOKENS / max(1, self._sizes[-1] - batch))
        return self.run([(PROMPT_TOKENS, waiting + DECODE_TOKENS)] * batch, random)

    def run(self, requests: list[tuple[int, int]], random: np.random.Generator) -> list[Step]:
        """Submit (prompt tokens, output tokens) together; wait for all; give the steps."""
        self._steps, self._running = [], len(requests)
        self._idle.clear()
        for prompt_tokens, output_tokens in requests:
            self._num_submitted += 1
            prompt = random.integers(0, self._vocab_size, prompt_tokens).tolist()
            self._engine.submit(str(self._num_submitted), prompt, output_tokens, GREEDY, None)
        while not self._idle.wait(timeout=1.0):
            if self._engine.failure:
                raise RuntimeError(self._engine.failure)
        return list(self._steps)

    def _emitted(self, emissions: list[Emission]) -> None:
        self._running -= sum(emission.finished for emission in emissions)

    def _stepped(self, step: Step, _prefilled: dict[str, int]) -> None:
        """Comes after the step's emissions."""
        self._steps.append(step)
        self._on_step(step)
        if self._running == 0:
            self._idle.set()
