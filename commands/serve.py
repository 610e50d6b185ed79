"""`kprime serve`: the application of serve.yaml on a local Ray, in the foreground."""

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.exits import FAILED, bad_input, clean_up_on_signals, stop
from commands.here import profile_here

SERVE_YAML = Path("serve.yaml")


def serve(
    policy_file: Annotated[
        Path | None, typer.Option(help="SLO policy; default serve.yaml's")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Its profile; default profile.json in it")
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Number of replicas")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port on loopback")] = 8000,
) -> None:
    """Serve until interrupted; then leave no process behind.

    Example: kprime serve --policy-file policies/interactive.yaml --replicas 2
    """
    from controller.policy_file import load_policy
    from runtime.checkpoint import check_checkpoint
    from runtime.cluster import DeployError, LocalCluster
    from runtime.deployment import configure, read_serve_yaml

    console = Console()
    with bad_input():
        config = read_serve_yaml(SERVE_YAML)
        checkpoint = checkpoint or Path(config["applications"][0]["args"]["checkpoint"])
        check_checkpoint(checkpoint)
        config = configure(
            config,
            slo_policy=load_policy(policy_file) if policy_file else None,
            checkpoint=checkpoint,
            profile=profile_here(console, checkpoint, profile or checkpoint / "profile.json"),
            replicas=replicas,
        )
        cluster = LocalCluster(config, port=port)
    try:
        with console.status("starting replicas"):
            cluster.start()
        clean_up_on_signals()
        console.print(
            f"serving at {cluster.url}/v1, status at {cluster.url}/kprime/status; Ctrl-C ends"
        )
        signal.pause()
    except DeployError as error:
        stop(str(error), FAILED)
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        cluster.stop()
