"""Reads the accelerator through NVML and the host through psutil; gives a `Device`.

Takes a GPU's UUID and the time of each reading. Whatever cannot be read is None, with the reason
kept for status pages. Knows nothing of queues, tokens, plans or what a reading is used for.
"""

import contextlib
import math
import threading
from dataclasses import dataclass, replace
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import psutil

from controller.signals import Device

KEPT_S = 2.0  # an older reading is not handed out
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one attempt to read a GPU gave; `reasons` has every field that is None."""

    asked_s: float
    device: Device
    reasons: dict[str, str]


class DeviceReader:
    """Reads one GPU and the host; never raises and never waits for NVML.

    A driver in trouble can hold an NVML call for ever, so those run on a thread of their own:
    `read` asks it for a reading and hands out the last one finished, if asked for within `KEPT_S`.
    So the first read knows nothing of the GPU yet. Call it at least every `KEPT_S`, and from one
    thread: psutil compares with that thread's last call.
    """

    def __init__(self, gpu_uuid: str | None) -> None:
        self.reasons: dict[str, str] = {}  # field -> why the last read gave None
        self._gpu = Gpu(gpu_uuid)
        self._asked: SimpleQueue[float | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._last_asked_s = -math.inf
        self._last = _nothing(-math.inf, "not asked yet")
        self._host_has_baseline = False
        threading.Thread(target=self._work, name="nvml", daemon=True).start()

    def read(self, now_s: float) -> Device:
        if self._idle.is_set():
            self._idle.clear()
            self._last_asked_s = now_s
            self._asked.put(now_s)
        last = self._last
        if now_s - last.asked_s >= KEPT_S:
            silent_s = now_s - self._last_asked_s
            last = _nothing(now_s, f"NVML call has not returned for {silent_s:.1f} s")
        self.reasons = dict(last.reasons)
        return replace(last.device, host_cpu_busy=self._host_cpu_busy())

    def close(self) -> None:
        """Lets NVML go once the call under way, if any, returns."""
        self._asked.put(None)

    def _work(self) -> None:
        while (asked_s := self._asked.get()) is not None:
            self._last = self._gpu.read(asked_s)
            self._idle.set()
        self._gpu.close()

    def _host_cpu_busy(self) -> float | None:
        try:
            busy = psutil.cpu_percent(interval=None) / 100
        except (OSError, psutil.Error) as error:
            self.reasons["host_cpu_busy"] = f"psutil: {error}"
            return None
        if not self._host_has_baseline:
            self._host_has_baseline = True
            self.reasons["host_cpu_busy"] = "nothing to compare the first reading with"
            return None
        return busy


class Gpu:
    """One GPU through NVML. Each call may hang: for the reader's thread only.

    After a failure that ends the NVML session (no driver, GPU lost, driver replaced under us)
    nothing is tried for 1 s, then 2, 4 and so on up to 60 s; a good reading sets it back to 1 s.
    """

    def __init__(self, uuid: str | None) -> None:
        # torch prints a UUID without the prefix that NVML asks for.
        self._uuid = f"GPU-{uuid}" if uuid and not uuid.startswith(("GPU-", "MIG-")) else uuid
        self._nvml: ModuleType | None = None  # initialised, or None
        self._handle: object = None
        self._failure = ""
        self._retry_at_s = -math.inf
        self._retry_delay_s = FIRST_RETRY_S

    def read(self, now_s: float) -> Reading:
        if now_s < self._retry_at_s:
            return _nothing(now_s, self._failure)
        try:
            nvml = self._nvml or self._open()
            reading = _read_fields(nvml, self._handle, now_s)
        except Exception as error:  # Whatever a driver does, serving goes on without its readings.
            self.close()
            self._fail(now_s, error)
            return _nothing(now_s, self._failure)
        self._retry_delay_s = FIRST_RETRY_S
        return reading

    def close(self) -> None:
        nvml, self._nvml, self._handle = self._nvml, None, None
        if nvml:
            with contextlib.suppress(nvml.NVMLError):  # a lost driver need not be left politely
                nvml.nvmlShutdown()

    def _open(self) -> ModuleType:
        import pynvml  # type: ignore[import-untyped]  # lazily: most hosts have no use for it

        nvml: ModuleType = pynvml
        nvml.nvmlInit()
        self._nvml = nvml
        if self._uuid is None:
            raise LookupError("NVML works")
        self._handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        return nvml

    def _fail(self, now_s: float, error: Exception) -> None:
        if self._uuid is None:
            self._failure = f"no GPU assigned ({error})"
            self._retry_at_s = math.inf
            return
        self._failure = f"{type(error).__name__}: {error}"
        self._retry_at_s = now_s + self._retry_delay_s
        self._retry_delay_s = min(2 * self._retry_delay_s, LAST_RETRY_S)


def _nothing(asked_s: float, reason: str) -> Reading:
    return Reading(asked_s, Device(), dict.fromkeys(_READERS, reason))


def _read_fields(nvml: ModuleType, handle: object, now_s: float) -> Reading:
    """Field by field: one without support leaves the others. Raises when the session is over."""
    session_is_over = (
        nvml.NVMLError_Uninitialized,
        nvml.NVMLError_DriverNotLoaded,
        nvml.NVMLError_GpuIsLost,
        nvml.NVMLError_ResetRequired,
        nvml.NVMLError_LibRmVersionMismatch,
    )
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, reader in _READERS.items():
        try:
            values[name] = reader(nvml, handle)
        except session_is_over:
            raise
        except (nvml.NVMLError, ValueError) as error:
            reasons[name] = f"NVML: {error}"
    if not values:  # A GPU off the bus may answer "unknown error" to everything: start over.
        raise LookupError(f"nothing readable, {reasons['gpu_busy']}")
    return Reading(now_s, Device(**values), reasons)


def _busy(nvml: ModuleType, handle: object) -> float:
    return _share(nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 100)


def _memory_used(nvml: ModuleType, handle: object) -> float:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return _share(memory.used, memory.total)


def _power_w(nvml: ModuleType, handle: object) -> float:
    return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1000


def _throttled(nvml: ModuleType, handle: object) -> bool:
    slowdowns = (
        nvml.nvmlClocksThrottleReasonSwPowerCap
        | nvml.nvmlClocksThrottleReasonHwSlowdown
        | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonHwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    )
    try:
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except (AttributeError, nvml.NVMLError_FunctionNotFound):  # an older binding, an older driver
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return bool(reasons & slowdowns)


def _share(part: int, whole: int) -> float:
    """Some drivers answer with all bits set, or with no memory at all: not a share of anything."""
    if not 0 <= part <= whole or whole == 0:
        raise ValueError(f"{part} of {whole} makes no sense")
    return part / whole


_READERS = {
    "gpu_busy": _busy,
    "gpu_memory_used": _memory_used,
    "gpu_power_w": _power_w,
    "gpu_throttled": _throttled,
}
