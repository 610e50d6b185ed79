"""What a plan makes the model say: its own greedy answers, held against full k'.

A generation-level measure beside NLL: perplexity alone picks wrong plans (arXiv 2609.04575), since
it never lets a model go on from its own mistakes. The share of tokens of an answer that full k'
would have given there is also what a speculative decoder calls its acceptance rate.
"""

import numpy as np

from runtime.bootstrap import Tally
from runtime.checkpoint import Checkpoint
from runtime.evaluate import Windows, score
from runtime.step_times import Bench

PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
TOGETHER = 16  # answers that are made in one batch


def hits_by_window(
    checkpoint: Checkpoint, windows: Windows, plan: tuple[int, ...], max_batch_tokens: int
) -> np.ndarray:
    """Of every window's answer under `plan`, the tokens that full k' would have given, (W,)."""
    prompts = [list(ids[:PROMPT_TOKENS]) for ids in windows.ids]
    answers, dial = [], checkpoint.dial
    with dial.at(plan), Bench(checkpoint.model, dial, max_batch_tokens) as bench:
        for first in range(0, len(prompts), TOGETHER):
            answers += bench.answers(prompts[first : first + TOGETHER], ANSWER_TOKENS)
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    scores = score(checkpoint, rows, checkpoint.dial.trained_plan)
    return np.array([hits_T[-ANSWER_TOKENS:].sum() for _, hits_T in scores])


def agreement(windows: Windows, hits_W: np.ndarray) -> Tally:
    return Tally(hits_W, np.full(len(hits_W), ANSWER_TOKENS), windows.documents_W)
