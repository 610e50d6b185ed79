"""Opinions: how many experts a token deserves now, and why.

`POLICIES` names them; `build` makes the one an SLO policy asks for, inside its guard.
"""

from collections.abc import Callable

from controller.config import SloPolicy
from controller.policy import Policy
from controller.profiles import Profile
from policies.aimd import Aimd
from policies.fixed import Fixed
from policies.gradient import Gradient
from policies.guarded import Guarded
from policies.ladder import Ladder
from policies.lp import Lp
from policies.pid import Pid
from policies.slackfit import SlackFit
from policies.trusting import Trusting

POLICIES: dict[str, Callable[[SloPolicy, Profile], Policy]] = {
    "aimd": Aimd.from_slo_policy,
    "fixed": Fixed.from_slo_policy,
    "gradient": Gradient.from_slo_policy,
    "ladder": Ladder.from_slo_policy,
    "lp": Lp.from_slo_policy,
    "pid": Pid.from_slo_policy,
    "predictive": Trusting.from_slo_policy,  # the ladder speaks while the model is wrong
    "slackfit": SlackFit.from_slo_policy,
}


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
