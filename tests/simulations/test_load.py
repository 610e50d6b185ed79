"""The generator against a real server on loopback that speaks kprime's form, and misbehaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from simulations.load import LoadError, Record, Stream, capacity, replay
from simulations.prompts import Prompts
from simulations.traces import Request


class Numbered(Prompts):
    """Stands in for Prompts: the prompt tells the server which behaviour is wanted."""

    def __init__(self, *prompts: str) -> None:
        self.prompts = iter(prompts)

    def cut(self, num_tokens: int, rng: np.random.Generator) -> str:
        return next(self.prompts)


class Server:
    """Streams what the prompt asks for and remembers what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.classes: list[str | None] = []

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.classes.append(request.headers.get("X-SLO-Class"))
        if body["prompt"] == "broken":
            return web.Response(status=500, text="boom")
        if body["prompt"] == "shed":
            return web.Response(status=429, headers={"Retry-After": "1"}, text="later")
        if body["prompt"] == "shed until Wednesday":
            date = "Wed, 21 Oct 2026 07:28:00 GMT"
            return web.Response(status=503, headers={"Retry-After": date}, text="later")
        if body["prompt"] == "slow":
            await asyncio.sleep(0.25)
        return await self._stream(request, body)

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(body["max_tokens"]):
            if body["prompt"] == "dropped" and number == 1:
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(event(choices=[{"text": "a"}], kprime=telemetry(3, 2.0, 0.9)))
            await asyncio.sleep(0.01)
        if body["prompt"] == "foreign":
            await response.write(event(choices=[{"text": "b", "finish_reason": "length"}]))
        elif body["prompt"] != "cut off":
            usage = {"completion_tokens": body["max_tokens"]}
            await response.write(event(choices=[], usage=usage, kprime=telemetry(4, 2.5, 0.95)))
        if body["prompt"] != "cut off":
            await response.write(b"data: [DONE]\n\n")
        return response


def telemetry(epoch: int, mean_k: float, quality: float) -> dict[str, Any]:
    return {"epoch": epoch, "mean_k": mean_k, "quality": quality}


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/completions", server.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def replayed(
    *prompts: str,
    server: Server | None = None,
    requests: list[Request] | None = None,
    **options: Any,  # noqa: ANN401
) -> list[Record]:
    async def run() -> list[Record]:
        async with serving(server or Server()) as url:
            due = requests or [Request(0.0, 5, 3)] * len(prompts)
            arguments = {"seed": 0, **options}
            model = arguments.pop("model", None)
            return await replay(url, model, due, Numbered(*prompts), **arguments)

    return asyncio.run(run())


def test_a_completed_request_is_measured_and_carries_the_last_telemetry() -> None:
    (record,) = replayed("plain")
    assert (record.status, record.error) == ("completed", None)
    assert (record.input_tokens, record.output_tokens) == (5, 3)
    assert (record.quality, record.mean_k, record.epoch) == (0.95, 2.5, 4)
    assert record.ttft_s is not None and record.tpot_s is not None and record.e2e_s is not None
    assert 0.01 <= record.tpot_s < record.e2e_s
    assert record.ttft_s < record.e2e_s


def test_asks_as_the_openai_protocol_has_it() -> None:
    server = Server()
    replayed("plain", server=server, requests=[Request(0.0, 5, 3, slo_class="gold")])
    assert server.classes == ["gold"]
    assert server.bodies == [
        {
            "model": "tiny",
            "prompt": "plain",
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "ignore_eos": True,
        }
    ]


def test_a_named_model_is_taken_and_no_class_is_sent() -> None:
    server = Server()
    replayed("plain", server=server, model="other")
    assert server.bodies[0]["model"] == "other"
    assert server.classes == [None]


def test_each_request_names_its_own_class() -> None:
    server = Server()
    classes = ["gold", None, "batch"]
    requests = [Request(0.05 * n, 5, 1, slo_class) for n, slo_class in enumerate(classes)]
    records = replayed("plain", "plain", "plain", server=server, requests=requests)
    assert server.classes == classes
    assert [record.slo_class for record in records] == classes


def test_a_refusal_keeps_how_long_to_wait() -> None:
    records = replayed("shed", "shed until Wednesday", "broken", "plain")
    assert [record.retry_after_s for record in records] == [1.0, None, None, None]
    assert all(record.took_s is not None and record.took_s >= 0 for record in records)
    assert records[3].took_s == records[3].e2e_s


