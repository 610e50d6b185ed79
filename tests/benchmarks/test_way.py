"""How long a request takes that needs no engine, over real HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.way import probed, way_of


@contextmanager
def server(asked: threading.Semaphore, body: bytes) -> Iterator[str]:
    """Answers every request alike, over connections that stay open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            assert self.path == "/v1/models"
            asked.release()

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_it_is_taken_again_and_again_until_the_load_is_over() -> None:
    asked = threading.Semaphore(0)
    with server(asked, b"{}") as url:
        with probed(url, every_s=0.001) as took_s:
            for _ in range(5):
                assert asked.acquire(timeout=10)
        # The last of them may have been answered after the load was over.
        assert len(took_s) >= 4 and all(0 < each < 10 for each in took_s)


def test_a_probe_that_fails_is_told() -> None:
    asked = threading.Semaphore(0)
    with (
        server(asked, b"no JSON") as url,
        pytest.raises(ValueError, match="Expecting value"),
        probed(url, every_s=0.001),
    ):
        assert asked.acquire(timeout=10)


def test_a_way_has_the_mean_and_the_spread_of_the_probes() -> None:
    way = way_of([0.01, 0.04])
    assert way is not None
    assert way.mean_s == pytest.approx(0.025)
    assert way.sigma == pytest.approx(0.693, abs=0.001)  # of the logarithm: half of log 4


@pytest.mark.parametrize("few", [[], [0.01]])
def test_too_few_probes_tell_nothing(few: list[float]) -> None:
    assert way_of(few) is None
