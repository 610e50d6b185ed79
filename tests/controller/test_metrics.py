"""The device reader through the real pynvml, against an NVML library compiled here.

pynvml loads its library by name and once a process, so each case is a script in its own process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.metrics import DeviceReader
from controller.signals import Device

HERE = Path(__file__).parent
GPU_FIELDS = {field.name for field in fields(Device) if field.name.startswith("gpu_")}

# What the fake is told; a case changes some of it. In the second reading, nothing is 0.
BUSY = {
    "UUID0": "GPU-fake",
    "UTILIZATION": 37,
    "MEMORY_TOTAL": 1000,
    "MEMORY_USED": 250,
    "POWER_MW": 71500,
    "SM_CLOCK_MHZ": 1410,
    "EVENT_REASONS": 0x04,  # power cap
    "THROTTLE_REASONS": 0x04,
    "OWN_MEMORY": 200,
    "OWN_US": 5_000_000,
    "OWN_UTILIZATION": 35,
    "GPM": 1,
}
READINGS = {
    "gpu_busy": 0.37,
    "gpu_memory_used": 0.25,
    "gpu_power_w": 71.5,
    "gpu_sm_clock_mhz": 1410,
    "gpu_clock_reasons": ["sw power cap"],
    "gpu_throttled": True,
    "gpu_own_busy": 0.35,
    "gpu_own_memory_bytes": 200,
    "gpu_sm_busy": 0.75,
    "gpu_dram_busy": 0.5,
}
CALLS = [
    *["INIT", "SHUTDOWN", "COUNT", "HANDLE", "UUID", "IS_MIG", "BOARD", "INSTANCE", "UTILIZATION"],
    *["MEMORY", "POWER", "CLOCK", "EVENT_REASONS", "THROTTLE_REASONS", "PROCESSES"],
    *["PROCESS_UTILIZATION", "GPM_SUPPORT", "GPM_ALLOC", "GPM_FREE", "GPM_SAMPLE", "GPM_METRICS"],
    *["GPM_SM", "GPM_DRAM"],
]
CODES = [*range(1, 31), 77, 999]

PRELUDE = """
import json, os, sys, threading
from dataclasses import asdict
from controller.cuda_devices import AssignedGpu
from controller.metrics import DeviceReader, Gpu

FAKE = AssignedGpu(("GPU-fake",))
told = json.loads(os.environ["FAKE_NVML_TOLD"])

def say(**changes):
    told.update(changes)
    path = os.environ["FAKE_NVML"]
    with open(path + ".new", "w") as file:
        file.writelines(f"{key} {value}\\n" for key, value in told.items())
    os.replace(path + ".new", path)

def read(gpu, now_s):
    return asdict(gpu.read(now_s))

def read_twice(gpu):
    say(GPM_SM=1000, GPM_DRAM=1000)
    gpu.read(0.0)
    say(GPM_SM=1075, GPM_DRAM=1050)
    return read(gpu, 1.0)

def poll(reader, now_s, accept):
    while not accept(device := reader.read(now_s)):
        pass
    return device

def show(value):
    print(json.dumps(value), flush=True)

