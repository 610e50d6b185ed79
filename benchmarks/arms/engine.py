"""kprime's engine, timed step by step."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from benchmarks.arms import MAX_BATCH_TOKENS
from benchmarks.arms.stock import untouched
from benchmarks.kinds import Kind, Timing
from runtime.denominator import rule_of
from runtime.elastic import ExpertDial
from runtime.expert_load import ExpertLoad
from runtime.experts import Backend, ElasticExperts
from runtime.fusion import fuse, fuse_layers
from runtime.fusion.layer import FusedLayer
from runtime.step_times import Bench

# batched_mm copies the weights of every slot: gigabytes and seconds in a layer of a prefill.
MOST_TOKENS_BATCHED = 64
TRIES = 200


class EngineArm(ExitStack):
    """kprime's engine with one backend for the experts."""

    def __init__(self, folder: Path, dtype: torch.dtype, backend: Backend) -> None:
        super().__init__()
        self.dial = untouched(folder, dtype)
        experts = self.dial.layers[0].experts
        self.expert_bytes = _expert_bytes(experts)
        self.expert_flop = 2 * self.expert_bytes // dtype.itemsize  # of a token
        self.full_k, self.max_k = self.dial.trained_plan[0], self.dial.max_k
        self._backend, self._epoch, self._is_timed_prefill = backend, 0, False
        fuse(self.dial.model)
        self.dial.install(backend, torch.arange(16)[None], rule_of(self.dial.model.config))
        if backend is Backend.BATCHED_MM:
            self._prefill_otherwise()
        fused = [self.dial.model.get_submodule(name).forward for name in fuse_layers(self.dial)]
        layers = [part for part in fused if isinstance(part, FusedLayer)]
        clock = self.enter_context(_ExpertClock(self.dial, layers))
        self._experts_s: list[float] = []
        self._bench = self.enter_context(
            Bench(
                self.dial.model,
                self.dial,
                MAX_BATCH_TOKENS,
                on_step=lambda _step: self._experts_s.append(clock.read()),
            )
        )

    def num_rounds(self, kind: Kind, k: int, rounds: int) -> int:
        if self._backend is Backend.BATCHED_MM and kind.prefill:
            return int(k == 1)  # a minute and more at larger k'
        return rounds

    def _prefill_otherwise(self) -> None:
        """Fill the contexts of decoding requests with another backend: that is not timed."""
        for elastic in self.dial.elastic:
            run = elastic.run

            def by_size(
                experts: nn.Module,
                hidden_TD: torch.Tensor,
                *routing: torch.Tensor,
                elastic: ElasticExperts = elastic,
                run: Callable[..., torch.Tensor] = run,
            ) -> torch.Tensor:
                few = len(hidden_TD) <= MOST_TOKENS_BATCHED or self._is_timed_prefill
                elastic._backend = Backend.BATCHED_MM if few else Backend.GROUPED_MM
                return run(experts, hidden_TD, *routing)

            elastic.run = by_size

    def timings(self, kind: Kind, k: int, random: np.random.Generator) -> list[Timing]:
        self._epoch += 1
        self._bench.apply(k, self._epoch)
        self._experts_s.clear()
        self._is_timed_prefill = bool(kind.prefill)
        if kind.decode:
            steps = self._bench.decode(kind.decode, random)
        else:
            steps = self._bench.run([(kind.prefill, 1)], random)
        return [
            Timing(
                step.duration_s,
                experts_s,
                sum(step.distinct_experts),
                kind.tokens * k * len(self.dial.layers),
            )
            for step, experts_s in zip(steps, self._experts_s, strict=True)
            if kind.is_of(step)
        ]

    def facts(self) -> dict[str, int]:
        return {
            "full_k": self.full_k,
            "max_k": self.max_k,
            "expert_bytes": self.expert_bytes,
            "expert_flop": self.expert_flop,
        }

    def telemetry_us(self) -> float:
        """Of counting the experts of one step."""
        load = ExpertLoad(self.dial)
        return _median_us(load.step)

    def setter_us(self, ks: Sequence[int]) -> float:
        """Of setting k' of all layers."""
        plans = [[k] * len(self.dial.layers) for k in ks]
        return median(_median_us(lambda plan=plan: self.dial.set(plan)) for plan in plans)

    def apply_us(self, ks: Sequence[int]) -> float:
        """Of changing the plan of an idle engine: taking hold of it included."""
        times = []
        for _ in range(TRIES // len(ks)):
            for k in ks:
                self._epoch += 1
                started_s = time.perf_counter()
                self._bench.apply(k, self._epoch)
                times.append(time.perf_counter() - started_s)
        return 1e6 * median(times)


class _ExpertClock(ExitStack):
    """Seconds that the experts of all layers took since it was last read."""

    def __init__(self, dial: ExpertDial, fused: Sequence[FusedLayer]) -> None:
        """Fused layers time their own experts; those of others are watched."""
        super().__init__()
        self._fused, self._watched_s, self._started_s = fused, 0.0, 0.0
        for layer in () if fused else dial.layers:
            for handle in (
                layer.experts.register_forward_pre_hook(self._start),
                layer.experts.register_forward_hook(self._stop),
            ):
                self.callback(handle.remove)

    def read(self) -> float:
        seconds = self._watched_s + sum(layer.experts_s for layer in self._fused)
        self._watched_s = 0.0
        return seconds

    def _start(self, *_: object) -> None:
        self._started_s = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self._watched_s += time.perf_counter() - self._started_s


def _expert_bytes(experts: nn.Module) -> int:
    return sum(p[0].nbytes for p in experts.parameters())


def _median_us(work) -> float:  # noqa: ANN001
    times = []
    for _ in range(TRIES):
        started_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_s)
    return 1e6 * median(times)
