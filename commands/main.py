"""The `kprime` console script: every command under its name."""

import typer

from commands.calibrate import calibrate
from commands.check import check
from commands.demo import demo
from commands.evaluate import evaluate
from commands.inspection import inspect
from commands.load import load
from commands.policy import policy_app
from commands.profiles import profile
from commands.replay import replay
from commands.serve import serve
from commands.simulate import simulate
from commands.status import status
from commands.train import train

app = typer.Typer(
    name="kprime",
    help="Serve an elastic MoE model and hold its SLO by turning k', the experts per token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    demo,
    serve,
    status,
    check,
    inspect,
    load,
    simulate,
    replay,
    evaluate,
    calibrate,
    profile,
    train,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(policy_app, name="policy")

if __name__ == "__main__":
    app()
