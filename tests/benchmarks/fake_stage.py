"""A stage without replicas: every request is answered at once, unless the test says otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands.stage import Capacity, Material, Run
from controller.config import SloPolicy
from simulations.results import Record
from simulations.schedule import Requests
from simulations.timeline import Tick
from simulations.traces import Request
from tests.fakes import profile

REQUESTS = (Request(0.0, 100, 10), Request(0.5, 200, 20), Request(9.0, 50, 5))


def answer(index: int, request: Request, *, ttft_s: float = 0.1, shed: bool = False) -> Record:
    """As the generator would have recorded it."""
    return Record(
        index=index,
        scheduled_s=request.arrival_s,
        lateness_s=0.0,
        input_tokens=request.input_tokens,
        output_tokens=0 if shed else request.output_tokens,
        ttft_s=None if shed else ttft_s,
        tpot_s=None if shed else 0.01,
        e2e_s=None if shed else ttft_s,
        status="shed" if shed else "completed",
        error=None,
        quality=None if shed else 0.9,
        mean_k=None if shed else 4.0,
        epoch=1,
        slo_class=request.slo_class,
        retry_after_s=2.0 if shed else None,
        took_s=ttft_s,
    )


Answer = Callable[[int, Request, SloPolicy], Record]


class FakeStage:
    """Remembers who was sent what."""

    url = "http://127.0.0.1:9"  # nobody listens there

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.runs: list[tuple[str, Requests, int]] = []

    def capacity(self, slo_policy: SloPolicy, requests: Requests) -> Capacity:
        return Capacity(full_rps=4.0, floor_rps=8.0)

    def run(
        self, name: str, slo_policy: SloPolicy, requests: Requests, *, seed: int, **_: float
    ) -> Run:
        self.runs.append((name, requests, seed))
        records = [self._answer(number, each, slo_policy) for number, each in enumerate(requests)]
        return Run(records, [Tick(0.0, 8.0, 1, 0, "calm"), Tick(1.0, 4.0, 2, 3, "busy")], [2.0])

    @contextmanager
    def staged(self, *_: object) -> Iterator["FakeStage"]:
        yield self


def material(slo_policy: SloPolicy) -> Callable[..., Material]:
    """In the place of `prepare`, which reads files and probes the machine."""

    def prepare(*_: Any) -> Material:  # noqa: ANN401  (whatever a benchmark asks for)
        return Material(slo_policy, Path("profile.json"), profile(), REQUESTS, 1.0)

    return prepare
