"""A running kprime server as the commands see it: JSON over HTTP, one clear message if it fails."""

import json
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from commands.exits import BAD_INPUT, FAILED, stop

TIMEOUT_S = 10.0
DEFAULT_URL = "http://127.0.0.1:8000"
REFUSED = 422


def check_url(url: str) -> str:
    """The server's address without a slash at its end."""
    if not url.startswith(("http://", "https://")) or len(url.split("/")[2]) == 0:
        stop(f"--url {url}: expected http://HOST:PORT", BAD_INPUT)
    return url.rstrip("/")


def status_of(url: str) -> dict[str, Any]:
    """What `/kprime/status` says; ends the command if nothing of kprime answers."""
    status = ask(url, "GET", "/kprime/status")
    if not {"slo_policy", "plan", "load", "budget", "replica_epochs"} <= status.keys():
        _stop_as_other(url, "its /kprime/status says something else")
    return status


def ask(url: str, method: str, path: str, body: object = None, refusal: str = "") -> dict[str, Any]:
    """The answer to one request. `refusal` stands before what a server says that refuses it."""
    data = None if body is None else json.dumps(body).encode()
    try:
        request = Request(url + path, data, {"content-type": "application/json"}, method=method)
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            parsed = json.load(answer)
    except HTTPError as error:
        with error:
            message = _message(error)
        if error.code == REFUSED and message and refusal:
            stop(f"{refusal}: {message}", BAD_INPUT)
        if message and error.code >= 500:
            stop(f"--url {url}: {message}", FAILED)
        _stop_as_other(url, f"{method} {path} gives status {error.code}")
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
            _stop_as_other(url, f"{method} {path} gives no JSON")
        stop(f"--url {url}: {error}; expected http://HOST:PORT", BAD_INPUT)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        stop(f"--url {url}: no server answers: {reason}", FAILED)
    except Exception as error:  # http.client's, for what is not HTTP at all
        _stop_as_other(url, f"{type(error).__name__}")
    if not isinstance(parsed, dict):
        _stop_as_other(url, f"{method} {path} gives no JSON object")
    return parsed


def _message(error: HTTPError) -> str:
    """The server's own words, if it has kprime's way of saying them; the last line of a trace."""
    try:
        message = json.load(error)["error"]["message"]
    except (ValueError, TypeError, KeyError, OSError):
        return ""
    lines = str(message).strip().splitlines()
    return (
        "\n".join(lines)
        if error.code == REFUSED
        else " ".join(dict.fromkeys(lines[:1] + lines[-1:]))
    )


def _stop_as_other(url: str, why: str) -> NoReturn:
    stop(f"--url {url}: not a kprime server, or another version of it: {why}", FAILED)
