"""`kprime calibrate`: measures a checkpoint on this machine and writes its profile."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commands.exits import bad_input, check_outputs, parse_ks, read_text
from controller.profiles import Profile

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
    from runtime.sensitivity import num_plans

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
        choosing, measuring = cut.split(CHOOSING_EVERY)
    with Progress(console=Console(stderr=True)) as progress, bad_input("--k"):
        tasks = {
            "layers": progress.add_task("layers", total=num_plans(len(loaded.dial.layers), ks)),
            "quality": progress.add_task("quality", total=2 * len(ks)),
            "step time": progress.add_task("step time", total=len(ks) * repeats),
        }
        profile = measure(
            loaded,
            choosing,
            measuring,
            ks,
            max_batch_tokens=max_batch_tokens,
            repeats=repeats,
            threads=threads,
            on_progress=lambda stage: progress.advance(tasks[stage]),
        )
    write_profile(profile, out)
    _show(profile)


def _show(profile: Profile) -> None:
    table = Table(
        "k'", "NLL", "quality", "95 % interval", "full prefill step, ms", "decode of 8, ms"
    )
    for rung in profile.rungs:
        table.add_row(
            f"{rung.mean_k:g}",
            f"{rung.nll:.4f}",
            f"{rung.quality:.4f}",
            f"{rung.quality_low:.4f} .. {rung.quality_high:.4f}",
            f"{1000 * rung.cost.step_s(profile.max_batch_tokens, 0):.1f}",
            f"{1000 * rung.cost.step_s(0, 8):.1f}",
        )
    console = Console()
    console.print(table)
    for rung in profile.rungs:
        if (over := rung.over_uniform) is not None:
            console.print(
                f"k' = {rung.mean_k:g} by layer: {' '.join(map(str, rung.plan))}; nats per token "
                f"over uniform: {over.mean:+.4f} ({over.low:+.4f} .. {over.high:+.4f})"
            )
    console.print("The other rungs are uniform: no plan by layer is significantly better there.")
    console.print(
        f"headroom: prefill {profile.headroom.prefill:.2f}, decode {profile.headroom.decode:.2f}; "
        f"step time off by {profile.fit.mape_held_out:.1%} on points not fitted"
    )
