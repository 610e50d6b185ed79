"""What `benchmarks.elastic` compares: engines that run steps of a kind at a k' and time them."""

from typing import Protocol

import numpy as np

from benchmarks.kinds import KINDS, Kind, Timing

MAX_BATCH_TOKENS = max(kind.tokens for kind in KINDS)
STEPS = 8  # of one kind, in a row


class Arm(Protocol):
    name: str

    def num_rounds(self, kind: Kind, k: int, rounds: int) -> int:
        """How many of the rounds it takes part in."""

    def timings(self, kind: Kind, k: int, random: np.random.Generator) -> list[Timing]: ...
