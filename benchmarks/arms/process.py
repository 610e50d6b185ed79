"""An arm in a process of its own."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


class ProcessArm(ExitStack):
    """An arm in a process of its own, as a replica is: idle threads of others disturb no step."""

    def __init__(
        self, name: str, make: Callable[[], Any], threads: int, environment: dict[str, str]
    ) -> None:
        super().__init__()
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(theirs, make, threads), daemon=True)
        with _environment(environment):
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


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Variables that a process started in the block has."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Any, make: Callable[[], Any], threads: int) -> None:  # noqa: ANN401
    torch.set_num_threads(threads)
    with make() as arm:
        while (asked := pipe.recv()) is not None:
            method, arguments = asked
            try:
                pipe.send(getattr(arm, method)(*arguments))
            except Exception as error:
                pipe.send(error)
