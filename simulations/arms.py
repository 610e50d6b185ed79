"""The arms of a comparison, as SLO policies that differ in nothing but who chooses k'.

Takes an operator's SLO policy and a profile; gives what each arm runs under. `best-static` and
`oracle` are known here by name only: the one is chosen in hindsight, the other is reckoned.
"""

from collections.abc import Mapping

from controller.config import PolicyChoice, PolicyName, SloPolicy
from controller.levels import ladder_of
from controller.profiles import Profile

STATIC_FULL, BEST_STATIC, ORACLE = "static-full", "best-static", "oracle"
ADMISSION_ONLY = "admission-only"
MOVERS: tuple[PolicyName, ...] = (
    "ladder",
    "aimd",
    "gradient",
    "pid",
    "slackfit",
    "lp",
    "predictive",
)


def static_arms(slo_policy: SloPolicy, profile: Profile) -> dict[str, SloPolicy]:
    """One for every rung within the bounds, from the lowest k' to the highest.

    Raises ValueError where the profile has none.
    """
    mean_ks = [each.mean_k for each in ladder_of(slo_policy, profile)]
    return {f"static-{k:g}": _under(slo_policy, PolicyChoice(name="fixed", k=k)) for k in mean_ks}


def simulated_arms(slo_policy: SloPolicy, profile: Profile) -> dict[str, SloPolicy]:
    """All that a controller can be, under the names of `kprime simulate`.

    Every arm acts, also where the SLO policy asks for a dry run. Full k' is the highest rung within
    the bounds.
    """
    statics = static_arms(slo_policy, profile)
    full = list(statics.values())[-1]
    return {
        **statics,
        STATIC_FULL: full,
        **{name: _under(slo_policy, PolicyChoice(name=name)) for name in MOVERS},
        ADMISSION_ONLY: _refusing(full),
    }


def arm_names(simulated: Mapping[str, SloPolicy]) -> list[str]:
    """All that can be asked for, in the order of `all`."""
    names = list(simulated)
    after_full = names.index(STATIC_FULL) + 1
    return [*names[:after_full], BEST_STATIC, *names[after_full:], ORACLE]


def parse_arms(text: str, accepted: list[str]) -> list[str]:
    """`all`, or names with commas between; a ValueError for the first that is none, or is there
    twice.
    """
    if text.strip() == "all":
        return accepted
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in accepted or names.count(name) > 1:
            why = "is given twice" if name in accepted else "is no arm"
            raise ValueError(
                f"{name!r} {why}: expected all, or, each once, some of {', '.join(accepted)}"
            )
    return names


def _under(slo_policy: SloPolicy, choice: PolicyChoice) -> SloPolicy:
    return slo_policy.model_copy(update={"policy": choice, "mode": "act"})


def _refusing(slo_policy: SloPolicy) -> SloPolicy:
    """What comes too late is refused, whatever the SLO policy or one of its classes says."""
    classes = {
        name: each.model_copy(update={"late": "refuse"}) if each.late == "serve" else each
        for name, each in slo_policy.classes.items()
    }
    admission = slo_policy.admission.model_copy(update={"late": "refuse"})
    return slo_policy.model_copy(update={"admission": admission, "classes": classes})
