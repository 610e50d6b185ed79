"""What a client of the completions route is answered: OpenAI's shapes, and whose fault it was."""

import hashlib

import pytest
from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from controller.admission import Refusal
from controller.config import DEFAULT_CLASS
from controller.signals import Plan
from runtime.openai_api import (
    ApiError,
    Completion,
    CompletionRequest,
    Served,
    class_of,
    install_error_handlers,
    possible_classes,
    refused,
    usage,
)
from tests.fakes import slo_policy

PLAIN = {"model": "tiny", "prompt": "Call me"}
ACCEPTED = (
    "model, prompt, max_tokens, temperature, top_p, n, stream, stream_options, user, "
    "ignore_eos, slo_class"
)

SECRET = "sk-secret"
CLASSES = slo_policy(
    classes={
        "gold": {"ttft_s": 0.5, "tpot_s": 0.05},
        "batch": {"ttft_s": 9.0, "tpot_s": 0.5},
    },
    api_keys={hashlib.sha256(SECRET.encode()).hexdigest(): "batch"},
)


@pytest.fixture(scope="module")
def client() -> TestClient:
    """Echoes a request; knows no model but `tiny`, and that one is busy when asked to be."""
    api = FastAPI()
    install_error_handlers(api)

    @api.post("/class")
    async def slo_class(http: Request, request: CompletionRequest) -> str:
        return class_of(http.headers, request, CLASSES)

    @api.post("/refused/{queue_full}")
    async def refuse(queue_full: bool) -> None:
        raise refused(Refusal("too many", retry_after_s=1.2, queue_full=queue_full))

    @api.post("/v1/completions")
    async def completions(request: CompletionRequest) -> CompletionRequest:
        if request.model != "tiny":
            raise ApiError(404, "no such model", param="model", code="model_not_found")
        if request.user == "unlucky":
            raise ApiError(503, "busy")
        return request

    return TestClient(api)


def refusal(client: TestClient, **changes: object) -> dict[str, object]:
    answer = client.post("/v1/completions", json=PLAIN | changes)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", None)
    return error


def test_a_request_gets_openai_defaults(client: TestClient) -> None:
    answer = client.post("/v1/completions", json=PLAIN)
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "tiny",
        "prompt": "Call me",
        "max_tokens": 16,
        "temperature": 1.0,
        "top_p": 1.0,
        "n": 1,
        "stream": False,
        "stream_options": {"include_usage": False},
        "user": None,
        "ignore_eos": False,
        "slo_class": None,
    }


@pytest.mark.parametrize("prompt", ["", "thé — 東京", [0], [1, 2, 3]])
def test_a_prompt_is_text_or_token_ids(client: TestClient, prompt: str | list[int]) -> None:
    answer = client.post("/v1/completions", json=PLAIN | {"prompt": prompt})
    assert answer.json()["prompt"] == prompt


@pytest.mark.parametrize("name", ["logprobs", "stop", "echo", "best_of", "max_completion_tokens"])
def test_a_field_that_is_not_served_is_refused_with_those_that_are(
    client: TestClient, name: str
) -> None:
    error = refusal(client, **{name: 1})
    assert error["message"] == f"{name}: not supported; accepted: {ACCEPTED}"
    assert error["param"] == name


