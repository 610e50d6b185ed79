"""An arm in a process of its own."""

import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch


class ProcessArm(ExitStack):
    """An arm in a process of its own, as a replica is: idle threads of others disturb no step."""

    def __init__(self, name: str, make: Callable[[], Any], threads: int) -> None:
        super().__init__()
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(theirs, make, threads), daemon=True)
        process.start()
        self.callback(process.join, timeout=60)
        self.callback(self._pipe.send, None)

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
