"""Which plans become rungs, by their measured quality on windows that had no part in the choice."""

from collections.abc import Mapping, Sequence

from controller.profiles import Interval, Rung
from runtime.bootstrap import Estimate, Tally, difference
from runtime.candidates import Candidates
from runtime.evaluate import Quality, retention
from runtime.measurements import MEASURING, Measurements, Plan


def ladder(measured: Measurements, chosen: Candidates) -> list[Rung]:
    """The rungs, from the cheapest to the best.

    Layers differ where that is significantly better than the uniform plan, and between uniform
    plans where it is significantly better than the next cheaper rung.
    """
    kept: dict[Plan, Estimate | None] = {chosen.uniform(k): None for k in chosen.ks}
    between: list[Plan] = []
    candidates = list(chosen.by_layer())
    on_plan = measured.on_stage("plans by layer", len(candidates))
    for k, plan in candidates:
        nll(measured, plan)
        on_plan()
        if k is None:
            between.append(plan)
            continue
        uniform = chosen.uniform(k)
        over = difference(nll(measured, plan), nll(measured, uniform))
        if plan != uniform and over.high < 0 and (k < chosen.full_k or _above(plan, chosen)):
            del kept[uniform]
            kept[plan] = over
    for plan in between:
        cheaper = max(
            (each for each in kept if chosen.cost_s(each) < chosen.cost_s(plan)),
            key=chosen.cost_s,
            default=None,
        )
        if plan not in kept and cheaper is not None:
            over = difference(nll(measured, plan), nll(measured, cheaper))
            if over.high < 0:
                kept[plan] = None
    on_rung, rungs = measured.on_stage("answers of rungs", len(kept)), []
    for plan, over in kept.items():
        rungs.append(_rung(measured, plan, over, chosen, list(kept)))
        on_rung()
    return pareto(rungs, {rung.plan: chosen.cost_s(rung.plan) for rung in rungs}, chosen.full_k)


def pareto(rungs: Sequence[Rung], cost_s: Mapping[Plan, float], full_k: int) -> list[Rung]:
    """Those that no cheaper one is as good as, and full k' in any case; mean k' rises with cost."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: (cost_s[rung.plan], -rung.quality)):
        is_full = set(rung.plan) == {full_k}
        if is_full:
            kept = [each for each in kept if each.mean_k < full_k]
        best = max((each.quality for each in kept), default=0.0)
        if is_full or (rung.quality > best and (not kept or rung.mean_k > kept[-1].mean_k)):
            kept.append(rung)
    return kept


def nll(measured: Measurements, plan: Plan) -> Tally:
    return measured.quality(MEASURING, plan).nll


def _above(plan: Plan, chosen: Candidates) -> bool:
    return chosen.cost_s(plan) > chosen.cost_s(chosen.uniform(chosen.full_k))


def _rung(
    measured: Measurements,
    plan: Plan,
    over_uniform: Estimate | None,
    chosen: Candidates,
    others: Sequence[Plan],
) -> Rung:
    quality, full = (
        measured.quality(MEASURING, each) for each in (plan, chosen.uniform(chosen.full_k))
    )
    agreement = measured.agreement(MEASURING, plan)
    kept, low, high = retention(quality.nll, full.nll)
    return Rung(
        plan=plan,
        mean_k=sum(plan) / len(plan),
        nll=quality.nll.mean,
        quality=kept,
        quality_low=low,
        quality_high=high,
        accuracy=interval(accuracy_retention(quality, full)),
        agreement=interval(agreement.estimate()),
        contradicted_by=_contradictions(measured, plan, chosen, others),
        over_uniform=over_uniform and interval(over_uniform),
        prefill=_prefill(measured, plan, chosen.uniform(chosen.full_k)),
    )


def _prefill(measured: Measurements, plan: Plan, full: Plan) -> Interval | None:
    """What answers at full k' keep after prompts at the plan."""
    lower, same = (measured.answers(MEASURING, each) for each in (plan, full))
    return interval(retention(lower, same)) if lower and same else None


def accuracy_retention(at_plan: Quality, at_full: Quality) -> Estimate:
    """Next tokens foreseen, over those at full k'; one at least, of a model that foresees none."""
    full = max(at_full.accuracy.mean, 1 / at_full.accuracy.counts_P.sum())
    return Estimate(*(1 + each / full for each in difference(at_plan.accuracy, at_full.accuracy)))


def _contradictions(
    measured: Measurements, plan: Plan, chosen: Candidates, others: Sequence[Plan]
) -> tuple[str, ...]:
    """The second measures that find a cheaper plan significantly better than this one.

    Above full k' answers are meant to differ from its own.
    """
    cheaper = [each for each in others if chosen.cost_s(each) < chosen.cost_s(plan)]
    found = []
    mine = measured.quality(MEASURING, plan).accuracy
    if any(
        difference(measured.quality(MEASURING, each).accuracy, mine).low > 0 for each in cheaper
    ):
        found.append("accuracy")
    if not _above(plan, chosen):
        answers = measured.agreement(MEASURING, plan)
        if any(
            difference(measured.agreement(MEASURING, each), answers).low > 0 for each in cheaper
        ):
            found.append("agreement")
    return tuple(found)


def interval(estimate: Estimate) -> Interval:
    return Interval(mean=estimate.mean, low=estimate.low, high=estimate.high)