def test_faults_become_records_and_the_rest_goes_on() -> None:
    records = replayed("plain", "broken", "shed", "dropped", "cut off", "plain")
    assert [record.index for record in records] == [0, 1, 2, 3, 4, 5]
    statuses = [record.status for record in records]
    assert statuses == ["completed", "failed", "shed", "failed", "failed", "completed"]
    assert records[1].error == "HTTP 500: boom"
    assert records[2].error == "HTTP 429: later"
    assert records[3].error is not None and "Error" in records[3].error
    assert records[3].e2e_s is None
    assert records[4].error == "the stream ended before [DONE]"


def test_chunks_are_counted_where_the_server_does_not() -> None:
    (record,) = replayed("foreign")
    assert (record.status, record.output_tokens) == ("completed", 4)


def test_one_token_has_no_time_per_token() -> None:
    (record,) = replayed("plain", requests=[Request(0.0, 5, 1)])
    assert record.tpot_s is None


def test_sends_on_schedule_whatever_the_server_does() -> None:
    # The slow answer takes 0.25 s; the second request is due and answered while it is pending.
    ended: list[int] = []
    requests = [Request(0.0, 5, 1), Request(0.05, 5, 1)]
    records = replayed(
        "slow", "plain", requests=requests, on_event=lambda record: ended.append(record.index)
    )
    assert ended == [1, 0]
    assert [record.scheduled_s for record in records] == [0.0, 0.05]
    assert all(-0.001 <= record.lateness_s < 0.15 for record in records)


def test_time_to_first_token_counts_from_the_schedule() -> None:
    # The first record's callback blocks the generator past the second request's time: that request
    # goes out late, and its latency must show it.
    def block(record: Record) -> None:
        if record.index == 0:
            asyncio.get_running_loop().call_soon(lambda: spin(0.3))

    records = replayed(
        "plain", "slow", requests=[Request(0.0, 5, 1), Request(0.15, 5, 1)], on_event=block
    )
    late = records[1]
    assert late.lateness_s > 0.1
    assert late.ttft_s is not None
    assert late.ttft_s >= 0.25 + late.lateness_s


def spin(duration_s: float) -> None:
    clock = asyncio.get_running_loop().time
    end_s = clock() + duration_s
    while clock() < end_s:
        pass


def test_a_request_beyond_its_time_fails() -> None:
    (record,) = replayed("slow", timeout_s=0.1)
    assert (record.status, record.error) == ("failed", "TimeoutError")
    assert record.ttft_s is None


def test_no_server_is_said_with_its_url() -> None:
    async def nowhere() -> str:
        async with serving(Server()) as url:
            return url

    async def run() -> None:
        url = await nowhere()  # closed by now
        with pytest.raises(LoadError, match=f"no server answers at {url}"):
            await replay(url, "tiny", [Request(0.0, 5, 1)], Numbered("plain"), seed=0)

    asyncio.run(run())


def test_capacity_is_what_completes_after_the_warm_up() -> None:
    async def run() -> float:
        async with serving(Server()) as url:
            return await capacity(
                url,
                None,
                [Request(0.0, 5, 2), Request(9.0, 5, 2)],
                Numbered("plain", "plain"),
                concurrency=2,
                duration_s=0.5,
                seed=0,
            )

    # Two at a time, at least 0.02 s each: never above 100 a second.
    assert 10 < asyncio.run(run()) <= 110


def test_capacity_of_a_server_that_completes_nothing_is_an_error() -> None:
    async def run() -> float:
        async with serving(Server()) as url:
            return await capacity(
                url,
                None,
                [Request(0.0, 5, 2)],
                Numbered("broken"),
                concurrency=1,
                duration_s=0.2,
                seed=0,
            )

    with pytest.raises(LoadError, match=r"no request completed .*last error: HTTP 500: boom"):
        asyncio.run(run())


def test_an_error_inside_the_stream_is_raised() -> None:
    with pytest.raises(ValueError, match="error in the stream: out of memory"):
        Stream().take(b'data: {"error": "out of memory"}\n', 0.0)


def test_a_stream_ignores_comments_and_empty_usage() -> None:
    stream = Stream()
    for now_s, line in enumerate([b": ping\n", b"\n", b'data: {"choices": [1], "usage": null}\n']):
        stream.take(line, float(now_s))
    assert (stream.first_s, stream.num_tokens, stream.done) == (2.0, 1, False)
