"""The live load generator: sends scheduled requests to an OpenAI-compatible server, gives records.

`replay` is open loop: each request goes out at its time whatever the server does, since a client
that waits for answers cannot overload anything. `capacity` is closed loop: what the server can do
at most. Neither judges latencies against objectives, nor knows what is behind the url.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count, cycle
from math import inf
from typing import Any

# Not httpx: the generator often shares its processor with the server it measures, and aiohttp reads
# a stream for a fraction of the processor time.
import aiohttp
import numpy as np

from simulations.prompts import Prompts
from simulations.results import Record as Record
from simulations.results import Status
from simulations.traces import Request

SHED_STATUSES = (429, 503)
GREETING_TIMEOUT_S = 30
IDLE_CONNECTION_S = 4  # below the 5 s after which common servers hang up on an idle connection
RETRY_PAUSE_S = 0.1
WARM_UP_SHARE = 0.2


class LoadError(RuntimeError):
    """The server cannot be measured: not reachable, no model, or no request completed."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request with its text."""

    index: int
    request: Request
    prompt: str


@dataclass(slots=True)
class Stream:
    """What one response has said so far."""

    first_s: float | None = None
    last_s: float | None = None
    num_chunks: int = 0
    completion_tokens: int | None = None
    telemetry: dict[str, Any] = field(default_factory=dict)  # kprime's own, of the last chunk
    retry_after_s: float | None = None  # of a refusal
    done: bool = False

    def take(self, line: bytes, now_s: float) -> None:
        """One line of server-sent events; anything but data is ignored."""
        if not line.startswith(b"data:"):
            return
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise ValueError(f"error in the stream: {chunk['error']}")
        if chunk.get("choices"):
            self.first_s = now_s if self.first_s is None else self.first_s
            self.last_s = now_s
            self.num_chunks += 1
        # A chunk is not always a token: where the server counts, its count stands.
        self.completion_tokens = (chunk.get("usage") or {}).get(
            "completion_tokens", self.completion_tokens
        )
        self.telemetry = chunk.get("kprime") or self.telemetry

    @property
    def num_tokens(self) -> int:
        return self.num_chunks if self.completion_tokens is None else self.completion_tokens

    @property
    def tpot_s(self) -> float | None:
        if self.first_s is None or self.last_s is None or self.num_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.num_tokens - 1)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model behind one url."""

    session: aiohttp.ClientSession
    url: str
    model: str

    async def send(self, job: Job, start_s: float) -> Record:
        """Sends now; whatever goes wrong is in the record."""
        clock = asyncio.get_running_loop().time
        due_s = start_s + job.request.arrival_s
        sent_s = clock()
        stream = Stream()
        try:
            status, error = await self._post(job, stream)
        except Exception as fault:  # of any kind: it fails this request and not the run
            status, error = "failed", f"{type(fault).__name__}: {fault}".rstrip(": ")
        completed = status == "completed"
        took_s = clock() - due_s
        return Record(
            index=job.index,
            scheduled_s=job.request.arrival_s,
            lateness_s=sent_s - due_s,
            input_tokens=job.request.input_tokens,
            output_tokens=stream.num_tokens,
            ttft_s=None if stream.first_s is None else stream.first_s - due_s,
            tpot_s=stream.tpot_s if completed else None,
            e2e_s=took_s if completed else None,
            status=status,
            error=error,
            quality=stream.telemetry.get("quality"),
            mean_k=stream.telemetry.get("mean_k"),
            epoch=stream.telemetry.get("epoch"),
            slo_class=job.request.slo_class,
            retry_after_s=stream.retry_after_s,
            took_s=took_s,
        )

    async def _post(self, job: Job, stream: Stream) -> tuple[Status, str | None]:
        clock = asyncio.get_running_loop().time
        address = f"{self.url}/v1/completions"
        slo_class = job.request.slo_class
        headers = {} if slo_class is None else {"X-SLO-Class": slo_class}
        async with self.session.post(address, json=self._body(job), headers=headers) as answer:
            if answer.status != 200:
                error = f"HTTP {answer.status}: {(await answer.text())[:200]}"
                if answer.status not in SHED_STATUSES:
                    return "failed", error
                stream.retry_after_s = _seconds(answer.headers.get("Retry-After"))
                return "shed", error
            async for line in answer.content:
                stream.take(line, clock())
        if not stream.done:
            return "failed", "the stream ended before [DONE]"
        if stream.first_s is None:
            return "failed", "the stream held no token"
        return "completed", None

    def _body(self, job: Job) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": job.prompt,
            "max_tokens": job.request.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "ignore_eos": True,  # lengths are the trace's, so that quality cannot change the load
        }


async def replay(
    url: str,
    model: str | None,
    requests: Sequence[Request],
    prompts: Prompts,
    *,
    seed: int,
    timeout_s: float = 600,
    on_start: Callable[[float], None] | None = None,
    on_event: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Sends every request at its scheduled time, waits for all; records in the order scheduled.

    `model=None` takes the first that the server lists. `on_start` is told
    the monotonic time from which the schedule counts, `on_event` each record as it ends.
    """
    jobs = _jobs(requests, prompts, seed)
    records: list[Record] = []

    async def run(endpoint: Endpoint, job: Job, start_s: float) -> None:
        records.append(await endpoint.send(job, start_s))
        if on_event:
            on_event(records[-1])

    async with _connect(url, model, timeout_s) as endpoint, asyncio.TaskGroup() as group:
        clock = asyncio.get_running_loop().time
        start_s = clock()
        if on_start:
            on_start(start_s)
        for job in jobs:
            await asyncio.sleep(start_s + job.request.arrival_s - clock())
            group.create_task(run(endpoint, job, start_s))
    return sorted(records, key=lambda record: record.index)


