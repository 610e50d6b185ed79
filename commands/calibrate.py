"""`kprime calibrate`: measures a checkpoint on this machine and writes its profile."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commands.exits import bad_input, check_outputs, parse_ks, read_text

WINDOW_TOKENS = 512


def calibrate(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder")],
    out: Annotated[Path, typer.Option(help="Profile to write")],
    text: Annotated[
        Path | None, typer.Option(help="Held-out UTF-8 text; default validation.txt beside it")
    ] = None,
    k: Annotated[str, typer.Option(help="k' to measure, comma-separated")] = "1,2,3,4,5,6,8,10,12",
    windows: Annotated[int, typer.Option(min=2, help="Windows of 512 tokens per k'")] = 96,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of step timing per k'")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads, as a replica has")] = 1,
    max_batch_tokens: Annotated[
        int, typer.Option(min=32, help="Largest step, also when served")
    ] = 160,
) -> None:
    """Measure step time and quality at each k', fit the cost model, write the profile.

    Example: kprime calibrate --checkpoint checkpoints/prose-52m
    --out checkpoints/prose-52m/profile.json
    """
    import torch

    from runtime.calibrate import calibrate as measure
    from runtime.calibrate import write_profile
    from runtime.checkpoint import load_checkpoint
    from runtime.evaluate import cut_windows, read_documents

    torch.set_num_threads(threads)
    ks = parse_ks("--k", k)
    check_outputs({"--out": out})
    with bad_input("--checkpoint"):
        loaded = load_checkpoint(checkpoint)
    with bad_input("--k"):
        for each in ks:
            loaded.dial.check([each] * len(loaded.dial.layers))
    held_out = read_text("--text", text or checkpoint / "validation.txt")
    with bad_input("--text"):
        cut = cut_windows(read_documents(loaded, held_out), WINDOW_TOKENS, windows)
    with Progress(console=Console(stderr=True)) as progress, bad_input("--k"):
        tasks = {
            "quality": progress.add_task("quality", total=len(ks)),
            "step time": progress.add_task("step time", total=len(ks) * repeats),
        }
        profile = measure(
            loaded,
            cut,
            ks,
            max_batch_tokens=max_batch_tokens,
            repeats=repeats,
            threads=threads,
            on_progress=lambda stage: progress.advance(tasks[stage]),
        )
    write_profile(profile, out)
    table = Table(
        "k'", "NLL", "quality", "95 % interval", "full prefill step, ms", "decode of 8, ms"
    )
    for rung in profile.rungs:
        table.add_row(
            f"{rung.mean_k:g}",
            f"{rung.nll:.4f}",
            f"{rung.quality:.4f}",
            f"{rung.quality_low:.4f} .. {rung.quality_high:.4f}",
            f"{1000 * rung.cost.step_s(max_batch_tokens, 0):.1f}",
            f"{1000 * rung.cost.step_s(0, 8):.1f}",
        )
    Console().print(table)
    Console().print(
        f"headroom: prefill {profile.headroom.prefill:.2f}, decode {profile.headroom.decode:.2f}; "
        f"step time off by {profile.fit.mape_held_out:.1%} on points not fitted"
    )
