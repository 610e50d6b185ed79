"""transformers' continuous batching, timed step by step."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.arms import MAX_BATCH_TOKENS, STEPS
from benchmarks.kinds import CONTEXT_TOKENS, Kind, Timing
from controller.signals import Step
from runtime.elastic import ExpertDial
from runtime.stepped import SteppedManager


def untouched(folder: Path, dtype: torch.dtype) -> ExpertDial:
    """The dial of a checkpoint whose modules are as transformers has them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return ExpertDial(model.eval())


class StockArm(ExitStack):
    """transformers' continuous batching as it comes, with its default experts."""

    name = "transformers as it comes"

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        super().__init__()
        self._dial = untouched(folder, dtype)
        model = self._dial.model
        model.set_experts_implementation("grouped_mm")
        model.set_attn_implementation("sdpa")
        self._steps: list[Step] = []
        self._num_requests = 0
        self._manager = SteppedManager(
            model,
            GenerationConfig(do_sample=False, max_new_tokens=16, eos_token_id=-1),
            ContinuousBatchingConfig(
                page_size=64,
                num_blocks=512,
                max_batch_tokens=MAX_BATCH_TOKENS,
                allow_block_sharing=False,
                use_cuda_graph=False,
            ),
            before_step=lambda _batch: None,
            on_step=lambda step, _prefilled: self._steps.append(step),
        )
        self._manager.start()
        self.callback(self._manager.stop, block=True, timeout=30, hard_stop=True)

    def num_rounds(self, kind: Kind, k: int, rounds: int) -> int:
        return rounds

    def timings(self, kind: Kind, k: int, random: np.random.Generator) -> list[Timing]:
        with self._manager.pause():
            self._dial.set([k] * len(self._dial.layers))
        if kind.prefill:
            steps = self._run(1, kind.prefill, 1, random)
        else:
            waiting = -(-kind.decode * CONTEXT_TOKENS // MAX_BATCH_TOKENS)
            steps = self._run(kind.decode, CONTEXT_TOKENS, 2 * waiting + STEPS, random)
        return [Timing(step.duration_s) for step in steps if kind.is_of(step)]

    def _run(
        self, num_requests: int, prompt_tokens: int, answer_tokens: int, random: np.random.Generator
    ) -> list[Step]:
        self._steps.clear()
        vocabulary = int(self._dial.model.config.vocab_size)
        prompts = random.integers(0, vocabulary, (num_requests, prompt_tokens)).tolist()
        self._num_requests += num_requests
        for n, prompt in enumerate(prompts):
            name = str(self._num_requests + n)
            self._manager.add_request(prompt, request_id=name, max_new_tokens=answer_tokens)
        finished = 0
        while finished < num_requests:
            finished += self._manager.get_result(timeout=1.0) is not None
            assert self._manager.is_running(), "transformers' engine stopped"
        return list(self._steps)
