"""A profile as a picture: the ladder, its headroom, what layers lose, steps by batch."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from controller.profiles import HeadroomAt, Profile, Rung
from controller.step_time import REFERENCE_BATCH

QUALITY, AGREEMENT, BY_LAYER = "#2a6f97", "#8a8d91", "#b5483a"
BATCHES = (1, 2, 4, 8, 16, 32)
CONTEXT_TOKENS = 256


def draw(profile: Profile, path: Path) -> None:
    """Four panels, each readable alone."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (ladder, headroom), (losses, steps) = figure.subplots(2, 2)
    _draw_ladder(ladder, profile)
    _draw_headroom(headroom, profile)
    _draw_losses(losses, profile)
    _draw_steps(steps, profile)
    for axes in (ladder, headroom, losses, steps):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def _draw_ladder(axes: Axes, profile: Profile) -> None:
    rungs, chunk = profile.rungs, profile.max_batch_tokens
    cost_ms = [1000 * profile.step_time.prompt_s(rung.plan, chunk, chunk) for rung in rungs]
    quality = [rung.quality for rung in rungs]
    errors = [
        [rung.quality - rung.quality_low for rung in rungs],
        [rung.quality_high - rung.quality for rung in rungs],
    ]
    axes.errorbar(cost_ms, quality, yerr=errors, color=QUALITY, marker="o", label="quality")
    for name, colour, values in (
        ("accuracy", "#6a9a3b", [rung.accuracy.mean for rung in rungs]),
        ("agreement of answers", AGREEMENT, [rung.agreement.mean for rung in rungs]),
    ):
        axes.plot(cost_ms, values, color=colour, marker=".", linestyle="--", label=name)
    by_layer = [(x, rung.quality) for x, rung in zip(cost_ms, rungs, strict=True) if _differs(rung)]
    if by_layer:
        axes.scatter(*zip(*by_layer, strict=True), color=BY_LAYER, zorder=3, label="by layer")
    for x, rung in zip(cost_ms, rungs, strict=True):
        axes.annotate(
            f"{rung.mean_k:g}", (x, rung.quality), textcoords="offset points", xytext=(4, -13)
        )
    axes.set(title="The ladder, by k'", xlabel=f"step of {chunk} prompt tokens, ms")
    axes.set(ylabel="share of full k'")


def _draw_headroom(axes: Axes, profile: Profile) -> None:
    def line(found: Sequence[HeadroomAt], label: str, colour: str) -> None:
        tokens, ratios = [each.tokens for each in found], [each.ratio for each in found]
        axes.plot(tokens, ratios, color=colour, marker="o", label=label)

    line(profile.headroom.by_decode_batch, "decode, by requests", QUALITY)
    line(profile.headroom.by_prefill_tokens, "prompts, by tokens", BY_LAYER)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", title="Headroom: step time at full k' over the cheapest rung")
    axes.set(xlabel="requests or tokens in the step", ylabel="times", ylim=(0.9, None))
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _draw_losses(axes: Axes, profile: Profile) -> None:
    """Of the first way, which the ladder is made of."""
    way, by_layer = next(iter(profile.sensitivity.losses.items()))
    for layer, losses in enumerate(by_layer):
        axes.plot(profile.sensitivity.ks, losses, marker=".", label=f"layer {layer}")
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set(title=f"What a layer loses {way}", xlabel="k' of the layer", ylabel="nats a token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_steps(axes: Axes, profile: Profile) -> None:
    shown = dict.fromkeys((profile.rungs[0], profile.full, profile.rungs[-1]))
    for rung in shown:
        steps_ms = [
            1000 * profile.step_time.decode_s(rung.plan, CONTEXT_TOKENS, batch) for batch in BATCHES
        ]
        axes.plot(BATCHES, steps_ms, marker=".", label=f"k' = {rung.mean_k:g}")
    axes.axvline(REFERENCE_BATCH, color="black", linewidth=0.8, linestyle=":")
    axes.set(title=f"Decode step by the fit, context {CONTEXT_TOKENS}", ylabel="ms")
    axes.set(xlabel="requests that decode together", ylim=(0, None))


def _differs(rung: Rung) -> bool:
    return len(set(rung.plan)) > 1
