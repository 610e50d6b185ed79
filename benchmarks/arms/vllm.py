"""vLLM's CPU engine, timed step by step in processes of another environment."""

import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arms import STEPS
from benchmarks.kinds import CONTEXT_TOKENS, Kind, Timing

WORKER = Path(__file__).parents[1] / "vllm_worker.py"  # not beside: its folder hides vllm itself


class VllmArm(ExitStack):
    """vLLM's CPU engine, one process for each k': it has no dial."""

    name = "vLLM"

    def __init__(
        self, python: Path, folder: Path, dtype: str, threads: int, ks: Sequence[int]
    ) -> None:
        super().__init__()
        command = [
            *(str(python), str(WORKER), "--checkpoint", str(folder)),
            *("--dtype", dtype, "--threads", str(threads)),
        ]
        self._workers: dict[int, subprocess.Popen[str]] = {}
        for k in ks:  # one after the other: each compiles on all cores
            self._workers[k] = worker = subprocess.Popen(
                [*command, "--k", str(k)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.callback(worker.wait, timeout=60)
            self.callback(worker.stdin.close)
            self._ask(worker, k, {"kind": "prefill", "tokens": 16, "repeats": 1})

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
