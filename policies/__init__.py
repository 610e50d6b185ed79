"""Opinions: how many experts a token deserves now, and why.

`POLICIES` names them; `build` makes the one an SLO policy asks for, inside its guard, and
`controller_of` the controller around it.
"""

from collections.abc import Callable

from controller.allocator import Allocator
from controller.config import SloPolicy
from controller.estimator import Estimator
from controller.journal import Journal
from controller.levels import served_levels
from controller.loop import Controller
from controller.policy import Policy
from controller.profiles import Profile
from controller.signals import Plan
from policies.aimd import Aimd
from policies.fixed import Fixed
from policies.goals import Goals
from policies.gradient import Gradient
from policies.guarded import Guarded
from policies.ladder import Ladder
from policies.lp import Lp
from policies.pid import Pid
from policies.slackfit import SlackFit
from policies.trusting import Trusting

Make = Callable[[SloPolicy, Profile], Policy]


def _planned(policy: Callable[[Profile, Goals], Policy]) -> Make:
    """Of a class that needs to know no more than its goals."""
    return lambda slo_policy, profile: policy(profile, Goals.of(slo_policy))


POLICIES: dict[str, Make] = {
    "aimd": _planned(Aimd),
    "fixed": Fixed.from_slo_policy,
    "gradient": _planned(Gradient),
    "ladder": _planned(Ladder),
    "lp": _planned(Lp),
    "pid": _planned(Pid),
    "predictive": Trusting.from_slo_policy,  # the ladder speaks while the model is wrong
    "slackfit": _planned(SlackFit),
}


def controller_of(
    slo_policy: SloPolicy, profile: Profile, estimator: Estimator, journal: Journal, plan: Plan
) -> Controller:
    """One that begins to decide under `slo_policy`, `plan` being served."""
    allocator = Allocator(served_levels(slo_policy, profile))
    policy = build(slo_policy, profile)
    return Controller(estimator, policy, allocator, journal, plan, slo_policy.dry_run)


def build(slo_policy: SloPolicy, profile: Profile) -> Policy:
    """The policy named in `slo_policy`, guarded."""
    experts = slo_policy.experts
    return Guarded(
        POLICIES[slo_policy.policy.name](slo_policy, profile),
        floor=experts.floor,
        ceiling=experts.ceiling,
        dwell_s=slo_policy.guard.dwell_s,
        tolerance=slo_policy.guard.tolerance,
    )
