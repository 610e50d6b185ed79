"""What all arms of a study had in common, as facts by name."""

from controller.config import Experts, SloPolicy
from controller.profiles import Profile
from controller.signals import Correction
from simulations.arms import ADMISSION_ONLY
from simulations.faults import Fault, ReplicaLost, Silence
from simulations.settings import Settings
from simulations.study import Study


def conditions(study: Study) -> dict[str, str]:
    scenario = study.scenario
    profile, slo_policy, settings = scenario.profile, scenario.slo_policy, scenario.settings
    seeds = ", ".join(map(str, scenario.schedules))
    counts = sorted({len(requests) for requests in scenario.schedules.values()})
    requests = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    load = "" if scenario.load is None else f"{scenario.load:g} times the capacity at full k', "
    return {
        "Load": f"{scenario.name}: {load}{requests} requests; open loop, virtual time",
        "Seeds": f"{seeds}; of one seed every arm has the same schedule and the same draws",
        "Profile": f"checkpoint {profile.checkpoint_sha256[:12]}, {profile.engine}; "
        f"{profile.machine}; {profile.calibrated}",
        "Objectives": _objectives(slo_policy),
        "Bounds of k'": _bounds(slo_policy.experts),
        "Admission": _admission(slo_policy, ADMISSION_ONLY in study.runs),
        "Cadence": f"decided every {slo_policy.cadence.tick_s:g} s on heartbeats of every "
        f"{slo_policy.cadence.heartbeat_s:g} s; stale after {slo_policy.cadence.stale_s:g} s, "
        f"leases of {slo_policy.cadence.lease_s:g} s",
        "Guard": f"k' raised {slo_policy.guard.dwell_s:g} s after a change at the earliest, and by "
        f"{slo_policy.guard.tolerance:g} at least",
        "Replicas": _replicas(settings),
        "Delays": f"network {1000 * settings.network_s:g} ms, a new plan "
        f"{1000 * settings.actuation_s:g} ms and the step that runs, start of a replica "
        f"{settings.start_up_s:g} s",
        "Step times": _step_times(profile, settings),
        "Faults": "; ".join(map(_fault, settings.faults)) or "none",
    }


def _bounds(experts: Experts) -> str:
    most = experts.prefill_ceiling
    prompts = "" if most is None else f"; prompts at {most} at most"
    return f"{experts.floor} to {experts.ceiling}{prompts}"


def _objectives(slo_policy: SloPolicy) -> str:
    classes = (
        f"{name}: TTFT {slo.ttft_s:g} s, TPOT {slo.tpot_s:g} s"
        for name, slo in slo_policy.slo_classes.items()
    )
    return f"{'; '.join(classes)}; planned for {slo_policy.slo.margin:.0%} of them"


def _admission(slo_policy: SloPolicy, with_admission_only: bool) -> str:
    admission = slo_policy.admission
    refuses = (
        "the longest prompts of a queue that cannot all be in time are refused, with room for the "
        "error of step times, by the lowest k' that may come and, once k' had the time to follow, "
        "by the one that runs"
    )
    if admission.late == "serve":
        but = f" (by {ADMISSION_ONLY} {refuses})" if with_admission_only else ""
        refuses = f"what is late is served{but}"
    return (
        f"at most {admission.max_waiting} waiting requests of a class on a replica; {refuses}; "
        f"shed from a queue that has stood for {admission.standing_s:g} s"
    )


def _replicas(settings: Settings) -> str:
    low, high = settings.bounds
    follows = f" at the start, then by load {low} to {high}" if settings.scales else ""
    return f"{settings.replicas}{follows}; each with a cache of {settings.cache_tokens:,} tokens"


def _step_times(profile: Profile, settings: Settings) -> str:
    noise, actual = settings.noise, settings.actual
    text = f"by the profile, off by {profile.fit.mape_held_out:.1%} in the mean as its fit is"
    if noise is not None:
        alike = f"that lasts {noise.lasts_s:g} s" if noise.lasts_s else "in each step alone"
        text = f"by the profile, with noise of sigma {noise.sigma:g} {alike}"
    if actual == Correction():
        return text
    return (
        f"{text}; what the controller does not know: the fixed part takes {actual.base:g} times as "
        f"long, experts {actual.experts:g} times, the rest {actual.rest:g} times, and a decoding "
        f"token {1e3 * actual.decode_token_s:g} ms more"
    )


def _fault(fault: Fault) -> str:
    if isinstance(fault, ReplicaLost):
        return f"replica {fault.replica} lost at {fault.at_s:g} s"
    whose = "every replica" if fault.replica is None else f"replica {fault.replica}"
    what = "unheard" if isinstance(fault, Silence) else f"steps take {fault.factor:g} times as long"
    until = "the end" if fault.until_s == float("inf") else f"{fault.until_s:g} s"
    return f"{whose}: {what} from {fault.from_s:g} s to {until}"
