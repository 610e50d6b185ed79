"""`kprime simulate`: replays a trace in virtual time under several arms, and says which is best.

Takes the options; gives a table, and files when asked. The work is in `simulations`; this module
only checks what the operator wrote and shows what came out.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commands.exits import BAD_INPUT, FAILED, bad_input, check_outputs, clean_up_on_signals, stop
from commands.schedules import (
    CONTEXT_TOKENS,
    Context,
    Duration,
    Start,
    TraceOrLoad,
    at_rate,
    describe,
    mix_of,
)
from simulations.mix import Mix, require_known, with_classes
from simulations.schedule import Requests, cut, fit_lengths, mean_lengths
from simulations.synthetic import read_load
from simulations.traces import Trace

if TYPE_CHECKING:
    from controller.profiles import Profile
    from simulations.runner import OnDone
    from simulations.settings import Settings
    from simulations.study import ArmRun, Scenario

PROFILE = Path("checkpoints/prose-52m/profile.json")
POLICY_FILE = Path("policies/interactive.yaml")
ARMS = "static-full,best-static,predictive,oracle"


@dataclass(frozen=True)
class Replay:
    """What is made of the trace, for every seed alike."""

    trace: str
    start_s: float
    duration_s: float | None
    context_tokens: int
    load: float | None  # of the capacity of `replicas` at full k'
    rate_rps: float | None
    profile: "Profile"
    replicas: int
    mix: Mix | None

    def by_seed(self, seeds: range) -> dict[int, tuple[Trace, Requests, float]]:
        """What was read, the schedule, and by what its lengths were scaled. A named load is drawn
        anew by every seed.
        """
        with bad_input("--trace"):
            file = read_load(self.trace) if os.path.exists(self.trace) else None
            reads = {seed: file or read_load(self.trace, seed) for seed in seeds}
        return {seed: (read, *self._schedule(read, seed)) for seed, read in reads.items()}

    def _schedule(self, read: Trace, seed: int) -> tuple[Requests, float]:
        """That which `kprime load` sends with the same seed."""
        from simulations.rates import full_rate

        with bad_input("--start, --duration"):
            requests = cut(read, self.start_s, self.duration_s)
        with bad_input("--context"):
            requests, length_factor = fit_lengths(requests, self.context_tokens)
        rate_rps = self.rate_rps
        if self.load is not None:
            rate_rps = self.load * full_rate(self.profile, *mean_lengths(requests), self.replicas)
        if rate_rps is not None:
            requests = at_rate(requests, read, self.start_s, self.duration_s, rate_rps, seed)
        if self.mix:
            requests = with_classes(requests, self.mix, seed)
        return requests, length_factor


def simulate(
    trace: TraceOrLoad,
    profile: Annotated[Path, typer.Option(help="Step times and qualities")] = PROFILE,
    policy_file: Annotated[
        Path, typer.Option(help="SLO policy; its policy.name is each arm's own")
    ] = POLICY_FILE,
    start: Start = 0.0,
    duration: Duration = None,
    load: Annotated[
        float | None,
        typer.Option(min=0.01, help="Rate as a share of capacity at full k'; default the trace's"),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Mean requests/s; default the trace's")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="At the start")] = 2,
    min_replicas: Annotated[
        int | None, typer.Option(help="The fewest; default their number stays")
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="The most; default their number stays")
    ] = None,
    arms: Annotated[
        str, typer.Option(help="Comma-separated, or all; all are in the README")
    ] = ARMS,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every arm, seeds from 0 up")] = 5,
    slo_class: Annotated[
        str | None, typer.Option(help="NAME, or shares such as premium=0.3,batch=0.7")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="slow:factor=1.3, silent:from=10,until=20 or lost:at=30,replica=1; repeatable"
        ),
    ] = None,
    context: Context = CONTEXT_TOKENS,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Default one for each processor")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Figures to write")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Report to write, its pictures beside it")
    ] = None,
    requests_file: Annotated[
        Path | None, typer.Option("--requests", help="One JSON line a request to write")
    ] = None,
) -> None:
    """Replay a trace in virtual time under several arms: same load, same draws, other k'.

    Example: kprime simulate --trace traces/azure_llm_2023_code.csv --start 840 --duration 120
    --load 0.6 --arms static-full,best-static,predictive,oracle --seeds 5 --json simulate.json

    Regret needs both best-static and oracle among the arms. A seed has the schedule that kprime
    load sends with it.
    """
    from commands.simulate_report import MIN_WIDTH, show, summary
    from controller.policy_file import load_policy
    from controller.profiles import load_profile
    from simulations.arms import arm_names, parse_arms, simulated_arms
    from simulations.runner import run
    from simulations.study import Scenario

    console = Console()
    if not console.is_terminal:
        console.width = MIN_WIDTH
    check_outputs({"--json": json_file, "--html": html_file, "--requests": requests_file})
    if load is not None and rate is not None:
        stop("--load and --rate both set the rate: give one", BAD_INPUT)
    settings = _settings(replicas, min_replicas, max_replicas, fault or [])
    mix = mix_of(slo_class)
    with bad_input("--policy-file"):
        slo_policy = load_policy(policy_file)
    with bad_input("--profile"):
        served = load_profile(profile)
    with bad_input(f"--policy-file {policy_file}, --profile {profile}"):
        accepted = arm_names(simulated_arms(slo_policy, served))
    with bad_input("--arms"):
        names = parse_arms(arms, accepted)
    with bad_input("--slo-class"):
        require_known(mix or {}, slo_policy.slo_classes)
    replay = Replay(trace, start, duration, context, load, rate, served, replicas, mix)
    made = replay.by_seed(range(seeds))
    read, first, length_factor = made[0]
    describe(console, read, first, length_factor)
    schedules = {seed: requests for seed, (_, requests, _) in made.items()}
    scenario = Scenario(read.name, load, schedules, slo_policy, served, settings)
    load_text = _load_text(scenario, length_factor)
    console.print(load_text)
    clean_up_on_signals()  # or the workers of a killed command would go on
    try:
        with _bar(console) as progress, _writer(requests_file) as write:
            bar = progress.add_task("runs", total=None)
            study = run(
                scenario,
                names,
                processes or os.cpu_count() or 1,
                on_done=write,
                on_step=lambda done, runs: progress.update(bar, completed=done, total=runs),
                every_outcome=requests_file is not None,
            )
    except KeyboardInterrupt:
        stop("interrupted", FAILED)
    figures = summary(study)
    show(console, study, figures)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if html_file:
        from simulations.study_report import write_report

        write_report(study, html_file, load_text)


def _settings(
    replicas: int, min_replicas: int | None, max_replicas: int | None, faults: list[str]
) -> "Settings":
    from simulations.fault_forms import parse_fault
    from simulations.settings import Settings

    with bad_input("--fault"):
        parsed = tuple(parse_fault(text) for text in faults)
    with bad_input("--replicas, --min-replicas, --max-replicas, --fault"):
        return Settings(
            replicas=replicas, min_replicas=min_replicas, max_replicas=max_replicas, faults=parsed
        )


def _load_text(scenario: "Scenario", length_factor: float) -> str:
    """How heavy the first seed's load is."""
    from commands.simulate_report import headroom
    from simulations.rates import full_rate

    requests = next(iter(scenario.schedules.values()))
    rate_rps = len(requests) / max(requests[-1].arrival_s, 1.0)
    replicas = scenario.settings.replicas
    full_rps = full_rate(scenario.profile, *mean_lengths(requests), replicas)
    return (
        f"offered: {rate_rps:.2f} requests/s, {rate_rps / full_rps:.2f} of the capacity at full k' "
        f"of {replicas} replicas; the floor has {headroom(scenario):.2f} times that capacity; "
        f"lengths scaled by {length_factor:.4g}"
    )


def _bar(console: Console) -> Progress:
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, refresh_per_second=2)


@contextmanager
def _writer(file: Path | None) -> "Iterator[OnDone | None]":
    """What writes the records of an arm's run; None: nowhere."""
    if file is None:
        yield None
        return
    with file.open("w", encoding="utf-8") as lines:

        def write(arm: str, run: "ArmRun") -> None:
            for record in run.outcome.records if run.outcome else ():
                row = {"arm": arm, "seed": run.seed, **asdict(record)}
                lines.write(json.dumps(row) + "\n")

        yield write