say()
"""


def compiled(folder: Path, *without: str) -> Path:
    """A folder with the fake library, some of its functions left out."""
    library, source = folder / "libnvidia-ml.so.1", HERE / "fake_nvml.c"
    renamed = [f"-D{function}=left_out_{n}" for n, function in enumerate(without)]
    subprocess.run(["gcc", *renamed, "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@pytest.fixture(scope="module")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def broken_nvml(tmp_path: Path) -> Path:
    """Hides the library of a host that has one: the loader stops at a file it cannot load."""
    (tmp_path / "libnvidia-ml.so.1").touch()
    return tmp_path


def started(library: Path, script: str, told: dict[str, Any]) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(library),
        "PYTHONPATH": str(HERE.parents[1]),
        "FAKE_NVML": str(library / "told"),
        "FAKE_NVML_TOLD": json.dumps(BUSY | told),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(library: Path, script: str, **told: str | int) -> Any:  # noqa: ANN401  (what it shows)
    with started(library, script, told) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


def read(library: Path, **told: str | int) -> dict[str, Any]:
    """The second reading of the fake GPU, a second after the first."""
    device: dict[str, Any] = run(library, "show(read_twice(Gpu(FAKE)))", **told)
    return device


def read_as(library: Path, gpu: str, **told: str | int) -> dict[str, Any]:
    """The only reading of the GPU so assigned."""
    device: dict[str, Any] = run(library, f"show(read(Gpu({gpu}), 0.0))", **told)
    return device


def without_field(changes: dict[str, Any]) -> dict[str, Any]:
    return READINGS | {"host_cpu_busy": None, "unreadable": {}} | changes


# What a driver in order tells.


def test_a_busy_gpu_is_read_in_shares_watts_and_megahertz(fake_nvml: Path) -> None:
    assert read(fake_nvml) == without_field({})


def test_an_idle_gpu_is_read_as_zero_and_not_as_throttled(fake_nvml: Path) -> None:
    device = read(fake_nvml, UTILIZATION=0, OWN_UTILIZATION=0, EVENT_REASONS=0x01 | 0x04)
    idle = {"gpu_busy": 0.0, "gpu_own_busy": 0.0, "gpu_throttled": False}
    assert device == without_field(idle | {"gpu_clock_reasons": ["gpu idle", "sw power cap"]})


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x04, ["sw power cap"]),
        (0x08 | 0x01, ["gpu idle", "hw slowdown"]),
        (0x20 | 0x01, ["gpu idle", "sw thermal slowdown"]),
        (0x40 | 0x08, ["hw slowdown", "hw thermal slowdown"]),
        (0x80, ["hw power brake"]),
    ],
)
def test_each_slowdown_counts_as_throttled_and_is_named(
    fake_nvml: Path, bits: int, names: list[str]
) -> None:
    device = read(fake_nvml, EVENT_REASONS=bits)
    assert (device["gpu_throttled"], device["gpu_clock_reasons"]) == (True, names)


def test_clocks_that_somebody_set_are_named_and_no_throttling(fake_nvml: Path) -> None:
    device = read(fake_nvml, EVENT_REASONS=0x02 | 0x10 | 0x100 | 0x8000)
    names = ["applications clocks", "sync boost", "display clocks", "reason 0x8000"]
    assert (device["gpu_throttled"], device["gpu_clock_reasons"]) == (False, names)


# What this process does with the GPU.


def test_a_process_that_nvml_knows_by_another_id_is_unreadable(fake_nvml: Path) -> None:
    device = read(fake_nvml, PID=4)
    assert (device["gpu_own_busy"], device["gpu_own_memory_bytes"]) == (None, None)
    assert device["unreadable"] == {
        "gpu_own_busy": "NVML has no new sample of this process",
        "gpu_own_memory_bytes": "NVML does not list this process "
        "(in a container it may have another id)",
    }


def test_a_share_of_our_own_outlives_readings_between_two_samples_for_a_second(
    fake_nvml: Path,
) -> None:
    script = """
