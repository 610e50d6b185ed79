"""`kprime status`: the running controller once, for people. All of it comes from the server."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from commands.exits import check_outputs
from commands.server import DEFAULT_URL, check_url, status_of
from controller.config import DEFAULT_CLASS

LEAST_SHOWN_RPS = 0.01


def status(
    url: Annotated[str, typer.Option(help="The running server")] = DEFAULT_URL,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="What the server says, whole")
    ] = None,
) -> None:
    """Show the running controller: plan, SLO policy, load, its reason, replicas, expert use.

    Exit status: 0 when a kprime server answered, otherwise 1.

    Example: kprime status --url http://127.0.0.1:8000
    """
    check_outputs({"--json": json_file})
    said = status_of(check_url(url))
    Console().print(table_of(said))
    if json_file:
        json_file.write_text(json.dumps(said, indent=1) + "\n")


def table_of(said: dict[str, Any]) -> Table:
    """One row a fact."""
    table = Table("", "", show_header=False)
    for name, text in rows(said):
        table.add_row(name, escape(text))  # reasons may hold brackets
    return table


def rows(said: dict[str, Any]) -> Iterable[tuple[str, str]]:
    slo_policy, plan, load, budget = (said[key] for key in ("slo_policy", "plan", "load", "budget"))
    if slo_policy is None or plan is None:
        yield "controller", "has just started: no replica has called it yet"
        return
    yield "plan", f"k' {_layers(plan['k'])}, quality {plan['quality']:.3f}, epoch {plan['epoch']}"
    for name, k in plan["class_k"].items():
        yield f"plan of {name}", f"k' {_layers(k)}"
    if plan["prefill_k"]:
        yield "prompts", f"at most k' {_layers(plan['prefill_k'])}"
    yield "SLO policy", _policy(slo_policy, said)
    if budget:
        yield "reason", budget["reason"]
    if slo_policy.get("mode") == "dry-run" and budget:
        yield "dry run", f"would serve k' {budget['mean_k']:g}; serves the safe plan"
    if load:
        yield from _load(load, slo_policy)
    yield "replicas", _replicas(said, load)
    if wish := said.get("replica_wish"):
        yield "replicas wanted", f"{wish['replicas'] or 'as many as there are'}: {wish['reason']}"
    for replica, use in said.get("expert_use", {}).items():
        yield f"experts, {_short(replica)}", _expert_use(use)


def _policy(slo_policy: dict[str, Any], said: dict[str, Any]) -> str:
    choice, experts = slo_policy["policy"], slo_policy["experts"]
    constant = "" if choice.get("k") is None else f" at k' {choice['k']:g}"
    origin = "applied, until the next deployment" if said.get("applied") else "as deployed"
    return (
        f"{choice['name']}{constant}, k' within {experts['floor']}..{experts['ceiling']}, "
        f"safe {experts['safe']}; edition {said.get('edition')}, {origin}"
    )


def _load(load: dict[str, Any], slo_policy: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield (
        "arrivals",
        f"{_number(load['arrival_rps'])} requests/s (sustained "
        f"{_number(load['arrival_rps_sustained'])}), {_number(load['prompt_tokens'])} prompt and "
        f"{_number(load['output_tokens'])} output tokens each",
    )
    yield (
        "queue",
        f"{_number(load['waiting_requests'])} wait with {_number(load['waiting_tokens'])} tokens, "
        f"the oldest for {_number(load['oldest_wait_s'])} s; "
        f"{_number(load['running_requests'])} run"
        f"{_refused(sum(each['shed_rps'] or 0.0 for each in load['classes'].values()))}",
    )
    if load["classes"].keys() - {DEFAULT_CLASS}:
        yield from _classes(load["classes"], slo_policy)
    else:
        for name in ("ttft", "tpot"):
            objective_s = slo_policy["slo"][f"{name}_s"]
            yield f"{name.upper()} p95", _latency(load[f"{name}_p95_s"], objective_s)
    yield "step time", _step_time(load)
    ages = (f"{name} {age_s:.1f} s" for name, age_s in (load["ages_s"] or {}).items())
    yield "evidence is of", ", ".join(ages) or "nothing yet"


def _classes(classes: dict[str, Any], slo_policy: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Those with requests of late, the highest priority first."""
    known = {DEFAULT_CLASS: slo_policy["slo"] | {"priority": 0}, **slo_policy["classes"]}
    tokens = sum(each["share"] for each in classes.values()) or 1.0
    for name in sorted(classes.keys() & known, key=lambda name: -known[name]["priority"]):
        each, slo = classes[name], known[name]
        yield (
            f"class {name}",
            f"{each['share'] / tokens:.0%} of the tokens; {each['waiting_requests']} wait, "
            f"{each['running_requests']} run{_refused(each['shed_rps'] or 0.0)}; "
            f"TTFT p95 {_latency(each['ttft_p95_s'], slo['ttft_s'])}; "
            f"TPOT p95 {_latency(each['tpot_p95_s'], slo['tpot_s'])}",
        )


def _refused(rps: float) -> str:
    return f", {rps:.2g} refused a second" if rps >= LEAST_SHOWN_RPS else ""


def _latency(p95_s: float | None, objective_s: float) -> str:
    if p95_s is None:
        return f"unknown, objective {objective_s:g} s: no request of late"
    verdict = "holds" if p95_s <= objective_s else "MISSED"
    return f"{p95_s:.3f} s of {objective_s:g} s: {verdict}"


def _step_time(load: dict[str, Any]) -> str:
    error, correction = load["step_time_error"], load["correction"]
    off = "error unknown" if error is None else f"off by {error:.1%}"
    if correction is None:
        return off
    factors = ", ".join(f"{name} x {factor:.2f}" for name, factor in correction.items())
    return f"{off}; profile corrected by {factors}"


def _replicas(said: dict[str, Any], load: dict[str, Any] | None) -> str:
    epochs, editions = said["replica_epochs"], said.get("replica_editions", {})
    known = [
        f"{_short(replica)} at epoch {epoch}{_lag(said, epoch, editions.get(replica))}"
        for replica, epoch in epochs.items()
    ]
    stale = load["stale_replicas"] if load else 0
    silent = [f"{stale} silent"] if stale else []
    return "; ".join(known + silent) or "none has been heard of late"


def _lag(said: dict[str, Any], epoch: int, edition: int | None) -> str:
    behind = []
    if epoch < said["plan"]["epoch"]:
        behind.append("plan")
    if edition is not None and edition < (said.get("edition") or 0):
        behind.append("SLO policy")
    return f", lags in {' and '.join(behind)}" if behind else ""


def _expert_use(use: dict[str, Any]) -> str:
    return (
        f"{_mean(use['distinct']):.1f} distinct a step, busiest {_mean(use['worst_load']):.1f} "
        f"times the mean; {sum(use['never_used'])} never used"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _layers(k: list[int]) -> str:
    if len(set(k)) == 1:
        return f"{k[0]} in all {len(k)} layers"
    return f"{sum(k) / len(k):g} by layer: {' '.join(map(str, k))}"


def _short(replica: str) -> str:
    return replica[-8:]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
