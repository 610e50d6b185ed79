"""The `kprime` console script: every command under its name."""

import typer

from commands.calibrate import calibrate
from commands.check import check
from commands.demo import demo
from commands.evaluate import evaluate
from commands.inspection import inspect
from commands.load import load
from commands.profiles import profile
from commands.serve import serve
from commands.train import train

app = typer.Typer(
    name="kprime",
    help="Serve an elastic MoE model and hold its SLO by turning k', the experts per token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, serve, check, inspect, load, evaluate, calibrate, profile, train):
    app.command()(command)

if __name__ == "__main__":
    app()
