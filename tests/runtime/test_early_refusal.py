"""What is refused by its headers alone, and that nothing of its body is asked for."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from controller.admission import Refusal
from runtime.early_refusal import EarlyRefusal
from runtime.openai_api import ApiError, refused


class Server:
    """An application behind the middleware, and what came out of it."""

    def __init__(self, error: ApiError | None) -> None:
        self.headers: Headers | None = None  # as the middleware asked
        self.was_reached = False
        self.sent: list[Message] = []
        self._error = error
        self._asgi = EarlyRefusal(self._app, self._refusal_of)

    def ask(self, path: str = "/v1/completions", method: str = "POST") -> None:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"x-slo-class", b"gold")],
        }

        async def never() -> Message:
            raise AssertionError("the body was asked for")

        async def send(message: Message) -> None:
            self.sent.append(message)

        asyncio.run(self._asgi(scope, never, send))

    def _refusal_of(self, headers: Headers) -> ApiError | None:
        self.headers = headers
        return self._error

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.was_reached = True


@pytest.fixture
def busy() -> Iterator[Server]:
    yield Server(refused(Refusal("too many", retry_after_s=1.2)))


def test_a_completion_is_refused_before_its_body_is_asked_for(busy: Server) -> None:
    busy.ask()
    start, body = busy.sent
    assert start["status"] == 503
    assert (b"retry-after", b"2") in start["headers"]
    assert json.loads(body["body"])["error"]["message"] == "overloaded: too many"
    assert not busy.was_reached


def test_headers_are_what_it_goes_by(busy: Server) -> None:
    busy.ask()
    assert busy.headers is not None and busy.headers["X-SLO-Class"] == "gold"


def test_one_that_may_be_taken_goes_on() -> None:
    server = Server(None)
    server.ask()
    assert server.was_reached and not server.sent


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/models", "GET"), ("/v1/completions", "GET"), ("/x", "POST")]
)
def test_nothing_else_is_ever_refused(busy: Server, path: str, method: str) -> None:
    busy.ask(path, method)
    assert busy.was_reached and busy.headers is None
