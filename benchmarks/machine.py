"""The machine that a live controller found, as settings of a simulated one.

Takes the decisions of a live run and the way to its replicas; gives the profile's machine, slower
and scattered, and slower again while both replicas are busy, on which a simulated controller finds
the same under the same schedule (Gourieroux, Monfort and Renault, "Indirect inference", Journal of
Applied Econometrics 8, 1993).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

from commands.stage import REPLICAS
from controller.config import SloPolicy
from controller.profiles import Profile
from controller.signals import Correction
from simulations.schedule import Requests
from simulations.settings import Noise, Settings, Way
from simulations.simulate import simulate
from simulations.timeline import Tick, step_time_error

# Of two replicas on two cores, measured step by step (docs/log.md).
LASTS_S = 0.056  # for what steps have in common
WARM_UP_S = 10.0  # a simulated controller begins without having seen a step
FITS = 2
SEEDS = range(5)
CONTEXT_TOKENS = 256  # of a step that tells how slow a machine is


@dataclass(frozen=True)
class Found:
    """What a controller says of the machine that it runs on, the mean over its decisions."""

    correction: Correction
    error: float  # of step times so corrected
    mean_k: float  # that it decided on meanwhile

    def step_s(self, profile: Profile) -> float:
        """Of a request that decodes alone: how slow the machine is, in one number."""
        model = profile.step_time.corrected(self.correction)
        return model.decode_s(profile.nearest(self.mean_k).plan, CONTEXT_TOKENS, 1)


def found_by(ticks: Sequence[Tick]) -> Found | None:
    """None: it has found nothing."""
    warm = [tick for tick in ticks if tick.at_s >= WARM_UP_S]
    known = [tick.correction for tick in warm if tick.correction is not None]
    error = step_time_error(warm)
    if not known or error is None:
        return None
    return Found(
        Correction(
            fmean(each.base for each in known),
            fmean(each.experts for each in known),
            fmean(each.rest for each in known),
            fmean(each.decode_token_s for each in known),
        ),
        error,
        fmean(tick.mean_k for tick in warm),
    )


def machine_of(
    live: Found | None,
    way: Way | None,
    schedule: Requests,
    slo_policy: SloPolicy,
    profile: Profile,
    contention: float,
) -> Settings:
    """On which a simulated controller finds what the live one has found; `contention` as measured
    (`benchmarks.contention`).
    """
    if live is None:
        return Settings(replicas=REPLICAS, way=way)
    slower, sigma = 1.0, live.error
    settings = _settings(live.correction, slower, sigma, way, contention)
    for _ in range(FITS):
        runs = [simulate(schedule, slo_policy, profile, settings, seed) for seed in SEEDS]
        there = [each for each in (found_by(run.ticks) for run in runs) if each is not None]
        if not there:
            break
        slower *= live.step_s(profile) / fmean(each.step_s(profile) for each in there)
        sigma *= live.error / fmean(each.error for each in there)
        settings = _settings(live.correction, slower, sigma, way, contention)
    return settings


def _settings(
    correction: Correction, slower: float, sigma: float, way: Way | None, contention: float
) -> Settings:
    return Settings(
        replicas=REPLICAS,
        actual=Correction(*(slower * part for part in astuple(correction))),
        contention=contention,
        noise=Noise(sigma, LASTS_S),
        way=way,
    )
