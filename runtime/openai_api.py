"""The OpenAI completions wire format: what a request may hold, what answers and errors look like.

Knows neither engine nor Ray. Fields kprime adds live under the one key `kprime`.
"""

import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from controller.admission import Refusal
from controller.config import DEFAULT_CLASS, SloPolicy
from controller.signals import Plan

KINDS = {429: "rate_limit_error"}  # OpenAI's name for it


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """The part of OpenAI's completion request that is served; anything else is refused by name."""

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: str | Annotated[list[NonNegativeInt], Field(min_length=1)]
    max_tokens: PositiveInt = 16
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None
    ignore_eos: bool = False  # as in vLLM: generate max_tokens whatever the model says
    slo_class: str | None = None  # the header X-SLO-Class says it as well, and goes first


class ApiError(Exception):
    """Becomes an OpenAI error body with this HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass
class Served:
    """Under which plans a request's tokens were made: running sums over tokens."""

    epoch: int = 0
    num_tokens: int = 0
    sum_k: float = 0.0
    sum_quality: float = 0.0

    def add(self, plan: Plan, slo_class: str, num_tokens: int) -> None:
        self.epoch = plan.epoch
        self.num_tokens += num_tokens
        self.sum_k += num_tokens * plan.mean_k_of(slo_class)
        self.sum_quality += num_tokens * plan.quality_of(slo_class)

    def body(self) -> dict[str, float | int]:
        """Token means, with the epoch of the last plan."""
        tokens = max(1, self.num_tokens)
        return {
            "epoch": self.epoch,
            "mean_k": self.sum_k / tokens,
            "quality": self.sum_quality / tokens,
        }


@dataclass
class Completion:
    """The identity of one answer, shared by all its chunks."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def body(
        self, text: str, finish_reason: str | None, served: Served, usage: dict[str, int] | None
    ) -> dict[str, object]:
        """A chunk, or the whole answer."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head(), "choices": [choice], "usage": usage, "kprime": served.body()}

    def usage_chunk(self, usage: dict[str, int], served: Served) -> dict[str, object]:
        """OpenAI's last chunk when usage is asked for: no choices."""
        return {**self._head(), "choices": [], "usage": usage, "kprime": served.body()}

    def _head(self) -> dict[str, object]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }


def refused(refusal: Refusal) -> ApiError:
    """429 where the client has too much under way, else 503; with whole seconds to wait."""
    return ApiError(
        429 if refusal.queue_full else 503,
        f"overloaded: {refusal.reason}",
        code="queue_full" if refusal.queue_full else "overloaded",
        headers={"Retry-After": str(math.ceil(refusal.retry_after_s))},
    )


def class_of(headers: Headers, body: CompletionRequest, slo_policy: SloPolicy) -> str:
    """The SLO class: of the header, the body, the API key, or the default one.

    Raises ApiError for a class that the SLO policy does not have. Keys are not checked: one that it
    does not know is of the default class.
    """
    header = headers.get("x-slo-class")
    named = body.slo_class if header is None else header
    if named is None:
        return _key_class(headers, slo_policy)
    if named not in slo_policy.slo_classes:
        accepted = ", ".join(slo_policy.slo_classes)
        where = "slo_class" if header is None else "X-SLO-Class"
        message = f"{where}: {named!r} is no SLO class; accepted: {accepted}"
        raise ApiError(400, message, param=where, code="unknown_slo_class")
    return named


def possible_classes(headers: Headers, slo_policy: SloPolicy) -> list[str]:
    """Of which SLO class a request can be by its headers: that of its key first; none is wrong."""
    named, known = headers.get("x-slo-class"), slo_policy.slo_classes
    if named is not None:
        return [named] if named in known else []
    by_key = _key_class(headers, slo_policy)
    return [by_key, *(name for name in known if name != by_key)]


def _key_class(headers: Headers, slo_policy: SloPolicy) -> str:
    key = headers.get("authorization", "").removeprefix("Bearer ").strip()
    digest = hashlib.sha256(key.encode()).hexdigest()
    return slo_policy.api_keys.get(digest, DEFAULT_CLASS) if key else DEFAULT_CLASS


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


async def server_sent(
    first: dict[str, object], chunks: AsyncIterator[dict[str, object]]
) -> AsyncIterator[str]:
    """Server-sent events as OpenAI sends them. The status line is gone: errors are events too."""
    try:
        yield f"data: {json.dumps(first)}\n\n"
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk)}\n\n"
    except ApiError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
    yield "data: [DONE]\n\n"


def finish_reason(finished: bool, stopped: bool) -> str | None:
    if not finished:
        return None
    return "stop" if stopped else "length"


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, headers=error.headers)


def install_error_handlers(api: FastAPI) -> None:
    """Every error of the application leaves in OpenAI's shape."""

    @api.exception_handler(ApiError)
    async def _known(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @api.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_validation_problem(error))

    @api.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        return error_response(ApiError(error.status_code, str(error.detail), headers=error.headers))


def _validation_problem(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the body is not JSON: {first['ctx']['error']} at byte {first['loc'][-1]}"
        )
    where = [str(part) for part in first["loc"] if part != "body"]
    param = where[0] if where else None
    if first["type"] == "extra_forbidden" and len(where) == 1:
        accepted = ", ".join(CompletionRequest.model_fields)
        return ApiError(400, f"{param}: not supported; accepted: {accepted}", param=param)
    return ApiError(400, f"{'.'.join(where) or 'body'}: {first['msg']}", param=param)