def test_an_unknown_stream_option_is_refused_by_its_own_name(client: TestClient) -> None:
    """Not as if `stream_options` itself were unknown, which it is not."""
    error = refusal(client, stream_options={"include_usage": True, "include_cost": True})
    assert str(error["message"]).startswith("stream_options.include_cost: ")
    assert error["param"] == "stream_options"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max_tokens", 0, "greater than 0"),
        ("max_tokens", 1.5, "valid integer"),
        ("temperature", -0.1, "greater than or equal to 0"),
        ("temperature", 2.1, "less than or equal to 2"),
        ("top_p", 0, "greater than 0"),
        ("top_p", 1.1, "less than or equal to 1"),
        ("n", 2, "should be 1"),
        ("stream", "perhaps", "valid boolean"),
        ("user", 3, "valid string"),
        ("model", None, "valid string"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_field(
    client: TestClient, name: str, value: object, reason: str
) -> None:
    error = refusal(client, **{name: value})
    message = str(error["message"])
    assert message.startswith(f"{name}: ")
    assert reason in message
    assert error["param"] == name


@pytest.mark.parametrize("prompt", [[], [-1], ["a", "b"], [[1, 2]], 3, None])
def test_an_impossible_prompt_is_refused(client: TestClient, prompt: object) -> None:
    assert refusal(client, prompt=prompt)["param"] == "prompt"


def test_a_missing_field_is_named(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"prompt": "Call me"})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "model: Field required",
        "type": "invalid_request_error",
        "param": "model",
        "code": None,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: Field required"),
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes at byte 1"),
        (b'{"model": }', "the body is not JSON: Expecting value at byte 10"),
        (b"\xff", "There was an error parsing the body"),
        (b"[]", "body: Input should be a valid dictionary or object to extract fields from"),
    ],
)
def test_a_body_that_is_no_json_object_is_the_clients_fault(
    client: TestClient, body: bytes, message: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == message
    assert (error["type"], error["param"]) == ("invalid_request_error", None)


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    answer = client.post("/v1/completions", json=PLAIN | {"model": "huge"})
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "no such model",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_an_error_of_the_server_says_so(client: TestClient) -> None:
    answer = client.post("/v1/completions", json=PLAIN | {"user": "unlucky"})
    assert answer.status_code == 503
    assert answer.json()["error"] == {
        "message": "busy",
        "type": "server_error",
        "param": None,
        "code": None,
    }


def test_an_unknown_path_and_a_wrong_method_get_the_same_shape(client: TestClient) -> None:
    lost = client.get("/v1/nowhere")
    assert (lost.status_code, lost.json()["error"]["message"]) == (404, "Not Found")
    wrong = client.get("/v1/completions")
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (405, "Method Not Allowed")
    assert wrong.headers["Allow"] == "POST"


def test_what_was_served_is_a_mean_over_tokens_and_the_last_epoch() -> None:
    served = Served()
    served.add(Plan(4, (8, 8), quality=1.0), DEFAULT_CLASS, num_tokens=3)
    served.add(Plan(5, (1, 3), quality=0.6), DEFAULT_CLASS, num_tokens=1)
    assert served.body() == {"epoch": 5, "mean_k": 6.5, "quality": pytest.approx(0.9)}


def test_nothing_served_has_no_mean() -> None:
    assert Served().body() == {"epoch": 0, "mean_k": 0.0, "quality": 0.0}


def test_an_answer_has_openai_form_with_kprime_beside_it() -> None:
    served = Served(epoch=2, num_tokens=2, sum_k=16.0, sum_quality=2.0)
    answer = Completion("cmpl-1", "tiny", created=1).body(" Ishmael", "stop", served, usage(5, 2))
    assert answer == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "text": " Ishmael", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        "kprime": {"epoch": 2, "mean_k": 8.0, "quality": 1.0},
    }


def test_the_usage_chunk_has_no_choices() -> None:
    chunk = Completion("cmpl-1", "tiny", created=1).usage_chunk(usage(5, 2), Served())
    assert chunk["choices"] == []
    assert chunk["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def test_all_chunks_of_an_answer_share_its_identity() -> None:
    completion = Completion("cmpl-1", "tiny")
    first = completion.body("a", None, Served(), None)
    last = completion.usage_chunk(usage(1, 1), Served())
    for name in ("id", "object", "created", "model"):
        assert first[name] == last[name]


KEY = {"authorization": f"Bearer {SECRET}"}
HEADER = {"X-SLO-Class": "gold"}


@pytest.mark.parametrize(
    ("headers", "body", "slo_class"),
    [
        ({}, {}, "default"),
        ({"authorization": "Bearer sk-unheard-of"}, {}, "default"),
        (KEY, {}, "batch"),
        (KEY, {"slo_class": "gold"}, "gold"),
        (KEY | HEADER, {}, "gold"),
        (HEADER, {"slo_class": "batch"}, "gold"),
        ({}, {"slo_class": "default"}, "default"),
    ],
)
def test_the_class_is_the_headers_then_the_bodys_then_that_of_the_key(
    client: TestClient, headers: dict[str, str], body: dict[str, str], slo_class: str
) -> None:
    assert client.post("/class", json=PLAIN | body, headers=headers).json() == slo_class


def test_a_class_that_is_none_is_refused_by_name(client: TestClient) -> None:
    by_body = client.post("/class", json=PLAIN | {"slo_class": "silver"})
    by_header = client.post("/class", json=PLAIN, headers={"X-SLO-Class": ""})
    assert (by_body.status_code, by_header.status_code) == (400, 400)
    assert by_body.json()["error"] == {
        "message": "slo_class: 'silver' is no SLO class; accepted: default, gold, batch",
        "type": "invalid_request_error",
        "param": "slo_class",
        "code": "unknown_slo_class",
    }
    assert by_header.json()["error"]["param"] == "X-SLO-Class"


def test_a_refused_request_hears_when_to_come_back(client: TestClient) -> None:
    late, full = client.post("/refused/false"), client.post("/refused/true")
    assert (late.status_code, late.headers["retry-after"]) == (503, "2")
    assert late.json()["error"] == {
        "message": "overloaded: too many",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
    assert (full.status_code, full.headers["retry-after"]) == (429, "2")
    assert full.json()["error"]["type"] == "rate_limit_error"
    assert full.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize(
    ("headers", "possible"),
    [
        ({"x-slo-class": "gold"}, ["gold"]),
        ({"x-slo-class": "gold", "authorization": f"Bearer {SECRET}"}, ["gold"]),
        ({"x-slo-class": "silver"}, []),  # to be told so by the application
        ({"authorization": f"Bearer {SECRET}"}, ["batch", "default", "gold"]),
        ({}, ["default", "gold", "batch"]),  # the body may still name one
    ],
)
def test_headers_leave_these_classes_open(headers: dict[str, str], possible: list[str]) -> None:
    found = possible_classes(Headers(headers), CLASSES)
    assert found[:1] == possible[:1] and sorted(found) == sorted(possible)