gpu, seen = Gpu(FAKE), []
for now_s, newest_us in [(0.0, 5_000_000), (0.9, 5_000_000), (1.1, 5_000_000), (1.2, 6_000_000)]:
    say(OWN_US=newest_us, OWN_UTILIZATION=newest_us // 100_000)
    seen.append(gpu.read(now_s).gpu_own_busy)
show(seen)
"""
    assert run(fake_nvml, script) == [0.5, 0.5, None, 0.6]


# The GPU's own counters.


def test_counters_are_compared_with_those_of_the_reading_before(fake_nvml: Path) -> None:
    script = """
gpu, seen = Gpu(FAKE), []
for now_s, cycles in [(0.0, 100), (0.05, 100), (1.0, 120), (1.05, 130), (2.0, 170)]:
    say(GPM_SM=cycles)
    device = gpu.read(now_s)
    seen.append(device.unreadable.get("gpu_sm_busy", device.gpu_sm_busy))
show(seen)
"""
    # The second and the fourth reading are too soon for new counters.
    first = "GPM needs a second reading to compare with"
    assert run(fake_nvml, script) == [first, first, 0.2, 0.2, 0.5]


def test_a_gpu_before_hopper_has_no_counters(fake_nvml: Path) -> None:
    device = read(fake_nvml, GPM=0)
    reasons = dict.fromkeys(["gpu_sm_busy", "gpu_dram_busy"], "this device has no GPM")
    missing = dict.fromkeys(reasons)
    assert device == without_field(missing | {"unreadable": reasons})


def test_a_counter_that_fails_leaves_the_other(fake_nvml: Path) -> None:
    device = read(fake_nvml, GPM_DRAM_CODE=21)
    unreadable = {"gpu_dram_busy": "NVML: No data"}
    assert device == without_field({"gpu_dram_busy": None, "unreadable": unreadable})


def test_a_failed_sample_is_not_compared_with(fake_nvml: Path) -> None:
    script = """
gpu, seen = Gpu(FAKE), []
for now_s, cycles, code in [(0.0, 100, 0), (1.0, 120, 0), (2.0, 0, 27), (3.0, 150, 0)]:
    say(GPM_SM=cycles, GPM_SAMPLE_CODE=code)
    seen.append(gpu.read(now_s).gpu_sm_busy)
show(seen)
"""
    assert run(fake_nvml, script) == [None, 0.2, None, 0.3]


# What cannot be read.


def test_unsupported_utilisation_leaves_the_other_fields(fake_nvml: Path) -> None:
    device = read(fake_nvml, UTILIZATION_CODE=3)
    unreadable = {"gpu_busy": "NVML: Not Supported"}
    assert device == without_field({"gpu_busy": None, "unreadable": unreadable})


def test_what_is_not_permitted_leaves_the_other_fields(fake_nvml: Path) -> None:
    device = read(fake_nvml, PROCESS_UTILIZATION_CODE=4, PROCESSES_CODE=4, GPM_SAMPLE_CODE=4)
    names = ["gpu_own_busy", "gpu_own_memory_bytes", "gpu_sm_busy", "gpu_dram_busy"]
    unreadable = dict.fromkeys(names, "NVML: Insufficient Permissions")
    assert device == without_field(dict.fromkeys(names) | {"unreadable": unreadable})


def test_functions_that_an_older_driver_lacks_leave_the_other_fields(tmp_path: Path) -> None:
    lacking = ["nvmlDeviceGetClockInfo", "nvmlGpmQueryDeviceSupport"]
    lacking += ["nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceIsMigDeviceHandle"]
    device = read(compiled(tmp_path, *lacking))
    names = ["gpu_sm_clock_mhz", "gpu_own_memory_bytes", "gpu_sm_busy", "gpu_dram_busy"]
    unreadable = dict.fromkeys(names, "NVML: Function Not Found")
    assert device == without_field(dict.fromkeys(names) | {"unreadable": unreadable})


def test_an_older_driver_is_asked_for_its_throttle_reasons(tmp_path: Path) -> None:
    older = compiled(tmp_path, "nvmlDeviceGetCurrentClocksEventReasons")
    device = read(older, THROTTLE_REASONS=0x40)
    assert (device["gpu_throttled"], device["gpu_clock_reasons"]) == (True, ["hw thermal slowdown"])


def test_values_that_make_no_sense_are_none(fake_nvml: Path) -> None:
    all_bits = 0xFFFFFFFF
    names = ["gpu_busy", "gpu_memory_used", "gpu_power_w", "gpu_sm_clock_mhz", "gpu_own_busy"]
    told = dict.fromkeys(["UTILIZATION", "POWER_MW", "SM_CLOCK_MHZ", "OWN_UTILIZATION"], all_bits)
    device = read(fake_nvml, MEMORY_TOTAL=0, **told)
    assert {name for name in GPU_FIELDS if device[name] is None} == set(names)
    assert device["unreadable"]["gpu_busy"] == "NVML: 4294967295 of 100 makes no sense"
    assert device["unreadable"]["gpu_power_w"] == "NVML: value not available"


@pytest.fixture(scope="module")
def asked(fake_nvml: Path) -> Iterator["subprocess.Popen[str]"]:
    """Reads a GPU anew for every line of codes, since starting a process takes long."""
    script = """
for line in sys.stdin:
    codes = json.loads(line)
    say(**codes)
    gpu = Gpu(FAKE)
    show(read_twice(gpu))
    gpu.close()
    say(**dict.fromkeys(codes, 0))
"""
    with started(fake_nvml, script, {}) as process:
        yield process
        process.communicate(timeout=60)
    assert process.returncode == 0


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(CALLS), st.sampled_from(CODES), max_size=6))
def test_whatever_fails_a_field_is_right_or_none_with_a_reason(
    asked: "subprocess.Popen[str]", failing: dict[str, int]
) -> None:
    assert asked.stdin and asked.stdout
    codes = {f"{call}_CODE": code for call, code in failing.items()}
    print(json.dumps(codes), file=asked.stdin, flush=True)
    device = json.loads(asked.stdout.readline())
    for name, value in READINGS.items():
        if name in device["unreadable"]:
            assert device[name] is None
            assert device["unreadable"][name]
        else:
            assert device[name] == value


# Which GPU.


def test_a_uuid_as_torch_prints_it_finds_the_gpu(fake_nvml: Path) -> None:
    assert read_as(fake_nvml, 'AssignedGpu(("GPU-fake", "MIG-fake"))')["gpu_busy"] == 0.37
    mig = {"MIG_UUID": "MIG-fake", "UUID0": "GPU-whole", "UTILIZATION@MIG-fake": 12}
    assert read_as(fake_nvml, 'AssignedGpu(("GPU-fake", "MIG-fake"))', **mig)["gpu_busy"] == 0.12


TWO = {"UUID0": "GPU-1a", "UUID1": "GPU-1b", "UTILIZATION@GPU-1b": 12}


def test_the_beginning_of_a_uuid_finds_the_one_gpu_that_has_it(fake_nvml: Path) -> None:
    alone = {"UUID0": "GPU-1a", "UUID1": "GPU-2b", "UTILIZATION@GPU-2b": 12}
    assert read_as(fake_nvml, 'AssignedGpu(("GPU-2",))', **alone)["gpu_busy"] == 0.12
    unreadable = read_as(fake_nvml, 'AssignedGpu(("GPU-1",))', **TWO)["unreadable"]
    assert unreadable["gpu_busy"] == "LookupError: NVML knows no GPU GPU-1, or several"


def test_an_unknown_uuid_gives_nothing_and_says_so(fake_nvml: Path) -> None:
    device = read_as(fake_nvml, 'AssignedGpu(("MIG-other",))')
    reason = "LookupError: NVML knows no GPU MIG-other, or several"
    assert device.pop("unreadable") == dict.fromkeys(GPU_FIELDS, reason)
    assert set(device.values()) == {None}


def test_an_index_is_believed_in_pci_order_or_with_one_gpu_alone(fake_nvml: Path) -> None:
    by_pci = read_as(fake_nvml, "AssignedGpu(index=1, in_pci_order=True)", **TWO)
    assert by_pci["gpu_busy"] == 0.12
    assert read_as(fake_nvml, "AssignedGpu(index=0)")["gpu_busy"] == 0.37
    device = read_as(fake_nvml, "AssignedGpu(index=1)", **TWO)
    assert device["gpu_busy"] is None
    assert device["unreadable"]["gpu_busy"] == (
        "LookupError: CUDA's device 1 may be any of 2: list UUIDs in CUDA_VISIBLE_DEVICES, "
        "or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    )


def test_an_index_that_nvml_does_not_have_gives_nothing_and_says_so(fake_nvml: Path) -> None:
    device = read_as(fake_nvml, "AssignedGpu(index=3, in_pci_order=True)")
    assert device["unreadable"]["gpu_busy"] == "NVMLError_InvalidArgument: Invalid Argument"


def test_a_gpu_found_by_its_index_is_found_again_by_its_uuid(fake_nvml: Path) -> None:
    script = """
gpu = Gpu(AssignedGpu(index=1, in_pci_order=True))
seen = [gpu.read(0.0).gpu_busy]
say(**{"UTILIZATION_CODE@GPU-1b": 15})
seen.append(gpu.read(1.0).gpu_busy)
say(**{"UTILIZATION_CODE@GPU-1b": 0, "UUID0": "GPU-1b", "UUID1": "GPU-1a"})
seen.append(gpu.read(2.0).gpu_busy)
show(seen)
"""
    assert run(fake_nvml, script, **TWO) == [0.12, None, 0.12]


def test_a_mig_device_has_its_own_load_and_its_boards_clocks(fake_nvml: Path) -> None:
    mig = {"MIG_UUID": "MIG-1", "UTILIZATION_CODE@MIG-1": 3, "MEMORY_USED@MIG-1": 500}
    board = {"POWER_CODE@MIG-1": 3, "CLOCK_CODE@MIG-1": 3, "EVENT_REASONS_CODE@MIG-1": 3}
    device = run(fake_nvml, 'show(read_twice(Gpu(AssignedGpu(("MIG-1",)))))', **mig, **board)
    # The fake counts half the board's cycles for the instance.
    parts = {"gpu_memory_used": 0.5, "gpu_sm_busy": 0.375, "gpu_dram_busy": 0.25}
    unreadable = {"gpu_busy": "NVML: Not Supported"}
    assert device == without_field(parts | {"gpu_busy": None, "unreadable": unreadable})


def test_a_replica_without_gpu_learns_whether_there_is_a_driver(
    fake_nvml: Path, broken_nvml: Path
) -> None:
    script = 'gpu = Gpu(AssignedGpu(missing="none")); show([read(gpu, 0.0), read(gpu, 99.0)])'
    device, again = run(fake_nvml, script)
    assert device["unreadable"] == dict.fromkeys(GPU_FIELDS, "none (NVML works)")
    assert again == device
    device, _ = run(broken_nvml, script)
    assert device["unreadable"]["gpu_busy"] == "none (NVML Shared Library Not Found)"


# A driver that goes, and comes back.


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (["UTILIZATION"], 15),  # GPU_IS_LOST, from any one call
        (["GPM_SAMPLE"], 15),
        (["PROCESSES"], 9),  # DRIVER_NOT_LOADED
        (["CLOCK"], 18),  # LIB_RM_VERSION_MISMATCH: another driver was installed
        ([call for call in CALLS if call not in ("INIT", "HANDLE", "SHUTDOWN")], 999),  # UNKNOWN
    ],
)
def test_a_lost_gpu_is_found_again_with_back_off(
    fake_nvml: Path, failing: list[str], code: int
) -> None:
    script = f"""
gpu, seen = Gpu(FAKE), []
def busy(now_s):
    seen.append(gpu.read(now_s).gpu_busy)
busy(0.0)
say(**{{call + "_CODE": {code} for call in {failing}}}, SHUTDOWN_CODE=15, HANDLE_CODE=6)
busy(1.0)   # lost: next try at 2
busy(2.0)   # still lost: next try at 4
say(**{{call + "_CODE": 0 for call in {failing}}}, SHUTDOWN_CODE=0, HANDLE_CODE=0)
busy(3.9)   # back, but not asked
busy(4.0)
say(UTILIZATION_CODE=1, HANDLE_CODE=6)
busy(5.0)   # the delay started over: next try at 6
say(UTILIZATION_CODE=0, HANDLE_CODE=0)
busy(6.0)
show(seen)
"""
    assert run(fake_nvml, script) == [0.37, None, None, None, 0.37, None, 0.37]


def test_without_a_library_it_is_sought_at_most_once_a_minute(broken_nvml: Path) -> None:
    script = """
gpu = Gpu(FAKE)
tried, opened = [], gpu._open
def counting_open():
    tried.append(now_s)
    return opened()
gpu._open = counting_open
for now_s in range(200):
    last = read(gpu, now_s)
show([tried, last])
"""
    tried, device = run(broken_nvml, script)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    why = "NVMLError_LibraryNotFound: NVML Shared Library Not Found"
    assert device.pop("unreadable") == dict.fromkeys(GPU_FIELDS, why)
    assert set(device.values()) == {None}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (9, "NVMLError_DriverNotLoaded: Driver Not Loaded"),
        (4, "NVMLError_NoPermission: Insufficient Permissions"),
        (
            18,
            "NVMLError_LibRmVersionMismatch: RM has detected an NVML/RM version mismatch.",
        ),
    ],
)
def test_a_driver_that_refuses_is_a_reason_and_asked_again(
    fake_nvml: Path, code: int, why: str
) -> None:
    script = """
gpu = Gpu(FAKE)
refused = read(gpu, 0.0)
say(INIT_CODE=0)
show([refused, gpu.read(0.9).gpu_busy, gpu.read(1.0).gpu_busy])
"""
    device, early, late = run(fake_nvml, script, INIT_CODE=code)
    assert device["unreadable"] == dict.fromkeys(GPU_FIELDS, why)
    assert (device["gpu_busy"], early, late) == (None, None, 0.37)


# A call that does not return.


def test_a_stuck_call_does_not_hold_the_reader(fake_nvml: Path, tmp_path: Path) -> None:
    script = """
reader = DeviceReader(FAKE)
seen = []
def note(device):
    seen.append([device.gpu_busy, device.unreadable.get("gpu_busy")])
note(reader.read(0.0))                                   # asks
note(poll(reader, 0.0, lambda device: device.gpu_busy is not None))
reader._idle.wait()
say(HANG="POWER", UTILIZATION=90)
note(reader.read(1.0))                                   # asks, and has the first answer
pipe = os.open(told["PIPE"], os.O_WRONLY)                # returns when the call hangs
note(reader.read(1.9))
note(reader.read(2.1))
for n in range(100):
    device = reader.read(8.0)
note(device)
assert len([thread for thread in threading.enumerate() if thread.name == "nvml"]) == 1
assert {value for name, value in asdict(device).items() if name.startswith("gpu_")} == {None}
say(HANG="none")
os.close(pipe)                                           # the call returns, too old to be believed
note(poll(reader, 8.0, lambda device: device.gpu_busy is not None))
reader.close()
show(seen)
"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run(fake_nvml, script, PIPE=str(pipe), HANG="none") == [
        [None, "not read yet"],
        [0.37, None],
        [0.37, None],
        [0.37, None],
        [None, "NVML call stuck for 1.1 s"],
        [None, "NVML call stuck for 7.0 s"],
        [0.9, None],
    ]


