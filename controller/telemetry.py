"""What one replica tells of itself: requests and steps in, a Sample per heartbeat out.

Thread-safe: the engine's thread and the server's event loop both report. Knows no engine, no GPU.
"""

import threading
from dataclasses import dataclass

from controller.signals import Device, Sample, Step


@dataclass
class _Flight:
    """A request between arrival and end."""

    arrived_s: float
    tokens_to_prefill: int
    first_token_s: float | None = None
    num_tokens: int = 0


class Telemetry:
    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}  # in order of arrival
        self._forget_heartbeat()

    def arrived(self, request_id: str, prompt_tokens: int, max_tokens: int, now_s: float) -> None:
        with self._lock:
            self._flights[request_id] = _Flight(now_s, prompt_tokens)
            self._arrived_requests += 1
            self._arrived_tokens += prompt_tokens
            self._arrived_output_tokens += max_tokens

    def stepped(self, step: Step, prefilled: dict[str, int]) -> None:
        """A step ran; `prefilled` counts prompt tokens by request."""
        with self._lock:
            self._steps.append(step)
            for request_id, tokens in prefilled.items():
                if flight := self._flights.get(request_id):
                    flight.tokens_to_prefill = max(0, flight.tokens_to_prefill - tokens)

    def produced(self, request_id: str, num_tokens: int, now_s: float) -> None:
        with self._lock:
            flight = self._flights.get(request_id)
            if flight is None or num_tokens == 0:
                return
            if flight.first_token_s is None:
                flight.first_token_s = now_s
                self._ttfts_s.append(now_s - flight.arrived_s)
            flight.num_tokens += num_tokens

    def ended(self, request_id: str, now_s: float) -> None:
        """Finished, failed or cancelled."""
        with self._lock:
            flight = self._flights.pop(request_id, None)
            if flight and flight.first_token_s is not None and flight.num_tokens > 1:
                self._tpots_s.append((now_s - flight.first_token_s) / (flight.num_tokens - 1))

    def sample(self, epoch: int, device: Device, now_s: float) -> Sample:
        """Everything since the last sample, and the queue as it stands."""
        with self._lock:
            flights = self._flights.values()
            waiting = [flight for flight in flights if flight.first_token_s is None]
            sample = Sample(
                replica=self._replica,
                epoch=epoch,
                waiting_requests=len(waiting),
                waiting_tokens=sum(flight.tokens_to_prefill for flight in waiting),
                running_requests=len(self._flights) - len(waiting),
                oldest_wait_s=max((now_s - flight.arrived_s for flight in waiting), default=0.0),
                arrived_requests=self._arrived_requests,
                arrived_tokens=self._arrived_tokens,
                arrived_output_tokens=self._arrived_output_tokens,
                ttfts_s=tuple(self._ttfts_s),
                tpots_s=tuple(self._tpots_s),
                steps=tuple(self._steps),
                device=device,
            )
            self._forget_heartbeat()
            return sample

    def _forget_heartbeat(self) -> None:
        self._arrived_requests = self._arrived_tokens = self._arrived_output_tokens = 0
        self._ttfts_s: list[float] = []
        self._tpots_s: list[float] = []
        self._steps: list[Step] = []
