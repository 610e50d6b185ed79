"""How long the way to the replicas and back takes while they serve.

Beside a load, a request that needs no engine is sent again and again over one connection: through
Serve's proxy and a replica's event loop, as all requests go.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from math import log
from statistics import fmean, pstdev
from urllib.parse import urlsplit

from simulations.settings import Way

EVERY_S = 0.25
TIMEOUT_S = 30.0


@contextmanager
def probed(url: str, every_s: float = EVERY_S) -> Iterator[list[float]]:
    """Fills the list with the seconds that each took, until the end of the block. A probe that
    fails ends it with that failure.
    """
    took_s: list[float] = []
    failures: list[Exception] = []
    over = threading.Event()

    def probe() -> None:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
        try:
            while not over.wait(every_s):
                began_s = time.perf_counter()
                connection.request("GET", "/v1/models")
                json.load(connection.getresponse())
                took_s.append(time.perf_counter() - began_s)
        except Exception as error:  # told to whoever waits, below
            failures.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=probe, name="probe")
    thread.start()
    try:
        yield took_s
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def way_of(took_s: list[float]) -> Way | None:
    """None: there were too few to tell."""
    if len(took_s) < 2:
        return None
    return Way(fmean(took_s), pstdev(map(log, took_s)))
