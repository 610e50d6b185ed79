"""The fields of one GPU, each from NVML calls of its own, so that one that fails leaves the others.

Takes the pynvml module, initialised, and the device's handle. What ends an NVML session is raised;
everything else becomes a field's reason. Any call may hang. Knows no session and no retry.
"""

import contextlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from controller.signals import Device

GPM_APART_S = 0.1  # two samples of the counters, at least
OWN_BUSY_KEPT_S = 1.0  # the longest of NVML's sample periods

CLOCK_REASONS = {
    0x001: "gpu idle",
    0x002: "applications clocks",
    0x004: "sw power cap",
    0x008: "hw slowdown",
    0x010: "sync boost",
    0x020: "sw thermal slowdown",
    0x040: "hw thermal slowdown",
    0x080: "hw power brake",
    0x100: "display clocks",
}
IDLE, POWER_CAP, SLOWDOWNS = 0x001, 0x004, 0x004 | 0x008 | 0x020 | 0x040 | 0x080


class GpuFields:
    """Reads the device of one handle for as long as the session lasts.

    On a MIG device, power, clock and their reasons are the board's: its parts share them.
    """

    def __init__(self, nvml: ModuleType, handle: object, pid: int) -> None:
        self._nvml = nvml
        self._handle = handle
        self._pid = pid
        self._board, instance = _board_of(nvml, handle)
        self._own_busy = _OwnBusy(nvml, handle, pid)
        self._counters = _Counters(nvml, self._board, instance)
        self._readers: Mapping[str, Callable[[float], object]] = {
            "gpu_busy": self._busy,
            "gpu_memory_used": self._memory_used,
            "gpu_power_w": self._power_w,
            "gpu_sm_clock_mhz": self._sm_clock_mhz,
            "gpu_clock_reasons": self._clock_reasons,
            "gpu_throttled": self._throttled,
            "gpu_own_busy": self._own_busy.share,
            "gpu_own_memory_bytes": self._own_memory_bytes,
            "gpu_sm_busy": lambda now_s: self._counters.share(nvml.NVML_GPM_METRIC_SM_UTIL, now_s),
            "gpu_dram_busy": lambda now_s: self._counters.share(
                nvml.NVML_GPM_METRIC_DRAM_BW_UTIL, now_s
            ),
        }

    def read(self, now_s: float) -> Device:
        """Raises when the session is over, and when nothing at all can be read."""
        nvml = self._nvml
        session_is_over = (
            nvml.NVMLError_Uninitialized,
            nvml.NVMLError_DriverNotLoaded,
            nvml.NVMLError_GpuIsLost,
            nvml.NVMLError_ResetRequired,
            nvml.NVMLError_LibRmVersionMismatch,
        )
        values: dict[str, Any] = {}
        unreadable: dict[str, str] = {}
        for name, reader in self._readers.items():
            try:
                values[name] = reader(now_s)
            except session_is_over:
                raise
            except nvml.NVMLError as error:
                unreadable[name] = f"NVML: {error}"
            except (LookupError, ValueError, AttributeError) as error:  # the last: an older binding
                unreadable[name] = str(error)
        if not values:  # A GPU off the bus may answer "unknown error" to everything: start over.
            raise LookupError(f"nothing readable, {unreadable['gpu_busy']}")
        return Device(**values, unreadable=unreadable)

    def close(self) -> None:
        self._counters.close()

    def _busy(self, _now_s: float) -> float:
        return _share(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu, 100)

    def _memory_used(self, _now_s: float) -> float:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return _share(memory.used, memory.total)

    def _power_w(self, _now_s: float) -> float:
        return _known(self._nvml.nvmlDeviceGetPowerUsage(self._board)) / 1000

    def _sm_clock_mhz(self, _now_s: float) -> float:
        nvml = self._nvml
        return _known(nvml.nvmlDeviceGetClockInfo(self._board, nvml.NVML_CLOCK_SM))

    def _clock_reasons(self, _now_s: float) -> tuple[str, ...]:
        bits = self._clock_reason_bits()
        single = [1 << n for n in range(bits.bit_length()) if bits >> n & 1]
        return tuple(CLOCK_REASONS.get(bit, f"reason {bit:#x}") for bit in single)

    def _throttled(self, _now_s: float) -> bool:
        """A power cap on an idle GPU holds nothing back."""
        bits = self._clock_reason_bits()
        return bool(bits & (SLOWDOWNS & ~POWER_CAP if bits & IDLE else SLOWDOWNS))

    def _clock_reason_bits(self) -> int:
        nvml = self._nvml
        try:
            bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(self._board)
        except (AttributeError, nvml.NVMLError_FunctionNotFound):  # an older binding or driver
            bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._board)
        return int(bits)

    def _own_memory_bytes(self, _now_s: float) -> int:
        # By version: without one, pynvml makes another error of a function that is missing.
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses_v3(self._handle):
            if process.pid == self._pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        raise LookupError("NVML does not list this process (in a container it may have another id)")


