"""One Serve replica: HTTP requests in, tokens out, a heartbeat to the governor.

Torch runs in the engine's thread; everything here runs on the event loop, so control calls, health
checks and streams never wait for a step.
"""

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import ray
import torch
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.exceptions import RayError
from tokenizers.decoders import DecodeStream

from controller.allocator import plan_at
from controller.config import PolicyError, SloPolicy
from controller.cuda_devices import AssignedGpu, assigned_gpu
from controller.metrics import DeviceReader
from controller.signals import Plan, Sample
from controller.telemetry import Telemetry
from runtime import governor
from runtime.checkpoint import load_checkpoint, load_profile_of, serve_policy
from runtime.engine import Engine
from runtime.heartbeat import Heartbeat
from runtime.machine import same_machine, this_machine
from runtime.openai_api import (
    ApiError,
    Completion,
    CompletionRequest,
    Served,
    install_error_handlers,
    usage,
)
from runtime.sampling import Sampling
from runtime.streams import Streams

logger = logging.getLogger("ray.serve")

api = FastAPI(title="kprime", docs_url=None, redoc_url=None)
install_error_handlers(api)


class Replica:
    """The class behind the Serve deployment; `app` wraps it."""

    def __init__(
        self, checkpoint: str, profile: str, cache_tokens: int, share_prefixes: bool
    ) -> None:
        self._checkpoint = load_checkpoint(Path(checkpoint))
        self._profile = load_profile_of(Path(checkpoint), Path(profile))
        here = this_machine(self._checkpoint.model.dtype, torch.get_num_threads())
        if not same_machine(self._profile.machine, here):
            logger.warning(
                "kprime: the profile was made on %s, this is %s; kprime calibrate --rescale makes "
                "its step times right",
                self._profile.machine,
                here,
            )
        self._cache_tokens, self._share_prefixes = cache_tokens, share_prefixes
        self._slo_policy: SloPolicy | None = None

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take an SLO policy. A bad first one fails the deployment, a bad later one nothing."""
        try:
            slo_policy = serve_policy(user_config, self._checkpoint, self._profile)
        except PolicyError as error:
            if self._slo_policy is None:
                raise
            logger.error("kprime: SLO policy refused, the running one stays:\n%s", error)
            return
        is_first, self._slo_policy = self._slo_policy is None, slo_policy
        if is_first:
            await self._start(slo_policy)
        else:
            self._heartbeat.deploy(slo_policy)

    async def _start(self, slo_policy: SloPolicy) -> None:
        self._telemetry = Telemetry(serve.get_replica_context().replica_id.unique_id)
        self._streams = Streams(self._telemetry, asyncio.get_running_loop())
        self._engine = Engine(
            self._checkpoint.model,
            self._checkpoint.dial,
            plan_at(self._profile, slo_policy.experts.safe, 0),
            max_batch_tokens=self._profile.max_batch_tokens,
            cache_tokens=self._cache_tokens,
            share_prefixes=self._share_prefixes,
            on_step=self._telemetry.stepped,
            on_emissions=self._streams.emit,
        )
        self._engine.start()
        self._heartbeat = Heartbeat(
            _exchange,
            self._engine,
            self._telemetry,
            DeviceReader(_gpu()),
            slo_policy,
            self._safe_plan,
        )
        await self._heartbeat.start()

    def _safe_plan(self, epoch: int) -> Plan:
        return plan_at(self._profile, self._heartbeat.slo_policy.experts.safe, epoch)

    @api.get("/v1/models")
    async def models(self) -> JSONResponse:
        model = {"id": self._checkpoint.name, "object": "model", "created": 0, "owned_by": "kprime"}
        return JSONResponse({"object": "list", "data": [model]})

    @api.get("/kprime/status")
    async def status(self) -> JSONResponse:
        try:
            return JSONResponse(await _governor().status.remote())
        except (RayError, ValueError) as error:
            raise ApiError(503, f"the governor does not answer: {error}") from error

    @api.put("/kprime/policy")
    async def apply_policy(self, document: dict[str, object]) -> JSONResponse:
        """Change the SLO policy of all replicas and of the governor; nothing restarts.

        The answer says what is in force. It lasts until a deployment brings another `user_config`:
        Serve knows nothing of it, and a deployment with the same `user_config` changes nothing.
        """
        try:
            slo_policy = serve_policy({"slo_policy": document}, self._checkpoint, self._profile)
        except PolicyError as error:
            raise ApiError(422, str(error), param="slo_policy", code="policy_refused") from error
        try:
            in_force = await _governor().apply.remote(slo_policy)
        except (RayError, ValueError) as error:
            raise ApiError(503, f"the governor does not answer: {error}") from error
        if in_force is None:
            raise ApiError(503, "the governor has just started; try again")
        return JSONResponse(in_force)

    @api.post("/v1/completions", response_model=None)
    async def completions(self, request: CompletionRequest) -> JSONResponse | StreamingResponse:
        prompt = self._prompt_of(request)
        chunks = self._generate(request, prompt)
        if request.stream:
            return StreamingResponse(_server_sent(chunks), media_type="text/event-stream")
        return JSONResponse([chunk async for chunk in chunks][-1])

    def _prompt_of(self, request: CompletionRequest) -> list[int]:
        """Token ids of the prompt; refuses an unknown model and what does not fit the context."""
        if request.model != self._checkpoint.name:
            raise ApiError(
                404,
                f"model {request.model!r} does not exist; served: {self._checkpoint.name}",
                param="model",
                code="model_not_found",
            )
        ids, tokenizer = request.prompt, self._checkpoint.tokenizer
        if isinstance(ids, str):
            ids = tokenizer.encode(ids)
        if not ids or max(ids) >= len(tokenizer):
            message = f"prompt: needs at least one token, and ids below {len(tokenizer)}"
            raise ApiError(400, message, param="prompt")
        needed, context = len(ids) + request.max_tokens, self._checkpoint.context_tokens
        if needed > context:
            raise ApiError(
                400,
                f"the context is {context} tokens; prompt ({len(ids)}) and max_tokens "
                f"({request.max_tokens}) need {needed}",
                param="prompt",
                code="context_length_exceeded",
            )
        return ids

    async def _generate(
        self, request: CompletionRequest, prompt: list[int]
    ) -> AsyncIterator[dict[str, object]]:
        """The chunks of one answer; the last one alone is the answer of a request without `stream`.

        When the consumer goes away the sequence is cancelled and its cache freed.
        """
        completion = Completion(f"cmpl-{uuid.uuid4().hex}", self._checkpoint.name)
        tokenizer, decode = self._checkpoint.tokenizer, DecodeStream(skip_special_tokens=True)
        eos_token_id = None if request.ignore_eos else tokenizer.eos_token_id
        text, served, finished = "", Served(), False
        emissions = self._streams.open(completion.id)
        self._telemetry.arrived(completion.id, len(prompt), request.max_tokens, time.monotonic())
        try:
            sampling = Sampling(request.temperature, request.top_p)
            self._engine.submit(completion.id, prompt, request.max_tokens, sampling, eos_token_id)
            while not finished:
                emission = await emissions.get()
                if emission.error:
                    raise ApiError(500, f"generation failed: {emission.error}")
                finished = emission.finished
                tokens = [token for token in emission.tokens if token != eos_token_id]
                steps = (decode.step(tokenizer.backend_tokenizer, token) for token in tokens)
                piece = "".join(step or "" for step in steps)
                text += piece
                now = served.add(emission.plan, len(emission.tokens))
                reason = _finish_reason(finished, len(tokens) < len(emission.tokens))
                if request.stream:
                    yield completion.body(piece, reason, now, None)
            total = usage(len(prompt), served.num_tokens)
            if not request.stream:
                yield completion.body(text, reason, served, total)
            elif request.stream_options.include_usage:
                yield completion.usage_chunk(total, served)
        finally:
            self._streams.close(completion.id)
            self._telemetry.ended(completion.id, time.monotonic())
            if not finished:
                self._engine.cancel(completion.id)

    async def check_health(self) -> None:
        if self._slo_policy is not None and self._engine.failure:
            raise RuntimeError(self._engine.failure)

    async def __del__(self) -> None:
        if self._slo_policy is not None:
            self._heartbeat.stop()
            await asyncio.to_thread(self._engine.stop)


async def _server_sent(chunks: AsyncIterator[dict[str, object]]) -> AsyncIterator[str]:
    """Server-sent events as OpenAI sends them. The status line is gone: errors are events too."""
    try:
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk)}\n\n"
    except ApiError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
    yield "data: [DONE]\n\n"


def _finish_reason(finished: bool, stopped: bool) -> str | None:
    if not finished:
        return None
    return "stop" if stopped else "length"


def _governor() -> ray.actor.ActorHandle:
    """Resolved anew each time: a handle to a governor that died would stay dead."""
    return serve.get_deployment_actor(governor.NAME)


async def _exchange(
    sample: Sample, deployed: SloPolicy | None, follows: governor.Edition | None
) -> governor.Orders:
    return await _governor().exchange.remote(sample, deployed, follows)


def _gpu() -> AssignedGpu:
    """The one that torch serves on. Its UUID, unless this build of torch does not tell."""
    if not torch.cuda.is_available():
        return AssignedGpu(missing="no GPU assigned")
    cuda_uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    return assigned_gpu(os.environ, None if cuda_uuid is None else str(cuda_uuid))
