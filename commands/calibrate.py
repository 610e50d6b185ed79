"""`kprime calibrate`: measures a checkpoint on this machine and writes its profile."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commands.exits import BAD_INPUT, FAILED, bad_input, check_outputs, parse_ks, read_text, stop
from commands.profile_tables import show_profile

if TYPE_CHECKING:
    from controller.profiles import Profile
    from runtime.checkpoint import Checkpoint

WINDOW_TOKENS = 512
CHOOSING_EVERY = 3  # windows: one chooses plans, the others measure them


def calibrate(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder")],
    out: Annotated[Path, typer.Option(help="Profile to write")],
    text: Annotated[
        Path | None, typer.Option(help="Held-out UTF-8 text; default validation.txt beside it")
    ] = None,
    k: Annotated[str, typer.Option(help="k' to measure, comma-separated")] = "1,2,3,4,5,6,8,10,12",
    windows: Annotated[
        int, typer.Option(min=6, help="Windows of 512 tokens; a third choose plans, two measure")
    ] = 144,
    repeats: Annotated[int, typer.Option(min=2, help="Rounds of step timing")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads, as a replica has")] = 1,
    max_batch_tokens: Annotated[
        int, typer.Option(min=32, help="Largest step, also when served")
    ] = 160,
    noise_bound: Annotated[
        float, typer.Option(min=0.01, help="Widest interval of step times accepted, to either side")
    ] = 0.1,
    rescale: Annotated[
        Path | None,
        typer.Option(help="A profile of another machine: only step times are measured, for 20 s"),
    ] = None,
    engine: Annotated[str, typer.Option(help="transformers")] = "transformers",
) -> None:
    """Measure step time and quality, find the ladder of plans, write the profile.

    Interrupted, it goes on from OUT.partial when started again with the same options. On a machine
    too noisy to fit it writes nothing and exits with status 1.

    Example: kprime calibrate --checkpoint checkpoints/prose-52m
    --out checkpoints/prose-52m/profile.json
    """
    from controller.profiles import write_profile
    from runtime.calibrate import TooNoisyError
    from runtime.calibrate import calibrate as measure
    from runtime.checkpoint import checkpoint_sha256, load_checkpoint
    from runtime.evaluate import cut_windows, read_documents
    from runtime.ledger import Ledger
    from runtime.machine import this_machine
    from runtime.measurements import CHOOSING, MEASURING, Measurements

    if engine != "transformers":
        stop(f"--engine {engine}: accepted: transformers", BAD_INPUT)
    ks = sorted(set(parse_ks("--k", k)))
    check_outputs({"--out": out})
    with bad_input("--checkpoint"):
        loaded = load_checkpoint(checkpoint)
    with bad_input("--k"):
        for each in ks:
            loaded.dial.check([each] * len(loaded.dial.layers))
    held_out = read_text("--text", text or checkpoint / "validation.txt")
    if rescale is not None:
        with bad_input("--rescale"):
            profile = rescaled(loaded, rescale, held_out, threads)
        write_profile(profile, out)
        show_profile(Console(), profile)
        return
    with bad_input("--text"):
        cut = cut_windows(read_documents(loaded, held_out), WINDOW_TOKENS, windows)
        choosing, measuring = cut.split(CHOOSING_EVERY)
    settings = {
        "checkpoint_sha256": checkpoint_sha256(checkpoint),
        "text_sha256": hashlib.sha256(held_out.encode()).hexdigest(),
        "k": ks,
        "windows": windows,
        "repeats": repeats,
        "max_batch_tokens": max_batch_tokens,
        "machine": this_machine(loaded.model.dtype, threads).model_dump(),
    }
    console = Console(stderr=True)
    with bad_input():
        ledger = Ledger(out.with_name(out.name + ".partial"), settings)
    if ledger.resumed:
        console.print(f"going on from {ledger.resumed} measurements of an interrupted run")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress, bad_input("--k"):
        measured = Measurements(
            loaded,
            {CHOOSING: choosing, MEASURING: measuring},
            ledger,
            threads=threads,
            max_batch_tokens=max_batch_tokens,
            on_stage=Stages(progress),
        )
        try:
            profile = measure(measured, ks, repeats=repeats, noise_bound=noise_bound)
        except TooNoisyError as error:
            progress.stop()
            stop(f"{error}; run again when it is quiet, or with a larger --noise-bound", FAILED)
    write_profile(profile, out)
    ledger.close()
    show_profile(Console(), profile)


def rescaled(checkpoint: "Checkpoint", file: Path, text: str, threads: int) -> "Profile":
    """The profile in `file` with step times of this machine."""
    import torch

    from runtime.checkpoint import load_profile_of
    from runtime.rescale import rescale

    torch.set_num_threads(threads)
    ids = checkpoint.tokenizer(text)["input_ids"]
    return rescale(load_profile_of(checkpoint.folder, file), checkpoint, ids, threads)


class Stages:
    """A bar for each stage, from when it begins."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, stage: str, total: int) -> Callable[[], None]:
        """Gives what is to be called at each of the stage's `total` measurements."""
        task = self._progress.add_task(stage, total=total)
        return lambda: self._progress.advance(task)
