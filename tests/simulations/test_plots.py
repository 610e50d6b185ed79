"""The picture is a PNG of the expected size, drawn whatever the arms lack."""

import struct
from pathlib import Path

from simulations.plots import Arm, Frame, draw
from simulations.results import Record
from simulations.timeline import Tick
from simulations.traces import Request

FRAME = Frame(
    requests=tuple(Request(number / 4, 100, 10) for number in range(80)),
    duration_s=20.0,
    capacity_full_rps=2.0,
    capacity_floor_rps=6.0,
    ttft_slos_s={"objective": 1.0},
    full_k=8,
)


def record(index: int, ttft_s: float | None) -> Record:
    return Record(
        index=index,
        scheduled_s=index / 4,
        lateness_s=0.0,
        input_tokens=100,
        output_tokens=10,
        ttft_s=ttft_s,
        tpot_s=0.05,
        e2e_s=1.0,
        status="failed" if ttft_s is None else "completed",
        error=None,
        quality=1.0,
        mean_k=8.0,
        epoch=1,
    )


def arm(name: str, k: float) -> Arm:
    """Twenty seconds at one k', the queue unknown in the first."""
    ticks = [Tick(at_s, k, 1, None if at_s < 1 else at_s, "") for at_s in range(20)]
    return Arm(name, [record(index, 0.1 * k) for index in range(80)], ticks)


def drawn(folder: Path, *arms: Arm) -> bytes:
    draw(FRAME, arms, folder / "picture.png")
    return (folder / "picture.png").read_bytes()


def test_draws_a_png_of_eleven_hundred_pixels_square(tmp_path: Path) -> None:
    picture = drawn(tmp_path, arm("static-full", 8), arm("kprime", 2))
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (1100, 1100)
    assert 20_000 < len(picture) < 500_000


def test_other_figures_give_another_picture(tmp_path: Path) -> None:
    picture = drawn(tmp_path, arm("static-full", 8), arm("kprime", 2))
    assert picture != drawn(tmp_path, arm("static-full", 8), arm("kprime", 3))


def test_an_arm_of_which_nothing_is_known_is_drawn_empty(tmp_path: Path) -> None:
    silent = Arm("silent", [record(0, None)], [])
    assert len(drawn(tmp_path, silent, arm("kprime", 2))) > 20_000
    assert len(drawn(tmp_path, silent, silent)) > 20_000
