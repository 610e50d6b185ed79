"""Which rung each SLO class runs at, from the cheapest level to the best.

Takes rungs and classes; gives the order in which classes give up experts. Knows no load: what a
level costs depends on the classes' shares of the tokens, which are an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from controller.config import DEFAULT_CLASS, SloClass, SloPolicy
from controller.profiles import Profile, Rung
from controller.signals import Plan, mixed_k


@dataclass(frozen=True, slots=True)
class Level:
    """A rung for every class."""

    rungs: Mapping[str, Rung]

    def mean_k(self, shares: Mapping[str, float]) -> float:
        """Over layers and classes, by their shares of the tokens; of the default, if unknown."""
        if not shares:
            return self.rungs[DEFAULT_CLASS].mean_k
        return sum(share * self.rung(name).mean_k for name, share in shares.items())

    def layers(self, shares: Mapping[str, float]) -> tuple[float, ...]:
        """k' of every MoE layer, over classes by their shares of the tokens."""
        if not shares:
            return tuple(map(float, self.rungs[DEFAULT_CLASS].plan))
        return mixed_k((share, self.rung(name).plan) for name, share in shares.items())

    def plan(self, epoch: int) -> Plan:
        """Only classes that differ from the default one have a k' of their own in it."""
        base = self.rungs[DEFAULT_CLASS]
        own = {name: rung for name, rung in self.rungs.items() if rung.plan != base.plan}
        return Plan(
            epoch,
            base.plan,
            base.quality,
            class_k={name: rung.plan for name, rung in own.items()},
            class_quality={name: rung.quality for name, rung in own.items()},
        )

    def rung(self, slo_class: str) -> Rung:
        """Of a class; of one that it does not know, the default's."""
        return self.rungs.get(slo_class, self.rungs[DEFAULT_CLASS])


def levels_of(rungs: Sequence[Rung], classes: Mapping[str, SloClass]) -> list[Level]:
    """From the cheapest to the best; `rungs` are those from floor to ceiling, lowest first.

    Downwards the lowest priority goes to its floor first, rung by rung, then the next; classes of
    one priority go together, none below its own floor. Raises ValueError for a floor above all.
    """
    now = dict.fromkeys(classes, rungs[-1])
    levels = [Level(dict(now))]
    lowest_first = sorted(classes, key=lambda name: (classes[name].priority, name))
    for _, names in groupby(lowest_first, lambda name: classes[name].priority):
        group = list(names)
        for rung in reversed(rungs[:-1]):
            lower = {name: _not_below(classes[name].floor, rungs, rung) for name in group}
            if any(each is not now[name] for name, each in lower.items()):
                now |= lower
                levels.append(Level(dict(now)))
    return levels[::-1]


def served_levels(slo_policy: SloPolicy, profile: Profile) -> list[Level]:
    """Those that can come to be served: only one where k' is constant, or in a dry run."""
    if slo_policy.dry_run:
        return [_all_at(slo_policy, profile, slo_policy.experts.safe)]
    if slo_policy.policy.k is not None:
        return [_all_at(slo_policy, profile, slo_policy.policy.k)]
    experts = slo_policy.experts
    return levels_of(profile.within(experts.floor, experts.ceiling), slo_policy.slo_classes)


def safe_plan(slo_policy: SloPolicy, profile: Profile, epoch: int) -> Plan:
    """Every class at the safe k', or at its floor if that is higher."""
    return _all_at(slo_policy, profile, slo_policy.experts.safe).plan(epoch)


def _all_at(slo_policy: SloPolicy, profile: Profile, k: float) -> Level:
    rung, classes = profile.nearest(k), slo_policy.slo_classes
    floors = {name: each.floor for name, each in classes.items()}
    return Level({name: _not_below(floor, profile.rungs, rung) for name, floor in floors.items()})


def _not_below(floor: float | None, rungs: Sequence[Rung], rung: Rung) -> Rung:
    """The rung, or the first from the floor on if that is higher."""
    if floor is None or rung.mean_k >= floor:
        return rung
    higher = [each for each in rungs if each.mean_k >= floor]
    if not higher:
        raise ValueError(f"the profile has no rung from a class's floor {floor:g} to the ceiling")
    return higher[0]