class _OwnBusy:
    """Share of the SMs' time that this process had, by the newest of the driver's samples."""

    def __init__(self, nvml: ModuleType, handle: object, pid: int) -> None:
        self._nvml = nvml
        self._handle = handle
        self._pid = pid
        self._seen_us = 0  # by the driver's clock
        self._last: tuple[float, int] | None = None  # (when read, percent)

    def share(self, now_s: float) -> float:
        own = [sample for sample in self._new_samples() if sample.pid == self._pid]
        if own:
            newest = max(own, key=lambda sample: int(sample.timeStamp))
            self._seen_us, self._last = newest.timeStamp, (now_s, newest.smUtil)
        if self._last is None or now_s - self._last[0] > OWN_BUSY_KEPT_S:
            raise LookupError("NVML has no new sample of this process")
        return _share(self._last[1], 100)

    def _new_samples(self) -> list[Any]:
        nvml = self._nvml
        try:
            return list(nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_us))
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_SUCCESS, nvml.NVML_ERROR_NOT_FOUND):  # so none are new
                return []
            raise


class _Counters:
    """What the GPU's own counters (GPM, from Hopper on) say of the time between two samples."""

    def __init__(self, nvml: ModuleType, board: object, instance: int | None) -> None:
        self._nvml = nvml
        self._board = board
        self._instance = instance  # of a MIG device
        self._samples: list[Any] = []  # older, newer
        self._taken_s: list[float] = []  # when; at most the last two

    def share(self, metric: int, now_s: float) -> float:
        nvml = self._nvml
        self._sample(now_s)
        if len(self._taken_s) < 2:
            raise LookupError("GPM needs a second reading to compare with")
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = 1
        request.sample1, request.sample2 = self._samples
        answer = request.metrics[0]
        answer.metricId = metric
        nvml.nvmlGpmMetricsGet(request)
        if answer.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(answer.nvmlReturn)
        return _share(answer.value, 100)

    def close(self) -> None:
        for sample in self._samples:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlGpmSampleFree(sample)
        self._samples, self._taken_s = [], []

    def _sample(self, now_s: float) -> None:
        """Over the older one; the metrics of one reading share a pair."""
        if self._taken_s and now_s - self._taken_s[-1] < GPM_APART_S:
            return
        nvml = self._nvml
        if not self._samples and not nvml.nvmlGpmQueryDeviceSupport(self._board).isSupportedDevice:
            raise LookupError("this device has no GPM")
        while len(self._samples) < 2:
            self._samples.append(nvml.nvmlGpmSampleAlloc())
        if self._instance is None:
            nvml.nvmlGpmSampleGet(self._board, self._samples[0])
        else:
            nvml.nvmlGpmMigSampleGet(self._board, self._instance, self._samples[0])
        self._samples.reverse()
        self._taken_s = [*self._taken_s[-1:], now_s]


def _board_of(nvml: ModuleType, handle: object) -> tuple[object, int | None]:
    """The GPU that a MIG device is a part of, and which part; any other is its own board."""
    try:
        if nvml.nvmlDeviceIsMigDeviceHandle(handle).value:
            board = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            return board, nvml.nvmlDeviceGetGpuInstanceId(handle)
    except nvml.NVMLError:  # a driver that knows no MIG; what ends the session will show again
        pass
    return handle, None


def _share(part: float, whole: float) -> float:
    """Some drivers answer with all bits set, or with no memory at all: not a share of anything."""
    if not 0 <= part <= whole or whole == 0:
        raise ValueError(f"NVML: {part} of {whole} makes no sense")
    return part / whole


def _known(value: int) -> float:
    if value == 0xFFFFFFFF:
        raise ValueError("NVML: value not available")
    return float(value)
