"""What a calibration runs: quality, answers and step times of plans, each once and then kept.

Takes a checkpoint and held-out windows; decides nothing. Quality is computed on all cores, steps
are timed on as many threads as a replica has.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import psutil
import torch

from controller.signals import Step, Work
from runtime.bootstrap import Tally
from runtime.checkpoint import Checkpoint
from runtime.evaluate import Quality, Windows, evaluate, evaluate_answers
from runtime.generation import agreement, hits_by_window
from runtime.ledger import Ledger
from runtime.step_fit import TimedStep
from runtime.step_times import Bench, time_round

Plan = tuple[int, ...]
CHOOSING, MEASURING = (
    "choosing",
    "measuring",
)  # windows: plans are chosen on some, measured on others
STEPS = "steps"


class Measurements:
    """`on_stage` is told each stage with its number of measurements, and gives what to call at each
    of them, whether run or remembered.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        windows: dict[str, Windows],
        ledger: Ledger,
        *,
        threads: int,
        max_batch_tokens: int,
        on_stage: Callable[[str, int], Callable[[], object]] = lambda _name, _total: lambda: None,
    ) -> None:
        self.checkpoint = checkpoint
        self.windows = windows
        self.ledger = ledger
        self.threads = threads
        self.max_batch_tokens = max_batch_tokens
        self.on_stage = on_stage

    def quality(self, name: str, plan: Sequence[int]) -> Quality:
        """On the windows of that name."""
        windows = self.windows[name]

        def run() -> list[list[float]]:
            torch.set_num_threads(psutil.cpu_count() or 1)
            found = evaluate(self.checkpoint, windows, plan)
            return [found.nll.sums_P.tolist(), found.accuracy.sums_P.tolist()]

        nats, hits = self.ledger.recall(f"quality {name} {_name(plan)}", run)
        return Quality.of(windows, np.array(nats), np.array(hits))

    def answers(self, name: str, prefill_plan: Plan) -> Tally | None:
        """NLL at full k' of what follows prompts that ran at the plan; None where tokens of a step
        cannot differ in k'.
        """
        windows, dial = self.windows[name], self.checkpoint.dial
        if dial.not_by_token:
            return None

        def run() -> list[list[float]]:
            torch.set_num_threads(psutil.cpu_count() or 1)
            found = evaluate_answers(self.checkpoint, windows, dial.trained_plan, prefill_plan)
            return [found.sums_P.tolist(), found.counts_P.tolist()]

        nats, counts = self.ledger.recall(f"after {name} {_name(prefill_plan)}", run)
        return Tally(np.array(nats), np.array(counts), windows.documents_W)

    def agreement(self, name: str, plan: Plan) -> Tally:
        """Tokens of the plan's own answers that full k' would have given."""
        windows = self.windows[name]

        def run() -> list[int]:
            torch.set_num_threads(psutil.cpu_count() or 1)
            return hits_by_window(self.checkpoint, windows, plan, self.max_batch_tokens).tolist()

        hits = self.ledger.recall(f"answers {name} {_name(plan)}", run)
        return agreement(windows, np.array(hits))

    def steps(self, name: str, plans: Sequence[Plan], repeats: int) -> list[TimedStep]:
        """Every plan `repeats` times, interleaved; a round of all of them is kept together."""
        text = [token for windows in self.windows.values() for ids in windows.ids for token in ids]
        on_round = self.on_stage(f"step time, {name}", repeats)
        timed = []
        for number in range(repeats):

            def run(number: int = number) -> list[Any]:
                torch.set_num_threads(self.threads)
                model, dial = self.checkpoint.model, self.checkpoint.dial
                with Bench(model, dial, self.max_batch_tokens, text) as bench:
                    round_ = time_round(bench, plans, number)
                return [[each.plan, asdict(each.step)] for each in round_]

            kept = self.ledger.recall(f"{STEPS} {name} {number}", run)
            on_round()
            timed += [TimedStep(tuple(plan), number, _step(data)) for plan, data in kept]
        return timed


def _name(plan: Sequence[int]) -> str:
    return " ".join(map(str, plan))


def _step(data: dict[str, Any]) -> Step:
    return Step(
        Work(**data["work"]),
        data["duration_s"],
        tuple(data["expert_slots"]),
        tuple(data["distinct_experts"]),
    )