async def capacity(
    url: str,
    model: str | None,
    requests: Sequence[Request],
    prompts: Prompts,
    *,
    concurrency: int,
    duration_s: float,
    seed: int,
) -> float:
    """Completed requests per second with `concurrency` of them always under way.

    The requests are taken in order, again and again; the first fifth of the time is warm-up.
    """
    jobs = cycle(_jobs(requests, prompts, seed))
    indices = count()
    finished: list[tuple[float, Record]] = []

    async def work(endpoint: Endpoint, start_s: float) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            job, now_s = next(jobs), clock()
            due = replace(job.request, arrival_s=now_s - start_s)
            record = await endpoint.send(Job(next(indices), due, job.prompt), start_s)
            finished.append((clock() - start_s, record))
            if not record.completed:  # else a server that refuses at once is asked without pause
                await asyncio.sleep(RETRY_PAUSE_S)

    async with _connect(url, model, duration_s) as endpoint:
        start_s = asyncio.get_running_loop().time()
        workers = [asyncio.create_task(work(endpoint, start_s)) for _ in range(concurrency)]
        await asyncio.sleep(duration_s)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return _rate(finished, duration_s * WARM_UP_SHARE, duration_s)


def _rate(finished: Sequence[tuple[float, Record]], from_s: float, to_s: float) -> float:
    num_completed = sum(from_s <= at_s < to_s and record.completed for at_s, record in finished)
    if not num_completed:
        errors = [record.error for _, record in finished if record.error]
        last = f"; last error: {errors[-1]}" if errors else ""
        raise LoadError(f"no request completed between {from_s:g} and {to_s:g} s{last}")
    return num_completed / (to_s - from_s)


def _jobs(requests: Sequence[Request], prompts: Prompts, seed: int) -> list[Job]:
    """Cuts every prompt beforehand: tokenising between sends would make them late."""
    rng = np.random.default_rng(seed)
    return [
        Job(index, request, prompts.cut(request.input_tokens, rng))
        for index, request in enumerate(requests)
    ]


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After in seconds. The header may hold a date instead, which counts as none."""
    try:
        wait_s = float(retry_after or "")
    except ValueError:
        return None
    return wait_s if 0 <= wait_s < inf else None


@asynccontextmanager
async def _connect(url: str, model: str | None, timeout_s: float) -> AsyncIterator[Endpoint]:
    address = url.rstrip("/")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    ) as session:
        listed = await _models(session, address)
        if model is None and not listed:
            raise LoadError(f"{address}/v1/models lists no model; name one")
        yield Endpoint(session, address, model or listed[0])


async def _models(session: aiohttp.ClientSession, address: str) -> list[str]:
    """What the server lists, nothing if it cannot; a LoadError if it does not answer."""
    timeout = aiohttp.ClientTimeout(total=GREETING_TIMEOUT_S)
    try:
        async with session.get(f"{address}/v1/models", timeout=timeout) as answer:
            if answer.status != 200:
                return []
            return [str(model["id"]) for model in (await answer.json())["data"]]
    except (KeyError, TypeError, json.JSONDecodeError, aiohttp.ContentTypeError):
        return []
    except (aiohttp.ClientError, TimeoutError) as error:
        raise LoadError(f"no server answers at {address}: {error or 'timed out'}") from None
