"""The profile for this machine: the one given, or a rescaled copy of it if it is of another."""

import hashlib
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from commands.exits import FAILED, stop

RESCALED = Path("runs/profiles")


def profile_here(console: Console, checkpoint: Path, profile_file: Path) -> Path:
    """Raises ProfileError for a file that is none, or of another checkpoint.

    The probe runs in a process of its own, which loads the model and takes about half a minute.
    """
    from controller.profiles import ProfileError
    from runtime.checkpoint import best_dtype, load_profile_of
    from runtime.machine import same_machine, this_machine

    profile = load_profile_of(checkpoint, profile_file)
    here = this_machine(best_dtype(), profile.machine.threads)
    if same_machine(profile.machine, here):
        return profile_file
    # Made anew when the profile is.
    rescaled = RESCALED / f"{hashlib.sha256(profile_file.read_bytes()).hexdigest()[:12]}.json"
    try:
        if same_machine(load_profile_of(checkpoint, rescaled).machine, here):
            return rescaled
    except ProfileError:
        pass  # none yet, or of an older calibration
    console.print(f"the profile was made on {profile.machine}; this is {here}")
    RESCALED.mkdir(parents=True, exist_ok=True)
    arguments = ["--checkpoint", checkpoint, "--rescale", profile_file, "--out", rescaled]
    arguments += ["--threads", profile.machine.threads]
    command = [sys.executable, "-m", "commands.main", "calibrate", *map(str, arguments)]
    with console.status("probing step times for 20 s"):
        probe = subprocess.run(command, capture_output=True, text=True, check=False)
    if probe.returncode:
        stop(f"the probe failed:\n{probe.stderr}", FAILED)
    console.print(f"rescaled by a probe: {rescaled}")
    return rescaled
