"""`kprime demo`: one real burst, served twice: at full k', then under the controller.

Composes what others do: a local cluster, a trace's schedule, the load generator, the report.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commands.demo_report import PEAK_WINDOW_S, Run, report, result_of
from commands.exits import FAILED, bad_input, clean_up_on_signals, stop
from commands.here import profile_here
from controller.config import PolicyChoice, SloPolicy
from simulations.load import LoadError, capacity, replay
from simulations.prompts import Prompts
from simulations.schedule import Requests, cut, fit_lengths, peak_rps, scale_to_peak
from simulations.timeline import read_ticks
from simulations.traces import read_trace

if TYPE_CHECKING:
    from runtime.cluster import LocalCluster

CHECKPOINT = Path("checkpoints/prose-52m")
CONTEXT_TOKENS = 2048
PEAK_SHARE = 0.6  # where the peak lies between capacity at full k' (0) and at the floor (1)
CAPACITY_S, CAPACITY_CONCURRENCY = 15.0, 16
SETTLE_S = 2.0  # a new policy's first ticks
RECOVERY_S = 30.0  # watched after the last request
SEED = 1


def demo(
    trace: Annotated[Path, typer.Option(help="Trace")] = Path("traces/azure_llm_2023_code.csv"),
    start: Annotated[float, typer.Option(help="Seconds into the trace")] = 880.0,
    duration: Annotated[float, typer.Option(help="Seconds of the trace")] = 80.0,
    policy_file: Annotated[Path, typer.Option(help="SLO policy")] = Path(
        "policies/interactive.yaml"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port on loopback")] = 8000,
    json_file: Annotated[Path, typer.Option("--json", help="Figures")] = Path(
        "runs/demo/demo.json"
    ),
    html: Annotated[Path, typer.Option(help="Report")] = Path("runs/demo/demo.html"),
) -> None:
    """Serve the shipped model, replay a real burst at full k' and under the controller, compare.

    Example: kprime demo --html demo.html
    """
    from controller.policy_file import load_policy
    from controller.profiles import load_profile
    from runtime.cluster import DeployError, LocalCluster
    from runtime.deployment import configure, read_serve_yaml
    from simulations.plots import Arm, Frame, draw

    console = Console()
    for file in (json_file, html):
        file.parent.mkdir(parents=True, exist_ok=True)
    journal = json_file.with_name("journal.jsonl")
    journal.unlink(missing_ok=True)
    with bad_input():
        slo_policy = load_policy(policy_file)
        profile_file = profile_here(console, CHECKPOINT, CHECKPOINT / "profile.json")
        profile = load_profile(profile_file)
        requests, length_factor = fit_lengths(
            cut(read_trace(trace), start, duration), CONTEXT_TOKENS
        )
        config = configure(
            read_serve_yaml(Path("serve.yaml")),
            slo_policy=slo_policy,
            profile=profile_file,
            journal=journal,
        )
        cluster = LocalCluster(config, port=port)
    prompts = Prompts((CHECKPOINT / "test.txt").read_text(), CHECKPOINT / "tokenizer.json")
    stage = Stage(console, cluster, config, prompts, journal)
    try:
        with console.status("starting Ray and two replicas of the model"):
            cluster.start()
        clean_up_on_signals()
        full, floor = (
            stage.capacity(_fixed(slo_policy, k), requests)
            for k in (slo_policy.experts.ceiling, slo_policy.experts.floor)
        )
        console.print(f"capacity: {full:.1f} requests/s at full k', {floor:.1f} at the floor")
        peak = full + PEAK_SHARE * (floor - full)
        scheduled, rate_factor = scale_to_peak(requests, peak, PEAK_WINDOW_S, SEED)
        console.print(
            f"{trace.name} from {start:g} s: {len(scheduled)} requests, peak "
            f"{peak_rps(scheduled, PEAK_WINDOW_S):.1f} requests/s over {PEAK_WINDOW_S:g} s "
            f"(rate x {rate_factor:.3f}, lengths x {length_factor:.3f})"
        )
        runs = {
            "static-full": stage.run("static-full", _fixed(slo_policy, profile.full_k), scheduled),
            "kprime": stage.run("kprime", slo_policy, scheduled),
        }
    except (DeployError, LoadError) as error:
        stop(str(error), FAILED)
    except KeyboardInterrupt:
        stop("interrupted", FAILED)
    finally:
        with console.status("stopping Ray"):
            cluster.stop()
    frame = Frame(scheduled, duration, full, floor, slo_policy.slo.ttft_s, profile.full_k)
    result = result_of(frame, slo_policy, profile, runs, trace.name, rate_factor, length_factor)
    json_file.write_text(json.dumps(result, indent=1) + "\n")
    picture = json_file.with_suffix(".png")
    draw(frame, [Arm(name, run.records, run.ticks) for name, run in runs.items()], picture)
    report(console, result, html, picture)
    console.print(f"figures {json_file}, picture {picture}, report {html}")
    if any(arm["failed"] for arm in result["arms"].values()):
        stop("some requests failed", FAILED)


class Stage:
    """The running system, as the demo drives it."""

    def __init__(
        self,
        console: Console,
        cluster: "LocalCluster",
        config: dict[str, Any],
        prompts: Prompts,
        journal: Path,
    ) -> None:
        self._console = console
        self._cluster = cluster
        self._config = config
        self._prompts = prompts
        self._journal = journal

    def capacity(self, slo_policy: SloPolicy, requests: Requests) -> float:
        """Completed requests per second, closed loop, under a policy that holds k' still."""
        self._adopt(slo_policy)
        with self._console.status(f"measuring capacity at k' = {slo_policy.policy.k}"):
            return asyncio.run(
                capacity(
                    self._cluster.url,
                    None,
                    requests,
                    self._prompts,
                    concurrency=CAPACITY_CONCURRENCY,
                    duration_s=CAPACITY_S,
                    seed=SEED,
                )
            )

    def run(self, name: str, slo_policy: SloPolicy, requests: Requests) -> Run:
        """Replay the schedule once, and watch the controller until it has settled."""
        self._adopt(slo_policy)
        known = len(self._actuations())
        started_s: list[float] = []
        columns = (TextColumn(f"{name:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Drawn rarely: the processor is the server's too.
        with Progress(*columns, console=self._console, refresh_per_second=2) as progress:
            task = progress.add_task(name, total=len(requests))
            records = asyncio.run(
                replay(
                    self._cluster.url,
                    None,
                    requests,
                    self._prompts,
                    seed=SEED,
                    on_start=started_s.append,
                    on_event=lambda _: progress.advance(task),
                )
            )
        with self._console.status("watching k' settle"):
            time.sleep(RECOVERY_S)
        with self._journal.open() as lines:
            ticks = read_ticks(lines, started_s[0], time.monotonic())
        return Run(records, ticks, self._actuations()[known:])

    def _adopt(self, slo_policy: SloPolicy) -> None:
        """The hot path of `serve deploy`: a new policy in `user_config`, nothing restarted."""
        from runtime.deployment import configure

        self._cluster.deploy(configure(self._config, slo_policy=slo_policy))
        wanted = slo_policy.model_dump(mode="json")
        while self._cluster.status()["slo_policy"] != wanted:
            time.sleep(0.1)
        time.sleep(SETTLE_S)

    def _actuations(self) -> list[float]:
        return [entry["ms"] for entry in self._cluster.status()["actuations"]]


def _fixed(slo_policy: SloPolicy, k: int) -> SloPolicy:
    return slo_policy.model_copy(update={"policy": PolicyChoice(name="fixed", k=k)})
