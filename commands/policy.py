"""`kprime policy apply`: another SLO policy for the running server, with no restart."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from commands.exits import FAILED, bad_input, stop
from commands.server import DEFAULT_URL, ask, check_url, status_of
from commands.status import table_of

FOLLOWED_WITHIN_S = 10.0
POLL_S = 0.1

policy_app = typer.Typer(help="The SLO policy of the running server.", no_args_is_help=True)


@policy_app.callback()
def _group() -> None:
    """Keeps `apply` a command of its own: typer folds a group of one into it."""


@policy_app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="SLO policy (.yaml)")],
    url: Annotated[str, typer.Option(help="The running server")] = DEFAULT_URL,
) -> None:
    """Change the running SLO policy; requests in flight go on. Refused if it is invalid.

    It lasts until the next `serve deploy` that changes the policy of serve.yaml; put it there as
    well if it should stay. Applying the deployed policy takes an applied one back.

    Exit status: 0 when all replicas follow, 1 when the server cannot be asked or a replica does
    not follow, 2 when the policy is refused.

    Example: kprime policy apply policies/interactive.yaml --url http://127.0.0.1:8000
    """
    from controller.policy_file import load_policy

    url = check_url(url)
    with bad_input():
        slo_policy = load_policy(file)
    document = slo_policy.model_dump(mode="json")
    answer = ask(url, "PUT", "/kprime/policy", document, f"{file}: refused by {url}")
    status = _followed(url, answer.get("edition") or 0)
    console = Console()
    console.print(f"in force at {url}, edition {answer.get('edition')}: {file}", highlight=False)
    console.print(table_of(status))


def _followed(url: str, edition: int) -> dict[str, Any]:
    """The status once every replica heard of follows that edition or a later one, which decides."""
    deadline_s = time.monotonic() + FOLLOWED_WITHIN_S
    while True:
        status = status_of(url)
        editions = status.get("replica_editions", {})
        if editions and min(editions.values()) >= edition and status["budget"]:
            return status
        if time.monotonic() > deadline_s:
            late = ", ".join(name for name, each in editions.items() if each < edition) or "all"
            stop(
                f"{url}: the policy is in force, but after {FOLLOWED_WITHIN_S:g} s these replicas "
                f"do not follow it: {late}",
                FAILED,
            )
        time.sleep(POLL_S)
