"""The device reader through the real pynvml, against an NVML library compiled here.

pynvml loads its library by name and once a process, so each case is a script in its own process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from controller.metrics import DeviceReader

HERE = Path(__file__).parent

HEALTHY = {
    "FAKE_NVML_UTILIZATION": "37",
    "FAKE_NVML_MEMORY_TOTAL": "1000",
    "FAKE_NVML_MEMORY_USED": "250",
    "FAKE_NVML_POWER_MW": "71500",
    "FAKE_NVML_EVENT_REASONS": "1",  # idle: no slowdown
}

# `os.environ` writes through to the C library's environment, where the fake looks.
PRELUDE = """
import json, os
from dataclasses import asdict
from controller.metrics import DeviceReader, Gpu

def say(**settings):
    os.environ.update({"FAKE_NVML_" + name: str(value) for name, value in settings.items()})

def read(gpu, now_s):
    reading = gpu.read(now_s)
    return [asdict(reading.device), reading.reasons]

def poll(reader, now_s, accept):
    while not accept(device := reader.read(now_s)):
        pass
    return device
"""


@pytest.fixture(scope="module")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    source = HERE / "fake_nvml.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@pytest.fixture
def broken_nvml(tmp_path: Path) -> Path:
    """Hides the library of a host that has one: the loader stops at a file it cannot load."""
    (tmp_path / "libnvidia-ml.so.1").touch()
    return tmp_path


def run(library: Path, script: str, **settings: str) -> Any:  # noqa: ANN401  (whatever it prints)
    environment = os.environ | HEALTHY | settings
    environment |= {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_busy_gpu_is_read_in_shares_and_watts(fake_nvml: Path) -> None:
    device, reasons = run(fake_nvml, 'print(json.dumps(read(Gpu("GPU-fake"), 0.0)))')
    assert device == {
        "gpu_busy": 0.37,
        "gpu_memory_used": 0.25,
        "gpu_power_w": 71.5,
        "gpu_throttled": False,
        "host_cpu_busy": None,
    }
    assert reasons == {}


@pytest.mark.parametrize("bit", [0x04, 0x08, 0x20, 0x40, 0x80])
def test_each_slowdown_counts_as_throttled(fake_nvml: Path, bit: int) -> None:
    script = 'print(json.dumps(read(Gpu("GPU-fake"), 0.0)))'
    device, _ = run(fake_nvml, script, FAKE_NVML_EVENT_REASONS=str(bit | 0x01))
    assert device["gpu_throttled"] is True


def test_an_older_driver_is_asked_for_its_throttle_reasons(fake_nvml: Path) -> None:
    device, _ = run(
        fake_nvml,
        'print(json.dumps(read(Gpu("GPU-fake"), 0.0)))',
        FAKE_NVML_EVENT_REASONS_CODE="13",  # FUNCTION_NOT_FOUND
        FAKE_NVML_THROTTLE_REASONS="64",
    )
    assert device["gpu_throttled"] is True


def test_unsupported_utilisation_leaves_the_other_fields(fake_nvml: Path) -> None:
    script = 'print(json.dumps(read(Gpu("GPU-fake"), 0.0)))'
    device, reasons = run(fake_nvml, script, FAKE_NVML_UTILIZATION_CODE="3")
    assert device["gpu_busy"] is None
    assert device["gpu_power_w"] == 71.5
    assert reasons == {"gpu_busy": "NVML: Not Supported"}


def test_a_value_that_is_no_share_is_none(fake_nvml: Path) -> None:
    settings = {"FAKE_NVML_UTILIZATION": "4294967295", "FAKE_NVML_MEMORY_TOTAL": "0"}
    script = 'print(json.dumps(read(Gpu("GPU-fake"), 0.0)))'
    device, reasons = run(fake_nvml, script, **settings)
    assert (device["gpu_busy"], device["gpu_memory_used"]) == (None, None)
    assert reasons["gpu_busy"] == "NVML: 4294967295 of 100 makes no sense"


def test_a_uuid_as_torch_prints_it_finds_the_gpu(fake_nvml: Path) -> None:
    device, _ = run(fake_nvml, 'print(json.dumps(read(Gpu("fake"), 0.0)))')
    assert device["gpu_busy"] == 0.37


def test_an_unknown_uuid_gives_nothing_and_says_so(fake_nvml: Path) -> None:
    device, reasons = run(fake_nvml, 'print(json.dumps(read(Gpu("MIG-other"), 0.0)))')
    assert set(device.values()) == {None}
    assert reasons["gpu_busy"] == "NVMLError_NotFound: Not Found"


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (["UTILIZATION"], 15),  # GPU_IS_LOST, from any one call
        (["UTILIZATION", "MEMORY", "POWER", "EVENT_REASONS"], 999),  # UNKNOWN, from all of them
    ],
)
def test_a_lost_gpu_is_found_again_with_back_off(
    fake_nvml: Path, failing: list[str], code: int
) -> None:
    script = f"""
