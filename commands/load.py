"""`kprime load`: replays a trace against a live server and prints what its users would have seen.

Takes the options, gives a table, and files when asked, or only the schedule as a file. The work is
in `simulations`; this module only checks what the operator wrote and shows what came out.
"""

import asyncio
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.exits import BAD_INPUT, FAILED, bad_input, check_outputs, read_text, stop
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
from controller.config import DEFAULT_CLASS, SloClass
from simulations.load import LoadError, replay
from simulations.mix import Mix, require_known, with_classes
from simulations.mooncake import write_mooncake
from simulations.prompts import Prompts
from simulations.results import Record, summarise, write_records
from simulations.schedule import Requests, cut, fit_lengths, mean_lengths
from simulations.synthetic import read_load

CHECKPOINT = Path("checkpoints/prose-52m")
LATENESS_SHARE = 0.05  # of the TTFT objective; sends later than that spoil the measurement
TTFT_SLO_S, TPOT_SLO_S = 1.0, 0.1
COUNTS = ("completed", "shed", "failed")


def load(
    trace: TraceOrLoad,
    url: Annotated[str | None, typer.Option(help="Server, such as http://127.0.0.1:8000")] = None,
    start: Start = 0.0,
    duration: Duration = None,
    rate: Annotated[float | None, typer.Option(help="Mean requests/s; default the trace's")] = None,
    load: Annotated[
        float | None,
        typer.Option(min=0.01, help="Rate as a share of capacity at full k'; needs --profile"),
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="The served model's profile.json")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas behind the url, for --load")] = 2,
    slo_class: Annotated[
        str | None,
        typer.Option(help="Sent as X-SLO-Class: NAME, or shares such as premium=0.3,batch=0.7"),
    ] = None,
    policy_file: Annotated[
        Path | None, typer.Option(help="SLO policy: the objectives, by class")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the first the server lists")] = None,
    text: Annotated[Path, typer.Option(help="Prompts are cut from it")] = CHECKPOINT / "test.txt",
    tokenizer: Annotated[Path, typer.Option(help="Counts their tokens")] = CHECKPOINT
    / "tokenizer.json",
    context: Context = CONTEXT_TOKENS,
    ttft_slo: Annotated[
        float | None,
        typer.Option(min=0.001, help=f"Seconds from scheduled arrival; default {TTFT_SLO_S:g}"),
    ] = None,
    tpot_slo: Annotated[
        float | None,
        typer.Option(min=0.001, help=f"Seconds per token after the first; default {TPOT_SLO_S:g}"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of loads, prompts, rate scaling, classes")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Summary to write")] = None,
    requests_file: Annotated[
        Path | None, typer.Option("--requests", help="One JSON line a request to write")
    ] = None,
    trace_file: Annotated[
        Path | None,
        typer.Option(
            "--write-trace", help="Mooncake JSONL of the schedule to write; sends nothing"
        ),
    ] = None,
) -> None:
    """Replay a trace, open loop, against a live OpenAI-compatible server.

    Example: kprime load --url http://127.0.0.1:8000 --trace traces/azure_llm_2023_code.csv
    --start 840 --duration 100 --rate 2 --json load.json

    Loads to name instead of a file: constant, poisson, gamma, negbin, step, ramp, spike, sine, day.
    Named alone, as in --trace gamma, each says what it takes.
    """
    console = Console()
    check_outputs({"--json": json_file, "--requests": requests_file, "--write-trace": trace_file})
    if trace_file is not None:
        _refuse_unwritten(
            {"--json": json_file, "--requests": requests_file, "--slo-class": slo_class}
        )
    elif url is None:
        stop("Missing option '--url': a server, such as http://127.0.0.1:8000", BAD_INPUT)
    elif not url.startswith(("http://", "https://")):
        stop(f"--url {url}: expected http://HOST:PORT", BAD_INPUT)
    mix = mix_of(slo_class)
    slo_classes = _slo_classes(policy_file, ttft_slo, tpot_slo, mix)
    prompts = _prompts(text, tokenizer)
    with bad_input("--trace"):
        read = read_load(trace, seed)
    with bad_input("--start, --duration"):
        requests = cut(read, start, duration)
    with bad_input("--context"):
        requests, length_factor = fit_lengths(requests, context - prompts.num_special_tokens)
    full_rps = _capacity_rps(requests, load, profile, replicas)
    if full_rps is not None:
        if rate is not None:
            stop("--load and --rate both set the rate: give one", BAD_INPUT)
        rate = load * full_rps
    if rate is not None:
        requests = at_rate(requests, read, start, duration, rate, seed)
    if mix:
        requests = with_classes(requests, mix, seed)
    describe(console, read, requests, length_factor)
    if trace_file is not None:
        write_mooncake(trace_file, requests)
        console.print(f"wrote {trace_file} and sent nothing")
        return
    records = _run(console, url, model, requests, prompts, seed)
    arm = {
        **summarise(records, slo_classes),
        # Only the server's own journal could tell.
        "switches_per_min": None,
        "over_degradation": None,
    }
    if requests_file:
        write_records(requests_file, records)
    if json_file:
        _write_summary(json_file, read.name, load, arm)
    _show(console, arm, slo_classes)
    if not arm["completed"]:
        stop(f"no request completed at {url}; the last: {records[-1].error}", FAILED)


def _refuse_unwritten(options: Mapping[str, object]) -> None:
    """What a written schedule cannot have."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        stop(
            f"--write-trace sends nothing, and the file has no classes: leave out {given[0]}",
            BAD_INPUT,
        )


def _slo_classes(
    policy_file: Path | None, ttft_slo_s: float | None, tpot_slo_s: float | None, mix: Mix | None
) -> Mapping[str, SloClass]:
    """The objectives by class: a policy's, or one pair for all."""
    for option, slo_s in (("--ttft-slo", ttft_slo_s), ("--tpot-slo", tpot_slo_s)):
        if slo_s is not None and not isfinite(slo_s):
            stop(f"{option} {slo_s:g}: expected seconds, 0.001 or more", BAD_INPUT)
    if policy_file is None:
        one = SloClass(ttft_s=ttft_slo_s or TTFT_SLO_S, tpot_s=tpot_slo_s or TPOT_SLO_S)
        return dict.fromkeys(mix or [DEFAULT_CLASS], one)
    if ttft_slo_s is not None or tpot_slo_s is not None:
        stop("--policy-file and --ttft-slo or --tpot-slo both set objectives: give one", BAD_INPUT)
    from controller.policy_file import load_policy

    with bad_input("--policy-file"):
        slo_classes = load_policy(policy_file).slo_classes
    with bad_input("--slo-class"):
        require_known(mix or {}, slo_classes)
    return slo_classes


def _prompts(text: Path, tokenizer: Path) -> Prompts:
    held_out = read_text("--text", text)
    try:
        return Prompts(held_out, tokenizer)
    except Exception as error:  # the tokenizers library raises no narrower class
        stop(f"--tokenizer {tokenizer}: {error}; expected a tokenizer.json", BAD_INPUT)


def _capacity_rps(
    requests: Requests, load: float | None, profile_file: Path | None, replicas: int
) -> float | None:
    """What the replicas complete at full k' by the profile; None unless `--load` asks for it."""
    if load is None:
        return None
    if profile_file is None:
        stop("--load: needs --profile, the profile.json of the served model", BAD_INPUT)
    from controller.profiles import load_profile
    from simulations.rates import full_rate

    with bad_input("--profile"):
        profile = load_profile(profile_file)
    return full_rate(profile, *mean_lengths(requests), replicas)


def _run(
    console: Console,
    url: str,
    model: str | None,
    requests: Requests,
    prompts: Prompts,
    seed: int,
) -> list[Record]:
    columns = (TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn rarely: the processor may be the server's too.
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        bar = progress.add_task("answered", total=len(requests))
        run = replay(
            url,
            model,
            requests,
            prompts,
            seed=seed,
            on_event=lambda _: progress.advance(bar),
        )
        try:
            with bad_input("--text"):  # too short for the longest prompt
                return asyncio.run(run)
        except LoadError as error:
            stop(f"--url: {error}; expected an OpenAI-compatible server", FAILED)


def _write_summary(file: Path, trace: str, load: float | None, arm: dict[str, Any]) -> None:
    summary = {"trace": trace, "load": load, "headroom": None, "arms": {"live": arm}, "regret": {}}
    file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _show(console: Console, arm: dict[str, Any], slo_classes: Mapping[str, SloClass]) -> None:
    """A column for each class, beside one for all requests if there are several."""
    columns = arm["classes"] if len(arm["classes"]) == 1 else {"all": arm, **arm["classes"]}
    table = Table("", *columns)
    for label, cells in _rows(columns, slo_classes).items():
        table.add_row(label, *cells)
    counts = ", ".join(f"{arm[name]} {name}" for name in ("offered", *COUNTS))
    console.print(counts)
    console.print(table)
    tightest_s = min(slo_classes[name].ttft_s for name in arm["classes"])
    if arm["lateness_p99_s"] > LATENESS_SHARE * tightest_s:
        late = f"sends were late (p99 {arm['lateness_p99_s']:.3f} s)"
        console.print(f"[yellow]{late}: this machine cannot keep the schedule; distrust the run")


def _rows(
    columns: Mapping[str, dict[str, Any]], slo_classes: Mapping[str, SloClass]
) -> dict[str, list[str]]:
    def row(*names: str) -> list[str]:
        return [", ".join(_number(column[name]) for name in names) for column in columns.values()]

    refusals = {
        "shed with Retry-After": row("shed_with_retry_after"),
        "Retry-After p50, longest in s": row("retry_after_p50_s", "retry_after_max_s"),
    }
    return {
        "objectives: TTFT, TPOT in s": [_objectives(slo_classes.get(name)) for name in columns],
        "met their objectives": row("attainment"),
        "offered": row("offered"),
        "completed, shed, failed": row(*COUNTS),
        **(refusals if any(column["shed"] for column in columns.values()) else {}),
        "served quality, k'": row("served_quality", "mean_k"),
        "effective quality": row("effective_quality"),
        "TTFT p50, p95, p99 in s": row("ttft_p50_s", "ttft_p95_s", "ttft_p99_s"),
        "TPOT p50, p95, p99 in s": row("tpot_p50_s", "tpot_p95_s", "tpot_p99_s"),
        "longest answer in s": row("longest_s"),
        "2-s windows with a miss, of": row("violating_windows_2s", "windows_2s"),
    }


def _objectives(slo: SloClass | None) -> str:
    return "each its own" if slo is None else f"{slo.ttft_s:g}, {slo.tpot_s:g}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
