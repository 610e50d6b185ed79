"""`kprime check`: are these SLO policies and profiles valid? Needs nothing running.

Takes files; prints one line for each valid one and one for each problem. What makes a file valid is
known to `controller.policy_file` and `controller.profiles`, not here.
"""

from pathlib import Path
from typing import Annotated

import typer


def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="SLO policies (.yaml, .yml) and calibrated profiles (.json)"
        ),
    ],
) -> None:
    """Validate SLO policy files and profiles, listing every problem as file:line: key: message.

    Exit status: 0 when all are valid, otherwise 2.

    Example: kprime check policies/*.yaml checkpoints/NAME/profile.json
    """
    complaints = {file: _complaint(file) for file in files}
    for file, complaint in complaints.items():
        typer.echo(complaint or f"{file}: ok", err=bool(complaint))
    if any(complaints.values()):
        raise typer.Exit(2)


def _complaint(file: Path) -> str:
    """Every problem of one file, one a line; empty when it is valid."""
    # Imported here: starting any other command should not pay for pydantic and yaml.
    from controller.policy_file import load_policy

    try:
        match file.suffix:
            case ".yaml" | ".yml":
                load_policy(file)
            case ".json":
                from controller.profiles import load_profile

                load_profile(file)
            case _:
                return f"{file}:1: should be .yaml or .yml (SLO policy) or .json (profile)"
    except ValueError as error:  # PolicyError, ProfileError
        message = str(error)
        return message if message.startswith(str(file)) else f"{file}:1: {message}"
    return ""
