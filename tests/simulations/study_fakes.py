"""Studies whose figures are written down, not simulated."""

from collections.abc import Mapping, Sequence

from simulations.settings import Settings
from simulations.study import ArmRun, Scenario, Study
from simulations.traces import Request
from tests.fakes import profile, slo_policy

SCHEDULE = (Request(0.0, 100, 10), Request(1.0, 100, 10))


def arm(*worths: float, quality: float = 0.99) -> list[ArmRun]:
    """A run for each effective quality; the attainment is 0.01 above it."""
    return [
        ArmRun(
            seed,
            {
                "effective_quality": worth,
                "attainment": worth + 0.01,
                "served_quality": quality,
                "ttft_p95_s": None,
            },
            None,
        )
        for seed, worth in enumerate(worths)
    ]


def study(runs: Mapping[str, Sequence[ArmRun]], best_static: str = "") -> Study:
    num_seeds = len(next(iter(runs.values())))
    schedules = dict.fromkeys(range(num_seeds), SCHEDULE)
    scenario = Scenario("by hand", None, schedules, slo_policy(), profile(), Settings())
    return Study(scenario, runs, best_static)
