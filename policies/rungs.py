"""The rungs a policy may choose from."""

from controller.profiles import Profile, Rung


def rungs_within(profile: Profile, floor: float, ceiling: float) -> list[Rung]:
    """From the lowest up; there is at least one."""
    rungs = [rung for rung in profile.rungs if floor <= rung.mean_k <= ceiling]
    if not rungs:
        raise ValueError(f"the profile has no rung between floor {floor} and ceiling {ceiling}")
    return rungs
