"""A profile as tables: what `kprime calibrate` says in the end, and `kprime profile`.

Rows of plain text, which the page shows as well. Takes a profile, measures nothing.
"""

from collections.abc import Sequence
from itertools import zip_longest

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from controller.profiles import Interval, Profile, Rung
from controller.step_time import REFERENCE_BATCH
from simulations.html_report import Rows

NO_LEVERAGE = 1.1  # headroom below which a smaller k' saves next to nothing
DATA_FREE = "data-free"  # not in nats
CONTEXT_TOKENS = 256  # of the decoding requests whose step is shown


def tables(profile: Profile) -> list[Rows]:
    return [ladder(profile), headroom(profile), losses(profile), plans(profile)]


def show_profile(console: Console, profile: Profile) -> None:
    for name, text in facts(profile).items():
        console.print(f"[bold]{name}[/]: {text}", highlight=False)
    for title, header, rows in tables(profile):
        columns = [Column(name, no_wrap=True) for name in header]
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*row)
        console.print(f"\n[bold]{title}[/]", highlight=False)
        console.print(table)


def facts(profile: Profile) -> dict[str, str]:
    """What else has to be said, by name."""
    fit = profile.fit
    said = {
        "Made for": f"checkpoint {profile.checkpoint_sha256[:12]}, {profile.engine}; "
        f"{profile.machine}; {profile.calibrated}",
    }
    if (rescaled := profile.rescaled) is not None:
        said["Rescaled"] = (
            f"calibrated on {rescaled.measured_on}; step times are from a short probe of this "
            f"machine, {rescaled.ratio:.2f} times those; calibrate here for better ones"
        )
    said["Step time"] = (
        f"off by {fit.mape_held_out:.1%} in the mean, {fit.p95_held_out:.1%} at the 95th "
        f"percentile, on {fit.points_held_out} points not fitted ({fit.points} fitted); noise "
        f"leaves {fit.interval:.1%} open; planned distinct experts off by "
        f"{fit.distinct_experts_error:.1%}"
    )
    said["Headroom"] = (
        f"prefill {profile.headroom.prefill:.2f}, decode of {REFERENCE_BATCH} "
        f"{profile.headroom.decode:.2f}: full k' over the cheapest rung, step time"
    )
    said["Leverage"] = leverage(profile)
    said["Second measures"] = second_measures(profile.rungs)
    said["Lower prompts"] = lower_prompts(profile.rungs)
    uniform = [f"{rung.mean_k:g}" for rung in profile.rungs if len(set(rung.plan)) == 1]
    said["Uniform rungs"] = f"{', '.join(uniform)}: no plan by layer is significantly better there"
    said["Measures"] = (
        "quality: perplexity at full k' over that at the rung; accuracy: next tokens foreseen, "
        "over those at full k'; agreement: tokens of its own greedy answers that full k' would "
        "have given. 95 % paired bootstrap intervals over documents"
    )
    return said


def leverage(profile: Profile) -> str:
    """Where k' saves next to nothing."""
    none = [
        f"{name} {each.tokens} ({each.ratio:.2f})"
        for name, found in (
            ("decode of", profile.headroom.by_decode_batch),
            ("prompt steps of", profile.headroom.by_prefill_tokens),
        )
        for each in found
        if each.ratio < NO_LEVERAGE
    ]
    if not none:
        return f"k' moves step time by {NO_LEVERAGE - 1:.0%} or more wherever it was measured"
    return f"k' has none in {', '.join(none)}"


def second_measures(rungs: Sequence[Rung]) -> str:
    """Whether accuracy and agreement order the rungs as perplexity does."""
    doubtful = [
        f"k' = {rung.mean_k:g}: by {' and '.join(rung.contradicted_by)} a cheaper rung is better"
        for rung in rungs
        if rung.contradicted_by
    ]
    return "; ".join(doubtful) or "no cheaper rung is significantly better than a dearer one"


def lower_prompts(rungs: Sequence[Rung]) -> str:
    """What `experts.prefill_ceiling` costs."""
    kept = [
        f"{each.prefill.mean:.4f} (from {each.prefill.low:.4f} up) at k' {each.mean_k:g}"
        for each in rungs
        if each.prefill
    ]
    if not kept:
        return "not measured; prompts run at the k' of their answers"
    return f"quality of answers at full k' after prompts at the lowest rungs: {', '.join(kept[:3])}"


def ladder(profile: Profile) -> Rows:
    model, chunk = profile.step_time, profile.max_batch_tokens
    header = ["k'", "plan", "NLL", "quality", "accuracy", "agreement", "prefill", "decode"]
    rows = [
        [
            f"{rung.mean_k:g}",
            " ".join(map(str, rung.plan)) if len(set(rung.plan)) > 1 else "uniform",
            f"{rung.nll:.4f}",
            f"{rung.quality:.4f} ± {(rung.quality_high - rung.quality_low) / 2:.4f}",
            f"{rung.accuracy.mean:.4f}",
            f"{rung.agreement.mean:.3f}",
            f"{1000 * model.prompt_s(rung.plan, chunk, chunk):.1f} ms",
            f"{1000 * model.decode_s(rung.plan, CONTEXT_TOKENS, REFERENCE_BATCH):.1f} ms",
        ]
        for rung in profile.rungs
    ]
    title = f"The ladder: a step of {chunk} prompt tokens, of {REFERENCE_BATCH} that decode"
    return Rows(title, header, rows)


def headroom(profile: Profile) -> Rows:
    pairs = zip_longest(profile.headroom.by_decode_batch, profile.headroom.by_prefill_tokens)
    rows = [
        [
            cell
            for each in pair
            for cell in ((str(each.tokens), f"{each.ratio:.2f}") if each else ("", ""))
        ]
        for pair in pairs
    ]
    return Rows(
        "Headroom: step time at full k' over that at the cheapest rung",
        ["decode of", "headroom", "prompt tokens", "headroom"],
        rows,
    )


def losses(profile: Profile) -> Rows:
    sensitivity = profile.sensitivity
    rows = [
        [
            way,
            str(layer),
            *(f"{loss:.0f}" if way == DATA_FREE else f"{1000 * loss:+.1f}" for loss in by_k),
        ]
        for way, by_layer in sensitivity.losses.items()
        for layer, by_k in enumerate(by_layer)
    ]
    found = "; ".join(f"{pair} {each:.2f}" for pair, each in sensitivity.rank_correlation.items())
    return Rows(
        f"What layers lose at each k', thousandths of a nat a token (data-free: change of output "
        f"on random input). Rank correlation below full k': {found or 'none'}",
        ["way", "layer", *map(str, sensitivity.ks)],
        rows,
    )


def plans(profile: Profile) -> Rows:
    rows = [
        [
            str(each.uniform_k),
            each.method,
            " ".join(map(str, each.plan)),
            f"{over.mean:+.4f} ({over.low:+.4f} .. {over.high:+.4f})",
            _verdict(over, (each.uniform_k,) * len(each.plan) == each.plan),
        ]
        for each in profile.sensitivity.plans
        for over in [each.over_uniform]
    ]
    return Rows(
        "The plan each way makes of a uniform k's step time, nats a token over that",
        ["k'", "way", "plan", "over uniform", ""],
        rows,
    )


def _verdict(over: Interval, is_uniform: bool) -> str:
    if is_uniform:
        return "is the uniform"
    return "better" if over.high < 0 else "worse" if over.low > 0 else "no difference"