def test_a_stuck_call_does_not_keep_the_process_alive(fake_nvml: Path, tmp_path: Path) -> None:
    script = """
reader = DeviceReader(FAKE)
reader.read(0.0)
pipe = os.open(told["PIPE"], os.O_WRONLY)
reader.close()
show("left")
"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run(fake_nvml, script, PIPE=str(pipe), HANG="INIT") == "left"


def test_a_caller_that_comes_seldom_is_not_told_of_a_stuck_call(fake_nvml: Path) -> None:
    script = """
reader = DeviceReader(FAKE)
poll(reader, 0.0, lambda device: device.gpu_busy is not None)
reader._idle.wait()
show(reader.read(60.0).unreadable["gpu_busy"])
"""
    assert run(fake_nvml, script) == "not read yet"


# The host.


def test_host_cpu_is_a_share_from_the_second_reading_on() -> None:
    reader = DeviceReader(None)
    device = reader.read(0.0)
    assert device.host_cpu_busy is None
    first = "nothing to compare the first reading with"
    assert device.unreadable["host_cpu_busy"] == first
    device = reader.read(0.2)
    assert device.host_cpu_busy is not None and 0 <= device.host_cpu_busy <= 1
    assert "host_cpu_busy" not in device.unreadable
    reader.close()


def test_an_unreadable_host_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(interval: float | None) -> float:
        raise OSError("no /proc here")

    monkeypatch.setattr(psutil, "cpu_percent", refuse)
    reader = DeviceReader(None)
    device = reader.read(0.0)
    assert device.host_cpu_busy is None
    assert device.unreadable["host_cpu_busy"] == "psutil: no /proc here"
    reader.close()
