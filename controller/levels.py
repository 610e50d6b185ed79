"""Which rung each SLO class runs at, from the cheapest level to the best.

Takes rungs and classes; gives the order in which classes give up experts. Knows no load: what a
level costs depends on the classes' shares of the tokens, which are an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from controller.config import DEFAULT_CLASS, SloClass, SloPolicy
from controller.profiles import Profile, Served
from controller.signals import KByLayer, Phased, Plan, mixed_k


@dataclass(frozen=True, slots=True)
class Level:
    """What every class is served at."""

    served: Mapping[str, Served]

    def mean_k(self, shares: Mapping[str, float]) -> float:
        """Of answers, over layers and classes, by their shares of the tokens; of the default, if
        unknown.
        """
        if not shares:
            return self.served[DEFAULT_CLASS].mean_k
        return sum(share * self.of(name).mean_k for name, share in shares.items())

    def layers(self, shares: Mapping[str, float]) -> KByLayer:
        """k' of every MoE layer, over classes by their shares of the tokens."""
        if not shares:
            return self.served[DEFAULT_CLASS].layers
        parts = [(share, self.of(name)) for name, share in shares.items()]
        decode = mixed_k((share, each.rung.plan) for share, each in parts)
        if all(each.prefill_k is None for _, each in parts):
            return decode
        return Phased(mixed_k((share, each.prompts.plan) for share, each in parts), decode)

    def plan(self, epoch: int) -> Plan:
        """Only classes that differ from the default one have a k' of their own in it."""
        base = self.served[DEFAULT_CLASS]
        own = {name: each for name, each in self.served.items() if each.rung.plan != base.rung.plan}
        # Prompts that run lower all run at one rung: `Profile.served` of one ceiling.
        lower = [each.prefill_k for each in self.served.values() if each.prefill_k is not None]
        return Plan(
            epoch,
            base.rung.plan,
            base.quality,
            class_k={name: each.rung.plan for name, each in own.items()},
            class_quality={name: each.quality for name, each in own.items()},
            prefill_k=lower[0] if lower else None,
        )

    def of(self, slo_class: str) -> Served:
        """Of a class that it does not know, the default's."""
        return self.served.get(slo_class, self.served[DEFAULT_CLASS])


def levels_of(ladder: Sequence[Served], classes: Mapping[str, SloClass]) -> list[Level]:
    """From the cheapest to the best; `ladder` is what may be served, from floor to ceiling.

    Downwards the lowest priority goes to its floor first, rung by rung, then the next; classes of
    one priority go together, none below its own floor. Raises ValueError for a floor above all.
    """
    now = dict.fromkeys(classes, ladder[-1])
    levels = [Level(dict(now))]
    lowest_first = sorted(classes, key=lambda name: (classes[name].priority, name))
    for _, names in groupby(lowest_first, lambda name: classes[name].priority):
        group = list(names)
        for step in reversed(ladder[:-1]):
            lower = {name: _not_below(classes[name].floor, ladder, step) for name in group}
            if any(each is not now[name] for name, each in lower.items()):
                now |= lower
                levels.append(Level(dict(now)))
    return levels[::-1]


def ladder_of(slo_policy: SloPolicy, profile: Profile) -> list[Served]:
    """What may be served within the SLO policy's bounds, cheapest first."""
    experts = slo_policy.experts
    return profile.ladder(experts.floor, experts.ceiling, experts.prefill_ceiling)


def served_levels(slo_policy: SloPolicy, profile: Profile) -> list[Level]:
    """Those that can come to be served: only one where k' is constant, or in a dry run."""
    if slo_policy.dry_run:
        return [_all_at(slo_policy, profile, slo_policy.experts.safe)]
    if slo_policy.policy.k is not None:
        return [_all_at(slo_policy, profile, slo_policy.policy.k)]
    return levels_of(ladder_of(slo_policy, profile), slo_policy.slo_classes)


def safe_plan(slo_policy: SloPolicy, profile: Profile, epoch: int) -> Plan:
    """Every class at the safe k', or at its floor if that is higher."""
    return _all_at(slo_policy, profile, slo_policy.experts.safe).plan(epoch)


def _all_at(slo_policy: SloPolicy, profile: Profile, k: float) -> Level:
    most = slo_policy.experts.prefill_ceiling
    ladder = [profile.served(rung, most) for rung in profile.rungs]
    nearest = profile.nearest(k)
    at_k = next(each for each in ladder if each.rung is nearest)
    return Level(
        {
            name: _not_below(each.floor, ladder, at_k)
            for name, each in slo_policy.slo_classes.items()
        }
    )


def _not_below(floor: float | None, ladder: Sequence[Served], step: Served) -> Served:
    """That, or the first from the floor on if that is higher."""
    if floor is None or step.mean_k >= floor:
        return step
    higher = [each for each in ladder if each.mean_k >= floor]
    if not higher:
        raise ValueError(f"the profile has no rung from a class's floor {floor:g} to the ceiling")
    return higher[0]
