"""A live schedule as the fluid model has it: work in requests, rungs at measured rates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from commands.stage import REPLICAS, Capacity, Material
from controller.config import Slo
from controller.profiles import Rung
from simulations.oracle import Fluid, best_static, binned
from simulations.rates import FloatArray, anchored, rung_rates
from simulations.schedule import mean_lengths
from simulations.traces import Request

WINDOW_S = 0.5


@dataclass(frozen=True)
class Rungs:
    """Those within a policy's bounds, cheapest first, and requests/s at each."""

    rungs: Sequence[Rung]
    rates_C: FloatArray

    @classmethod
    def measured(cls, material: Material, capacity: Capacity) -> "Rungs":
        """The profile's rates, moved to what was measured at the floor and at full k'."""
        profile, experts = material.profile, material.slo_policy.experts
        inside = [
            number
            for number, rung in enumerate(profile.rungs)
            if experts.floor <= rung.mean_k <= experts.ceiling
        ]
        rates_C = rung_rates(profile, *mean_lengths(material.requests), REPLICAS)[inside]
        ends = (capacity.floor_rps, capacity.full_rps)
        moved_C = anchored(rates_C, 0, len(inside) - 1, ends)
        return cls([profile.rungs[number] for number in inside], moved_C)

    @property
    def qualities_C(self) -> FloatArray:
        return np.array([rung.quality for rung in self.rungs])

    def best_constant(self, fluids: dict[str, Fluid]) -> int:
        """The k' of the best constant that a fixed policy can name, by the stricter deadline."""
        whole = [number for number, rung in enumerate(self.rungs) if rung.mean_k.is_integer()]
        fluid = fluids["first_token"]
        named = replace(fluid, rates_C=fluid.rates_C[whole], qualities_C=fluid.qualities_C[whole])
        return int(self.rungs[whole[best_static(named)]].mean_k)


def fluids_of(schedule: Sequence[Request], rungs: Rungs, slo: Slo) -> dict[str, Fluid]:
    """By when all of a request's work is due, for which the fluid has one deadline.

    first_token: within the TTFT objective; stricter than what is promised, since answers may take
    longer. last_token: a mean answer at the TPOT objective later; laxer, since a prompt may not.
    What a clairvoyant could do lies between.
    """
    arrivals_T = binned(np.array([request.arrival_s for request in schedule]), WINDOW_S)
    _, output_tokens = mean_lengths(schedule)
    answer_s = slo.tpot_s * (output_tokens - 1)
    deadlines_s = {"first_token": slo.ttft_s, "last_token": slo.ttft_s + answer_s}
    return {
        name: Fluid(arrivals_T, WINDOW_S, deadline_s, rungs.rates_C, rungs.qualities_C)
        for name, deadline_s in deadlines_s.items()
    }
