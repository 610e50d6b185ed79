"""One Serve replica: HTTP requests in, tokens out, a heartbeat to the governor.

Torch runs in the engine's thread; everything here runs on the event loop, so control calls, health
checks and streams never wait for a step.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import ray
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.exceptions import RayError
from starlette.datastructures import Headers
from tokenizers.decoders import DecodeStream

from controller.admission import Refusal
from controller.config import DEFAULT_CLASS, SloPolicy
from controller.cuda_devices import AssignedGpu, assigned_gpu
from controller.levels import safe_plan
from controller.metrics import DeviceReader
from controller.problems import PolicyError
from controller.signals import Plan, Sample
from controller.telemetry import Telemetry
from runtime import governor
from runtime.checkpoint import load_checkpoint, load_profile_of, serve_policy
from runtime.door import Door, Terms
from runtime.early_refusal import EarlyRefusal
from runtime.engine import Engine
from runtime.heartbeat import Heartbeat
from runtime.machine import same_machine, this_machine
from runtime.openai_api import (
    ApiError,
    Completion,
    CompletionRequest,
    Served,
    class_of,
    finish_reason,
    install_error_handlers,
    possible_classes,
    refused,
    server_sent,
    usage,
)
from runtime.prompt import prompt_ids
from runtime.sampling import Sampling
from runtime.scaling import WISH
from runtime.scheduling import Rank
from runtime.streams import Streams

logger = logging.getLogger("ray.serve")

LEAST_PROMPT_TOKENS = 1  # what is asked for while the length of a prompt is unknown

api = FastAPI(title="kprime", docs_url=None, redoc_url=None)
install_error_handlers(api)
api.add_middleware(EarlyRefusal, refusal_of=lambda headers: _this_replica().turn_away(headers))


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
        self._telemetry = Telemetry(
            serve.get_replica_context().replica_id.unique_id, slo_policy.admission.standing_s
        )
        self._streams = Streams(self._telemetry, asyncio.get_running_loop())
        self._engine = Engine(
            self._checkpoint.model,
            self._checkpoint.dial,
            safe_plan(slo_policy, self._profile, 0),
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
        self._door = Door(self._telemetry, self._streams, self._profile, self._terms)
        self._door.start()

    def _safe_plan(self, epoch: int) -> Plan:
        return safe_plan(self._heartbeat.slo_policy, self._profile, epoch)

    def _terms(self) -> Terms:
        heartbeat = self._heartbeat
        return Terms(heartbeat.slo_policy, self._engine.plan, heartbeat.pace)

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
    async def completions(
        self, http: Request, request: CompletionRequest
    ) -> JSONResponse | StreamingResponse:
        arrived_s = time.monotonic()
        slo_policy = self._heartbeat.slo_policy
        slo_class = class_of(http.headers, request, slo_policy)
        if slo_policy.classes:  # else the door was asked for this one before the body was read
            self._admit(slo_class, LEAST_PROMPT_TOKENS, arrived_s)
        prompt = prompt_ids(request, self._checkpoint)
        self._admit(slo_class, len(prompt), arrived_s)
        chunks = self._generate(request, prompt, slo_class, arrived_s)
        if not request.stream:
            return JSONResponse([chunk async for chunk in chunks][-1])
        # The status line waits for the first token: until then a request may still be refused.
        first = await anext(chunks)
        return StreamingResponse(server_sent(first, chunks), media_type="text/event-stream")

    def turn_away(self, headers: Headers) -> ApiError | None:
        """Of a completion whose body is not read yet; None where it may be taken."""
        slo_classes = possible_classes(headers, self._heartbeat.slo_policy)
        refusal = self._door.knock(slo_classes, LEAST_PROMPT_TOKENS, time.monotonic())
        return refused(refusal) if refusal else None

    def _admit(self, slo_class: str, prompt_tokens: int, now_s: float) -> None:
        if refusal := self._door.knock([slo_class], prompt_tokens, now_s):
            raise refused(refusal)

    async def _generate(
        self, request: CompletionRequest, prompt: list[int], slo_class: str, arrived_s: float
    ) -> AsyncIterator[dict[str, object]]:
        """The chunks of one answer; the last one alone is the answer of a request without `stream`.

        When the consumer goes away, or the door sheds it, the sequence is cancelled and its cache
        freed.
        """
        completion = Completion(f"cmpl-{uuid.uuid4().hex}", self._checkpoint.name)
        tokenizer, decode = self._checkpoint.tokenizer, DecodeStream(skip_special_tokens=True)
        eos_token_id = None if request.ignore_eos else tokenizer.eos_token_id
        text, served, finished = "", Served(), False
        stream = self._streams.open(completion.id)
        self._telemetry.arrived(
            completion.id, slo_class, len(prompt), request.max_tokens, arrived_s
        )
        try:
            self._engine.submit(
                completion.id,
                prompt,
                request.max_tokens,
                Sampling(request.temperature, request.top_p),
                eos_token_id,
                slo_class,
                self._rank(slo_class, arrived_s),
            )
            while not finished:
                piece, now, stopped, failed = "", Served(), False, None
                for emission in await stream.take():
                    if isinstance(emission, Refusal):
                        raise refused(emission)
                    if emission.error:
                        failed = ApiError(500, f"generation failed: {emission.error}")
                        break
                    finished = emission.finished
                    tokens = [token for token in emission.tokens if token != eos_token_id]
                    stopped = len(tokens) < len(emission.tokens)
                    for token in tokens:
                        piece += decode.step(tokenizer.backend_tokenizer, token) or ""
                    for count in (served, now):
                        count.add(emission.plan, slo_class, len(emission.tokens))
                text += piece
                reason = finish_reason(finished, stopped)
                if request.stream and now.num_tokens:
                    yield completion.body(piece, reason, now, None)
                if failed:  # after what came before it
                    raise failed
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

    def _rank(self, slo_class: str, arrived_s: float) -> Rank:
        """A class that a newer SLO policy has dropped meanwhile goes like those without one."""
        classes = self._heartbeat.slo_policy.slo_classes
        its_class = classes.get(slo_class, classes[DEFAULT_CLASS])
        return Rank(its_class.priority, arrived_s + its_class.ttft_s)

    async def record_autoscaling_stats(self) -> dict[str, int]:
        """What Serve's autoscaler hears: the governor's wish; nothing of a silent governor.

        Serve calls it only where the number of replicas is not fixed.
        """
        try:
            wished = await _governor().replicas_wished.remote()
        except (RayError, ValueError):
            return {}
        return {} if wished is None else {WISH: wished}

    async def check_health(self) -> None:
        if self._slo_policy is not None and self._engine.failure:
            raise RuntimeError(self._engine.failure)

    async def __del__(self) -> None:
        if self._slo_policy is not None:
            self._door.stop()
            self._heartbeat.stop()
            await asyncio.to_thread(self._engine.stop)


def _this_replica() -> Replica:
    replica = serve.get_replica_context().servable_object
    assert isinstance(replica, Replica)
    return replica


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
