"""Runs a command as an operator would, in this process."""

from typer.testing import CliRunner, Result

from commands.main import app


def invoked(command: str, options: dict[str, object]) -> Result:
    arguments = [str(part) for option in options.items() for part in option]
    return CliRunner().invoke(app, [command, *arguments])


def refused(command: str, options: dict[str, object]) -> str:
    """The one line that a mistake is answered with."""
    result = invoked(command, options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line