gpu, seen = Gpu("GPU-fake"), []
def busy(now_s):
    seen.append(gpu.read(now_s).device.gpu_busy)
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
print(json.dumps(seen))
"""
    assert run(fake_nvml, script) == [0.37, None, None, None, 0.37, None, 0.37]


def test_without_a_library_it_is_sought_at_most_once_a_minute(broken_nvml: Path) -> None:
    script = """
gpu = Gpu("GPU-fake")
tried, opened = [], gpu._open
def counting_open():
    tried.append(now_s)
    return opened()
gpu._open = counting_open
for now_s in range(200):
    last = read(gpu, now_s)
print(json.dumps([tried, last]))
"""
    tried, (device, reasons) = run(broken_nvml, script)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert set(device.values()) == {None}
    why = "NVMLError_LibraryNotFound: NVML Shared Library Not Found"
    assert set(reasons) == {"gpu_busy", "gpu_memory_used", "gpu_power_w", "gpu_throttled"}
    assert set(reasons.values()) == {why}


def test_a_driver_that_is_not_loaded_is_a_reason_not_an_error(fake_nvml: Path) -> None:
    script = 'print(json.dumps(read(Gpu("GPU-fake"), 0.0)))'
    _, reasons = run(fake_nvml, script, FAKE_NVML_INIT_CODE="9")
    assert reasons["gpu_power_w"] == "NVMLError_DriverNotLoaded: Driver Not Loaded"


def test_a_replica_without_gpu_learns_whether_there_is_a_driver(
    fake_nvml: Path, broken_nvml: Path
) -> None:
    script = "gpu = Gpu(None); print(json.dumps([read(gpu, 0.0), read(gpu, 99.0)]))"
    (_, reasons), again = run(fake_nvml, script)
    assert reasons["gpu_busy"] == "no GPU assigned (NVML works)"
    assert again[1] == reasons
    (_, reasons), _ = run(broken_nvml, script)
    assert reasons["gpu_busy"] == "no GPU assigned (NVML Shared Library Not Found)"


def test_a_hanging_call_does_not_hold_the_reader(fake_nvml: Path, tmp_path: Path) -> None:
    script = """
reader = DeviceReader("GPU-fake")
seen = []
def note(device):
    seen.append([device.gpu_busy, reader.reasons.get("gpu_busy")])
note(poll(reader, 0.0, lambda device: device.gpu_busy is not None))
reader._idle.wait()
say(HANG="POWER", UTILIZATION=90)
note(reader.read(1.0))                                   # asks, and has the first answer
pipe = os.open(os.environ["FAKE_NVML_PIPE"], os.O_WRONLY)  # returns when the call hangs
note(reader.read(1.9))
note(reader.read(2.1))
note(reader.read(8.0))
say(HANG="")
os.close(pipe)                                           # the call returns, too old to be believed
note(poll(reader, 8.0, lambda device: device.gpu_busy is not None))
reader.close()
print(json.dumps(seen))
"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run(fake_nvml, script, FAKE_NVML_PIPE=str(pipe)) == [
        [0.37, None],
        [0.37, None],
        [0.37, None],
        [None, "NVML call has not returned for 1.1 s"],
        [None, "NVML call has not returned for 7.0 s"],
        [0.9, None],
    ]


def test_a_hanging_call_does_not_keep_the_process_alive(fake_nvml: Path, tmp_path: Path) -> None:
    script = """
reader = DeviceReader("GPU-fake")
reader.read(0.0)
pipe = os.open(os.environ["FAKE_NVML_PIPE"], os.O_WRONLY)
reader.close()
print(json.dumps("left"))
"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run(fake_nvml, script, FAKE_NVML_PIPE=str(pipe), FAKE_NVML_HANG="INIT") == "left"


def test_host_cpu_is_a_share_from_the_second_reading_on() -> None:
    reader = DeviceReader(None)
    assert reader.read(0.0).host_cpu_busy is None
    assert reader.reasons["host_cpu_busy"] == "nothing to compare the first reading with"
    busy = reader.read(0.2).host_cpu_busy
    assert busy is not None and 0 <= busy <= 1
    assert "host_cpu_busy" not in reader.reasons
    reader.close()


def test_an_unreadable_host_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(interval: float | None) -> float:
        raise OSError("no /proc here")

    monkeypatch.setattr(psutil, "cpu_percent", refuse)
    reader = DeviceReader(None)
    assert reader.read(0.0).host_cpu_busy is None
    assert reader.reasons["host_cpu_busy"] == "psutil: no /proc here"
    reader.close()
