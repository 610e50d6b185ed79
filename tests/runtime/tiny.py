"""A random elastic model that runs in milliseconds, and a recorder of what an engine does."""

import threading

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from controller.signals import Plan, Step
from runtime.elastic import ExpertDial
from runtime.engine import Emission, Engine
from runtime.experts import best_backend
from runtime.fusion import fuse, fuse_layers
from runtime.sampling import Sampling
from runtime.scheduling import FIRST_COME, Rank

NUM_LAYERS, TRAINED_K, VOCAB = 2, 4, 128
GREEDY = Sampling(temperature=0)


def tiny_model(head_dim: int = 32) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        num_experts=8,
        num_experts_per_tok=TRAINED_K,
        norm_topk_prob=True,
        max_position_embeddings=512,
        initializer_range=0.5,  # wide, so that the greedy choice is never a tie
        tie_word_embeddings=False,
    )
    return Qwen3MoeForCausalLM(config).eval()


def plan(epoch: int, k: int) -> Plan:
    return Plan(epoch, (k,) * NUM_LAYERS, quality=k / TRAINED_K)


class Bench:
    """An engine over a tiny model whose steps and emissions are kept. A context manager."""

    def __init__(
        self,
        *,
        max_batch_tokens: int = 32,
        head_dim: int = 32,
        share_prefixes: bool = False,
        fused: bool = True,
        model: PreTrainedModel | None = None,
        cache_tokens: int = 4096,
    ) -> None:
        """`fused`: as far as the kernels can, as when a checkpoint is served."""
        self.model = model or tiny_model(head_dim)
        self.dial = ExpertDial(self.model)
        if fused:
            fuse(self.model)
        self.dial.install(best_backend(self.dial.layers), torch.arange(8)[None])
        if fused:
            fuse_layers(self.dial)
        self.emissions: list[Emission] = []
        self.steps: list[Step] = []
        self.prefilled: dict[str, int] = {}
        self._changed = threading.Condition()
        self.engine = Engine(
            self.model,
            self.dial,
            Plan(1, self.dial.trained_plan, 1.0),
            max_batch_tokens=max_batch_tokens,
            cache_tokens=cache_tokens,
            share_prefixes=share_prefixes,
            on_step=self._stepped,
            on_emissions=self._emitted,
        )

    def __enter__(self) -> "Bench":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def submit(
        self,
        name: str,
        prompt: list[int],
        max_tokens: int,
        slo_class: str | None = None,
        rank: Rank = FIRST_COME,
    ) -> None:
        self.engine.submit(name, prompt, max_tokens, GREEDY, None, slo_class, rank)

    def tokens(self, name: str) -> list[int]:
        return [t for e in list(self.emissions) if e.request_id == name for t in e.tokens]

    def wait_for_tokens(self, name: str, count: int) -> list[int]:
        self._wait(lambda: len(self.tokens(name)) >= count)
        return self.tokens(name)

    def wait_for_end(self, *names: str) -> None:
        self._wait(lambda: set(names) <= {e.request_id for e in self.emissions if e.finished})

    def _wait(self, done) -> None:  # noqa: ANN001
        with self._changed:
            assert self._changed.wait_for(done, timeout=30), "the engine did not get there"

    def _stepped(self, step: Step, prefilled: dict[str, int]) -> None:
        self.steps.append(step)
        for name, tokens in prefilled.items():
            self.prefilled[name] = self.prefilled.get(name, 0) + tokens

    def _emitted(self, emissions: list[Emission]) -> None:
        with self._changed:
            self.emissions += emissions
            self._changed.notify_all()
