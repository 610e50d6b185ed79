"""Counts which experts ran, step by step, and sums them up for the heartbeat.

Thread-safe: the engine's thread counts, the server's event loop asks.
"""

import threading

import numpy as np

from controller.signals import ExpertUse
from runtime.elastic import ExpertDial


class ExpertLoad:
    """What the experts of every layer ran. Shapes: L layers, E experts of the widest layer."""

    def __init__(self, dial: ExpertDial) -> None:
        self._load_LE = dial.load_LE  # the experts add to it as they run
        num_experts_L = np.array([layer.num_experts for layer in dial.layers])
        self._num_experts_L = num_experts_L
        self._exists_LE = np.arange(self._load_LE.shape[1]) < num_experts_L[:, None]
        self._ever_LE = np.zeros(self._load_LE.shape, dtype=bool)
        self._lock = threading.Lock()
        self._load_LE.zero_()
        self._forget()

    def step(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Called after each step: the token-expert pairs it ran, and the distinct experts of them,
        by layer.
        """
        load_LE = self._load_LE.numpy(force=True)
        ran_LE = load_LE > 0
        distinct_L = ran_LE.sum(axis=1)
        with self._lock:
            self._sum_LE += load_LE
            self._ever_LE |= ran_LE
            self._distinct_L += distinct_L
            self._steps += 1
        slots_L = load_LE.sum(axis=1)
        self._load_LE.zero_()
        return tuple(slots_L.tolist()), tuple(distinct_L.tolist())

    def take(self) -> ExpertUse | None:
        """The use since this was last called; None without a step."""
        with self._lock:
            if not self._steps:
                return None
            mean_L = self._sum_LE.sum(axis=1) / self._num_experts_L
            use = ExpertUse(
                distinct=tuple((self._distinct_L / self._steps).tolist()),
                worst_load=tuple((self._sum_LE.max(axis=1) / mean_L).tolist()),
                never_used=tuple((self._exists_LE & ~self._ever_LE).sum(axis=1).tolist()),
            )
            self._forget()
            return use

    def _forget(self) -> None:
        self._sum_LE = np.zeros(self._load_LE.shape, dtype=np.int64)
        self._distinct_L = np.zeros(len(self._num_experts_L), dtype=np.int64)
        self._steps = 0
