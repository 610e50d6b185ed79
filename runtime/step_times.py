"""Times steps of the real engine: prompts of every size, decode batches, and both mixed, by plan.

Plans are interleaved and repeated, so that a drift of the machine touches all of them alike.
"""

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from controller.signals import Plan, Step
from runtime.elastic import ExpertDial
from runtime.engine import Emission, Engine
from runtime.sampling import Sampling
from runtime.step_fit import Shape, TimedStep

PREFILL_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the largest step
LONG_PROMPT_STEPS = 6
DECODE_BATCHES = (1, 2, 4, 8, 16, 32)
PROMPT_TOKENS = 256  # of the decoding requests: an average context
CONTEXTS = (256, 64, 512, 128)  # of the decoding requests, in turns
MAX_DECODE_CONTEXT = 4096  # of a batch together: what prefilling it takes counts, too
DECODE_TOKENS = 8  # while all of a batch decode
HELD_OUT_SHARE, HELD_OUT_BATCH = 1 / 2, 4  # never fitted, only predicted
GREEDY = Sampling(temperature=0)


def time_round(bench: "Bench", plans: Sequence[tuple[int, ...]], number: int) -> list[TimedStep]:
    """All plans once, in an order of the round's own."""
    random, timed = np.random.default_rng(number), []
    bench.run([(PROMPT_TOKENS, 2)], random)  # the first steps pay for allocation
    for epoch, chosen in enumerate(random.permutation(len(plans)), 1):
        bench.apply_plan(plans[chosen], epoch)
        timed += [TimedStep(plans[chosen], number, step) for step in bench.round(number, random)]
    return timed


def prefill_sizes(max_batch_tokens: int) -> list[int]:
    return [round(share * max_batch_tokens) for share in PREFILL_SHARES]


def decode_batches(max_batch_tokens: int) -> list[int]:
    """Those that leave most of a step to the prompts of the last to join."""
    return [batch for batch in DECODE_BATCHES if batch <= max_batch_tokens // 4]


def is_held_out(shape: Shape, max_batch_tokens: int) -> bool:
    """Of every plan a prompt of one size and the decode batch of one."""
    return (shape.prefill_tokens, shape.decode_tokens) in (
        (round(HELD_OUT_SHARE * max_batch_tokens), 0),
        (0, HELD_OUT_BATCH),
    )


class Bench:
    """An engine that runs batches of requests to their end and keeps the steps.

    Prompts are stretches of `text_ids`, or made up without.
    """

    def __init__(
        self,
        model: nn.Module,
        dial: ExpertDial,
        max_batch_tokens: int,
        text_ids: Sequence[int] = (),
        on_step: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        config = model.config.get_text_config()
        self._vocab_size = int(config.vocab_size)
        self._context_tokens = int(config.max_position_embeddings)
        self._text_ids = text_ids
        self._sizes = prefill_sizes(max_batch_tokens)
        self._num_layers = len(dial.layers)
        self._steps: list[Step] = []
        self._answers: dict[str, list[int]] = {}
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

    def round(self, repeat: int, random: np.random.Generator) -> list[Step]:
        """Prompts of every size alone, a long one, then every decode batch at some context."""
        steps = [step for size in self._sizes for step in self.run([(size, 1)], random)]
        long = min(LONG_PROMPT_STEPS * self._sizes[-1], self._context_tokens - 1)
        steps += self.run([(long, 1)], random)
        for number, batch in enumerate(decode_batches(self._sizes[-1])):
            context = CONTEXTS[(repeat + number) % len(CONTEXTS)]
            steps += self.decode(batch, random, min(context, MAX_DECODE_CONTEXT // batch))
        return steps

    def decode(
        self, batch: int, random: np.random.Generator, prompt_tokens: int = PROMPT_TOKENS
    ) -> list[Step]:
        """Prefill `batch` prompts, then decode them all together."""
        # The first to decode must still be at it when the last has been prefilled, in what room
        # the decoding leaves.
        waiting = math.ceil(batch * prompt_tokens / max(1, self._sizes[-1] - batch))
        return self.run([(prompt_tokens, waiting + DECODE_TOKENS)] * batch, random)

    def run(self, requests: list[tuple[int, int]], random: np.random.Generator) -> list[Step]:
        """Submit (prompt tokens, output tokens) together; wait for all; give the steps."""
        self._finish([(self._prompt(prompt, random), output) for prompt, output in requests])
        return list(self._steps)

    def answers(self, prompts: Sequence[list[int]], num_tokens: int) -> list[list[int]]:
        """What the model says to each, greedily."""
        names = self._finish([(prompt, num_tokens) for prompt in prompts])
        return [self._answers[name] for name in names]

    def _finish(self, requests: Sequence[tuple[list[int], int]]) -> list[str]:
        """Submit all, wait for all; the requests' names."""
        self._steps, self._running = [], len(requests)
        self._idle.clear()
        names = [str(self._num_submitted + number) for number in range(len(requests))]
        self._num_submitted += len(requests)
        self._answers = {name: [] for name in names}
        for name, (prompt, num_tokens) in zip(names, requests, strict=True):
            self._engine.submit(name, prompt, num_tokens, GREEDY, None)
        while not self._idle.wait(timeout=1.0):
            if self._engine.failure:
                raise RuntimeError(self._engine.failure)
        return names

    def _prompt(self, num_tokens: int, random: np.random.Generator) -> list[int]:
        if not self._text_ids:
            return random.integers(0, self._vocab_size, num_tokens).tolist()
        first = int(random.integers(max(1, len(self._text_ids) - num_tokens)))
        return [
            self._text_ids[(first + token) % len(self._text_ids)] for token in range(num_tokens)
        ]

    def _emitted(self, emissions: list[Emission]) -> None:
        for emission in emissions:
            self._answers[emission.request_id] += emission.tokens
            self._running -= emission.finished

    def _stepped(self, step: Step, _prefilled: dict[str, int]) -> None:
        """Comes after the step's emissions."""
        self._steps.append(step)
        self._on_step(step)
        if self._running == 0:
            self._idle.set()
