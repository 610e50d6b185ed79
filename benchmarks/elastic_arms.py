"""What `benchmarks.elastic` compares: engines that run steps of a kind at a k' and time them."""

import json
import multiprocessing
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from benchmarks.kinds import CONTEXT_TOKENS, KINDS, Kind, Timing
from controller.signals import Step
from runtime.denominator import rule_of
from runtime.elastic import ExpertDial
from runtime.engine import SteppedManager
from runtime.expert_load import ExpertLoad
from runtime.experts import Backend, ElasticExperts
from runtime.fusion import fuse
from runtime.step_times import Bench

MAX_BATCH_TOKENS = max(kind.tokens for kind in KINDS)
WORKER = Path(__file__).with_name("vllm_worker.py")
# batched_mm copies the weights of every slot: gigabytes and seconds in a layer of a prefill.
MOST_TOKENS_BATCHED = 64
STEPS = 8  # of one kind, in a row
TRIES = 200


class Arm(Protocol):
    name: str

    def num_rounds(self, kind: Kind, k: int, rounds: int) -> int:
        """How many of the rounds it takes part in."""

    def timings(self, kind: Kind, k: int, random: np.random.Generator) -> list[Timing]: ...


class ProcessArm:
    """An arm in a process of its own, as a replica is: idle threads of others disturb no step."""

    def __init__(self, name: str, make: Callable[[], Any], threads: int) -> None:
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, threads), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pipe.send(None)
        self._process.join(timeout=60)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Everything else is asked of the arm in the process."""

        def ask(*arguments: object) -> Any:  # noqa: ANN401
            self._pipe.send((method, arguments))
            answer = self._pipe.recv()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def _serve(pipe: Any, make: Callable[[], Any], threads: int) -> None:  # noqa: ANN401
    torch.set_num_threads(threads)
    with make() as arm:
        while (asked := pipe.recv()) is not None:
            method, arguments = asked
            try:
                pipe.send(getattr(arm, method)(*arguments))
            except Exception as error:
                pipe.send(error)


class EngineArm(ExitStack):
    """kprime's engine with one backend for the experts."""

    def __init__(self, folder: Path, dtype: torch.dtype, backend: Backend) -> None:
        super().__init__()
        self.dial = _dial(folder, dtype)
        experts = self.dial.layers[0].experts
        self.expert_bytes = _expert_bytes(experts)
        self.expert_flop = 2 * self.expert_bytes // dtype.itemsize  # of a token
        self.full_k, self.max_k = self.dial.trained_plan[0], self.dial.max_k
        self._backend, self._epoch, self._is_timed_prefill = backend, 0, False
        fuse(self.dial.model)
        self.dial.install(backend, torch.arange(16)[None], rule_of(self.dial.model.config))
        if backend is Backend.BATCHED_MM:
            self._prefill_otherwise()
        self._experts_s = self.enter_context(_Stopwatch(self.dial))
        self._bench = self.enter_context(Bench(self.dial.model, self.dial, MAX_BATCH_TOKENS))

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
        inside_s = np.reshape(self._experts_s, (len(steps), -1)).sum(axis=1)
        return [
            Timing(
                step.duration_s,
                float(experts_s),
                sum(step.distinct_experts),
                kind.tokens * k * len(self.dial.layers),
            )
            for step, experts_s in zip(steps, inside_s, strict=True)
            if _is(step, kind)
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


class StockArm:
    """transformers' continuous batching as it comes, with its default experts."""

    name = "transformers as it comes"

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._dial = _dial(folder, dtype)
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

    def __enter__(self) -> Self:
        self._manager.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._manager.stop(block=True, timeout=30, hard_stop=True)

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
        return [Timing(step.duration_s) for step in steps if _is(step, kind)]

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


class VllmArm:
    """vLLM's CPU engine, one process for each k': it has no dial."""

    name = "vLLM"

    def __init__(
        self, python: Path, folder: Path, dtype: str, threads: int, ks: Sequence[int]
    ) -> None:
        self._command = [
            *(str(python), str(WORKER), "--checkpoint", str(folder)),
            *("--dtype", dtype, "--threads", str(threads)),
        ]
        self._ks = ks
        self._workers: dict[int, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        for k in self._ks:  # one after the other: each compiles on all cores
            self._workers[k] = subprocess.Popen(
                [*self._command, "--k", str(k)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._ask(self._workers[k], k, {"kind": "prefill", "tokens": 16, "repeats": 1})
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.stdin.close()
            worker.wait(timeout=60)

    def num_rounds(self, kind: Kind, k: int, rounds: int) -> int:
        return rounds

    def timings(self, kind: Kind, k: int, random: np.random.Generator) -> list[Timing]:
        if kind.prefill:
            request = {"kind": "prefill", "tokens": kind.prefill, "repeats": 1}
        else:
            request = {
                "kind": "decode",
                "batch": kind.decode,
                "context": CONTEXT_TOKENS,
                "steps": STEPS,
            }
        return [Timing(seconds) for seconds in self._ask(self._workers[k], k, request)]

    def _ask(self, worker: "subprocess.Popen[str]", k: int, request: dict[str, Any]) -> list[float]:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        if not line:
            raise RuntimeError(f"vLLM at k'={k} ended with {worker.wait()}; run {WORKER} by hand")
        return json.loads(line)["seconds"]


def random_checkpoint(shape: str, folder: Path) -> Path:
    """A Qwen3-MoE of hidden x layers x width with random weights, saved in `folder`."""
    hidden, layers, width = (int(part) for part in shape.split("x"))
    config = Qwen3MoeConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        num_experts=32,
        num_experts_per_tok=8,
        moe_intermediate_size=width,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    torch.manual_seed(1)
    model = Qwen3MoeForCausalLM(config)
    for parameter in model.parameters():  # a router of zeros would pick the same experts
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.02)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


class _Stopwatch(ExitStack):
    """Seconds of every call of any layer's experts, in order."""

    def __init__(self, dial: ExpertDial) -> None:
        super().__init__()
        self._dial = dial

    def __enter__(self) -> list[float]:
        started: list[float] = []
        lasted: list[float] = []
        for layer in self._dial.layers:
            before = layer.experts.register_forward_pre_hook(
                lambda *_: started.append(time.perf_counter())
            )
            after = layer.experts.register_forward_hook(
                lambda *_: lasted.append(time.perf_counter() - started.pop())
            )
            self.callback(before.remove)
            self.callback(after.remove)
        return lasted


def _dial(folder: Path, dtype: torch.dtype) -> ExpertDial:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return ExpertDial(model.eval())


def _expert_bytes(experts: nn.Module) -> int:
    return sum(p[0].nbytes for p in experts.parameters())


def _is(step: Step, kind: Kind) -> bool:
    return (step.prefill_tokens, step.decode_tokens) == (kind.prefill, kind.decode)


def _median_us(work) -> float:  # noqa: ANN001
    times = []
    for _ in range(TRIES):
        started_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_s)
    return 1e6 * median(times)
