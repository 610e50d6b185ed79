"""A profile for a machine it was not made on: the step times anew by a short probe, the rest kept.

Quality, losses of layers and the ladder are the checkpoint's; only time is the machine's.
"""

import time
from collections.abc import Sequence

from controller.profiles import Profile, Rescaled
from runtime.calibrate import describe_steps, headroom
from runtime.checkpoint import Checkpoint
from runtime.machine import this_machine
from runtime.step_fit import Shape, TimedStep, Timings
from runtime.step_times import Bench, is_held_out, time_round

PROBE_S = 20.0
MIN_ROUNDS = 2


def rescale(
    profile: Profile,
    checkpoint: Checkpoint,
    text_ids: Sequence[int],
    threads: int,
    probe_s: float = PROBE_S,
) -> Profile:
    """The profile with step times of this machine, and marked so.

    `threads` is what torch has been set to. Times the cheapest, the middle and the full rung, over
    and over, for about `probe_s` seconds.
    """
    middle = profile.rungs[len(profile.rungs) // 2]
    plans = [*dict.fromkeys((profile.rungs[0].plan, middle.plan, profile.full.plan))]
    timed: list[TimedStep] = []
    with Bench(checkpoint.model, checkpoint.dial, profile.max_batch_tokens, text_ids) as bench:
        started_s, number = time.monotonic(), 0
        while number < MIN_ROUNDS or time.monotonic() - started_s < probe_s:
            timed += time_round(bench, plans, number)
            number += 1
    layers = profile.step_time.layers
    timings = Timings(timed, [(layer.num_experts, layer.size) for layer in layers])

    def held_out(shape: Shape) -> bool:
        return is_held_out(shape, profile.max_batch_tokens)

    model = timings.fit(timings.points(lambda shape: not held_out(shape)))
    chunk, full = profile.max_batch_tokens, profile.full.plan
    return profile.model_copy(
        update={
            "machine": this_machine(checkpoint.model.dtype, threads),
            "step_time": model,
            "fit": describe_steps(timings, model, held_out, plans[0], full, chunk),
            "headroom": headroom(timed, plans[0], full, chunk),
            "rescaled": Rescaled(
                measured_on=profile.rescaled.measured_on if profile.rescaled else profile.machine,
                ratio=model.prompt_s(full, chunk, chunk)
                / profile.step_time.prompt_s(full, chunk, chunk),
            ),
        }
    )
