"""Reads the accelerator through NVML and the host through psutil; gives a `Device`.

Takes what names the GPU and the time of each reading. Whatever cannot be read is None, with the
reason beside it. Knows nothing of queues, tokens, plans or what a reading is used for.
"""

import contextlib
import math
import os
import threading
from dataclasses import fields, replace
from queue import SimpleQueue
from types import ModuleType

import psutil

from controller.cuda_devices import AssignedGpu
from controller.gpu_fields import GpuFields
from controller.signals import Device

KEPT_S = 2.0  # an older reading is not handed out
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


class DeviceReader:
    """Reads one GPU and the host; never raises and never waits for NVML.

    A driver in trouble can hold an NVML call for ever, so those run on a thread of their own, at
    most one at a time: `read` asks it for a reading, unless the last one is still under way, and
    hands out the last one finished, if asked for within `KEPT_S`. ctypes lets go of the
    interpreter during a call, so `read` costs what psutil costs. The first read knows nothing of
    the GPU yet. Call it at least every `KEPT_S`, and from one thread: psutil compares with that
    thread's last call.
    """

    def __init__(self, gpu: AssignedGpu | None) -> None:
        self._gpu = Gpu(gpu or AssignedGpu(missing="no GPU assigned"))
        self._asked: SimpleQueue[float | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._last_asked_s = -math.inf
        self._last = -math.inf, Device()  # when asked for, and what came of it
        self._host_has_baseline = False
        threading.Thread(target=self._work, name="nvml", daemon=True).start()

    def read(self, now_s: float) -> Device:
        if self._idle.is_set():
            self._idle.clear()
            self._last_asked_s = now_s
            self._asked.put(now_s)
        asked_s, device = self._last
        if now_s - asked_s >= KEPT_S:
            stuck_s = now_s - self._last_asked_s
            device = _nothing(f"NVML call stuck for {stuck_s:.1f} s" if stuck_s else "not read yet")
        return self._with_host(device)

    def close(self) -> None:
        """Lets NVML go once the call under way, if any, returns."""
        self._asked.put(None)

    def _work(self) -> None:
        while (asked_s := self._asked.get()) is not None:
            self._last = asked_s, self._gpu.read(asked_s)
            self._idle.set()
        self._gpu.close()

    def _with_host(self, device: Device) -> Device:
        try:
            busy = psutil.cpu_percent(interval=None) / 100
        except (OSError, psutil.Error) as error:
            reason = f"psutil: {error}"
        else:
            if self._host_has_baseline:
                return replace(device, host_cpu_busy=busy)
            self._host_has_baseline = True
            reason = "nothing to compare the first reading with"
        return replace(device, unreadable={**device.unreadable, "host_cpu_busy": reason})


class Gpu:
    """One GPU through NVML. Each call may hang: for the reader's thread only.

    After a failure that ends the NVML session (no driver, GPU lost, driver replaced under us)
    nothing is tried for 1 s, then 2, 4 and so on up to 60 s; a good reading sets it back to 1 s.
    """

    def __init__(self, gpu: AssignedGpu) -> None:
        self._gpu = gpu
        self._nvml: ModuleType | None = None  # initialised, or None
        self._fields: GpuFields | None = None
        self._failure = ""
        self._retry_at_s = -math.inf
        self._retry_delay_s = FIRST_RETRY_S

    def read(self, now_s: float) -> Device:
        if now_s < self._retry_at_s:
            return _nothing(self._failure)
        try:
            if self._fields is None:
                self._fields = self._open()
            device = self._fields.read(now_s)
        except Exception as error:  # Whatever a driver does, serving goes on without its readings.
            self.close()
            self._fail(now_s, error)
            return _nothing(self._failure)
        self._retry_delay_s = FIRST_RETRY_S
        return device

    def close(self) -> None:
        nvml, self._nvml = self._nvml, None
        gpu_fields, self._fields = self._fields, None
        with contextlib.suppress(Exception):  # a lost driver need not be left politely
            if gpu_fields:
                gpu_fields.close()
        with contextlib.suppress(Exception):
            if nvml:
                nvml.nvmlShutdown()

    def _open(self) -> GpuFields:
        import pynvml  # type: ignore[import-untyped]  # lazily: most hosts have no use for it

        nvml: ModuleType = pynvml
        nvml.nvmlInit()
        self._nvml = nvml
        if self._gpu.missing:
            raise LookupError("NVML works")
        handle = _find(nvml, self._gpu)
        if self._gpu.index is not None:  # by another index may it be found when a GPU is lost
            self._gpu = AssignedGpu((nvml.nvmlDeviceGetUUID(handle),))
        return GpuFields(nvml, handle, os.getpid())

    def _fail(self, now_s: float, error: Exception) -> None:
        if self._gpu.missing:
            self._failure = f"{self._gpu.missing} ({error})"
            self._retry_at_s = math.inf
            return
        self._failure = f"{type(error).__name__}: {error}"
        self._retry_at_s = now_s + self._retry_delay_s
        self._retry_delay_s = min(2 * self._retry_delay_s, LAST_RETRY_S)


def _find(nvml: ModuleType, gpu: AssignedGpu) -> object:
    """The handle. An index is believed where CUDA and NVML cannot mean different GPUs by it."""
    if gpu.index is not None:
        count = nvml.nvmlDeviceGetCount()
        if count > 1 and not gpu.in_pci_order:
            raise LookupError(
                f"CUDA's device {gpu.index} may be any of {count}: list UUIDs in "
                "CUDA_VISIBLE_DEVICES, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
            )
        return nvml.nvmlDeviceGetHandleByIndex(gpu.index)
    for uuid in gpu.uuids:
        with contextlib.suppress(nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
            return nvml.nvmlDeviceGetHandleByUUID(uuid)
    everyone = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
    for uuid in gpu.uuids:
        alike = [one for one in everyone if nvml.nvmlDeviceGetUUID(one).startswith(uuid)]
        if len(alike) == 1:
            return alike[0]
    raise LookupError(f"NVML knows no GPU {' or '.join(gpu.uuids)}, or several")


def _nothing(reason: str) -> Device:
    gpu_fields = [field.name for field in fields(Device) if field.name.startswith("gpu_")]
    return Device(unreadable=dict.fromkeys(gpu_fields, reason))
