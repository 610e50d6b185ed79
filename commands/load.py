"""`kprime load`: replays a trace against a live server and prints what its users would have seen.

Takes the options, gives a table, and files when asked. The work is in `simulations`; this module
only checks what the operator wrote and shows what came out.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.exits import BAD_INPUT, FAILED, bad_input, check_outputs, read_text, stop
from simulations.load import LoadError, replay
from simulations.prompts import Prompts
from simulations.results import Record, summarise, write_records
from simulations.schedule import Requests, cut, fit_lengths, scale_rate
from simulations.traces import Trace, read_trace

CHECKPOINT = Path("checkpoints/prose-52m")
LATENESS_SHARE = 0.05  # of the TTFT objective; sends later than that spoil the measurement


def load(
    url: Annotated[str, typer.Option(help="Server, such as http://127.0.0.1:8000")],
    trace: Annotated[Path, typer.Option(help="Azure LLM or BurstGPT CSV, or Mooncake JSONL")],
    start: Annotated[float, typer.Option(help="Seconds into the trace")] = 0.0,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of the trace; default all")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Mean requests/s; default the trace's")] = None,
    load: Annotated[
        float | None,
        typer.Option(min=0.01, help="Rate as a share of capacity at full k'; needs --profile"),
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="The served model's profile.json")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas behind the url, for --load")] = 2,
    slo_class: Annotated[str | None, typer.Option(help="Sent as X-SLO-Class")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the first the server lists")] = None,
    text: Annotated[Path, typer.Option(help="Prompts are cut from it")] = CHECKPOINT / "test.txt",
    tokenizer: Annotated[Path, typer.Option(help="Counts their tokens")] = CHECKPOINT
    / "tokenizer.json",
    context: Annotated[int, typer.Option(help="Tokens of prompt and output together")] = 2048,
    ttft_slo: Annotated[
        float, typer.Option(min=0.001, help="Seconds from scheduled arrival")
    ] = 1.0,
    tpot_slo: Annotated[
        float, typer.Option(min=0.001, help="Seconds per token after the first")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts and of the rate scaling")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Summary to write")] = None,
    requests_file: Annotated[
        Path | None, typer.Option("--requests", help="One JSON line a request to write")
    ] = None,
) -> None:
    """Replay a trace, open loop, against a live OpenAI-compatible server.

    Example: kprime load --url http://127.0.0.1:8000 --trace traces/azure_llm_2023_code.csv
    --start 840 --duration 100 --rate 2 --json load.json
    """
    console = Console()
    if not url.startswith(("http://", "https://")):
        stop(f"--url {url}: expected http://HOST:PORT", BAD_INPUT)
    check_outputs({"--json": json_file, "--requests": requests_file})
    prompts = _prompts(text, tokenizer)
    with bad_input("--trace"):
        read = read_trace(trace)
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
        requests = _at_rate(requests, read, start, duration, rate, seed)
    _describe(console, read, requests, length_factor)
    records = _run(console, url, model, requests, prompts, seed, slo_class)
    arm = {
        **summarise(records, ttft_slo, tpot_slo),
        # Only the server's own journal could tell.
        "switches_per_min": None,
        "over_degradation": None,
    }
    if requests_file:
        write_records(requests_file, records)
    if json_file:
        _write_summary(json_file, read.name, load, arm)
    _show(console, arm, ttft_slo, tpot_slo)
    if not arm["completed"]:
        stop(f"no request completed at {url}; the last: {records[-1].error}", FAILED)


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

    with bad_input("--profile"):
        profile = load_profile(profile_file)
    full = next(rung for rung in profile.rungs if rung.mean_k == profile.full_k)
    prompt = sum(request.input_tokens for request in requests) / len(requests)
    output = sum(request.output_tokens for request in requests) / len(requests)
    return replicas / full.cost.request_s(prompt, output, profile.max_batch_tokens)


def _at_rate(
    requests: Requests,
    trace: Trace,
    start_s: float,
    duration_s: float | None,
    rate_rps: float,
    seed: int,
) -> Requests:
    rest_s = trace.requests[-1].arrival_s - start_s
    span_s = rest_s if duration_s is None else min(duration_s, rest_s)
    with bad_input(f"--rate {rate_rps:g}"):
        return scale_rate(requests, rate_rps * span_s / len(requests), seed)


def _describe(console: Console, trace: Trace, requests: Requests, length_factor: float) -> None:
    dropped = ", ".join(f"{count} with {reason}" for reason, count in trace.dropped.items())
    console.print(
        f"{trace.name}: {len(trace.requests)} requests; rows left out: {dropped or 'none'}"
    )
    console.print(
        f"replaying {len(requests)} requests over {requests[-1].arrival_s:.1f} s; "
        f"lengths scaled by {length_factor:.4g}"
    )


def _run(
    console: Console,
    url: str,
    model: str | None,
    requests: Requests,
    prompts: Prompts,
    seed: int,
    slo_class: str | None,
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
            slo_class=slo_class,
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


def _show(console: Console, arm: dict[str, Any], ttft_slo_s: float, tpot_slo_s: float) -> None:
    table = Table("", "", show_header=False)
    counts = ", ".join(f"{arm[name]} {name}" for name in ("offered", "completed", "shed", "failed"))
    table.add_row("requests", counts)
    table.add_row(
        f"met TTFT {ttft_slo_s:g} s and TPOT {tpot_slo_s:g} s", _number(arm["attainment"])
    )
    table.add_row("served quality, k'", _numbers(arm, ("served_quality", "mean_k")))
    table.add_row("effective quality", _number(arm["effective_quality"]))
    for name in ("ttft", "tpot"):
        ranks = tuple(f"{name}_p{rank}_s" for rank in (50, 95, 99))
        table.add_row(f"{name.upper()} p50, p95, p99 in s", _numbers(arm, ranks))
    table.add_row(
        "2-s windows with a miss", f"{arm['violating_windows_2s']} of {arm['windows_2s']}"
    )
    console.print(table)
    if arm["lateness_p99_s"] > LATENESS_SHARE * ttft_slo_s:
        late = f"sends were late (p99 {arm['lateness_p99_s']:.3f} s)"
        console.print(f"[yellow]{late}: this machine cannot keep the schedule; distrust the run")


def _numbers(arm: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(_number(arm[name]) for name in names)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
