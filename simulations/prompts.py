"""Cuts prompts of a wanted length out of held-out text.

Takes a text and a tokenizer file, gives stretches of that text. Real text, because a language model
routes it as it routes a user's. Knows nothing of requests or servers.
"""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

ATTEMPTS = 100


class Prompts:
    """A text, tokenised once."""

    def __init__(self, text: str, tokenizer_file: Path) -> None:
        self._text = text
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_file))
        # A tokenizer file may carry its training-time truncation, which would shorten the text.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets

    @property
    def num_tokens(self) -> int:
        return len(self._offsets)

    @property
    def num_special_tokens(self) -> int:
        """What a server adds to every prompt; `cut` leaves it out of its count."""
        return int(self._tokenizer.num_special_tokens_to_add(False))

    def cut(self, num_tokens: int, rng: np.random.Generator) -> str:
        """A random stretch of `num_tokens` tokens of the text.

        Encoded by itself it may come out a token or so shorter, never longer.
        """
        if not 1 <= num_tokens <= self.num_tokens:
            raise ValueError(
                f"a prompt of {num_tokens} tokens cannot be cut from a text of {self.num_tokens}"
            )
        for _ in range(ATTEMPTS):
            first = int(rng.integers(self.num_tokens - num_tokens + 1))
            prompt = self._trim(first, num_tokens)
            if prompt is not None:
                return prompt
        raise ValueError(f"no stretch of the text re-encodes to {num_tokens} tokens or fewer")

    def _trim(self, first: int, num_tokens: int) -> str | None:
        """The stretch from `first`, its end drawn in until it fits; None when nothing is left.

        A character of several tokens cut in the middle is taken whole and so costs more than asked.
        """
        end = first + num_tokens
        while end > first:
            prompt = self._text[self._offsets[first][0] : self._offsets[end - 1][1]]
            excess = self._count(prompt) - num_tokens
            if excess <= 0:
                return prompt or None
            end -= excess
        return None

    def _count(self, prompt: str) -> int:
        return len(self._tokenizer.encode(prompt, add_special_tokens=False))
