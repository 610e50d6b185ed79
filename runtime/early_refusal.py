"""Refuses completions before their body is read, where no body could get them taken.

ASGI middleware. Takes the headers of a request; knows no queue. That costs less than half of a
refusal by the application: the body stays with Serve's proxy, which would have to be asked for it
by a remote call, and nothing is parsed (docs/log.md).
"""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.openai_api import ApiError, error_response

COMPLETIONS = "/v1/completions"


class EarlyRefusal:
    """`refusal_of` gives the error for those headers, or None where the body has to be seen."""

    def __init__(self, app: ASGIApp, refusal_of: Callable[[Headers], ApiError | None]) -> None:
        self._app = app
        self._refusal_of = refusal_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_completion(scope) and (error := self._refusal_of(Headers(scope=scope))):
            # Nothing is awaited before the answer is sent: Serve has not begun to fetch the body.
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_completion(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == COMPLETIONS
