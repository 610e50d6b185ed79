"""The kinds of engine steps that benchmarks time."""

from dataclasses import dataclass

from controller.signals import Step

CONTEXT_TOKENS = 256  # of decoding requests


@dataclass(frozen=True)
class Kind:
    """A step that prefills so many tokens, or else decodes for so many requests."""

    prefill: int = 0
    decode: int = 0

    @property
    def name(self) -> str:
        return f"decode {self.decode}" if self.decode else f"prefill {self.prefill}"

    @property
    def tokens(self) -> int:
        return self.prefill + self.decode

    def is_of(self, step: Step) -> bool:
        return (step.work.prefill_tokens, step.work.decode_tokens) == (self.prefill, self.decode)


KINDS = (Kind(decode=1), Kind(decode=8), Kind(decode=32), Kind(prefill=512))


@dataclass(frozen=True)
class Timing:
    """One step; what ran inside it where that can be seen."""

    step_s: float
    experts_s: float | None = None
    distinct_experts: int = 0  # summed over layers
    slots: int = 0  # (token, expert) pairs, summed over layers
