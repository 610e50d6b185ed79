"""`kprime profile`: a profile as tables, and as a page with plots."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from commands.exits import bad_input, check_outputs
from commands.profile_tables import facts, show_profile, tables

if TYPE_CHECKING:
    from controller.profiles import Profile


def profile(
    file: Annotated[Path, typer.Argument(metavar="PROFILE", help="Made by kprime calibrate")],
    html: Annotated[Path | None, typer.Option(help="Page to write, with plots")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="The same facts")] = None,
) -> None:
    """Show a profile: the ladder, headroom, how good the fit is, what layers lose.

    Example: kprime profile checkpoints/prose-52m/profile.json --html profile.html
    """
    from controller.profiles import load_profile

    check_outputs({"--html": html, "--json": json_file})
    with bad_input():
        read = load_profile(file)
    show_profile(Console(), read)
    if html:
        _write_html(html, file, read)
    if json_file:
        json_file.write_text(read.model_dump_json(indent=1) + "\n")


def _write_html(html: Path, file: Path, profile: "Profile") -> None:
    from simulations.html_report import Picture, write_page
    from simulations.profile_plots import draw

    rungs, headroom = profile.rungs, profile.headroom
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "profile.png"
        draw(profile, picture)
        ladder, *others = tables(profile)
        write_page(
            html,
            title=f"Profile of {file.resolve().parent.name}",
            summary=f"{len(rungs)} rungs from k' = {rungs[0].mean_k:g} to {rungs[-1].mean_k:g}; "
            f"the cheapest keeps {rungs[0].quality:.3f} of full k' ({profile.full_k}) at "
            f"{headroom.prefill:.2f} times its speed in prefill, {headroom.decode:.2f} in decode.",
            parts=[
                ladder,
                Picture(picture, "The ladder, headroom, losses of layers and decode steps"),
                *others,
            ],
            facts=facts(profile),
        )
