"""Whether a machine has nothing else to draw or compute: a desktop, or other processes on its GPUs."""

import os
from collections.abc import Mapping, Sequence

from simulator.ground.artefacts import UserError

from .machine import graphical_session, open_nvml


def check_display(environment: Mapping[str, str]) -> None:
    """Refuse a machine with a desktop session."""
    name = graphical_session(environment)
    if name:
        raise UserError(f"--require-headless: {name} is {environment[name]!r}, expected no desktop session")


def check_gpus(devices: Sequence[str]) -> None:
    """Refuse GPUs that other processes use, where NVML tells of them: those of other containers it may not see."""
    nvml, gpus = open_nvml(devices)
    for gpu in gpus:
        others = sorted(((nvml and nvml.processes(gpu)) or set()) - {os.getpid()})
        if others:
            processes = ", ".join(map(str, others))
            raise UserError(f"--require-headless: processes {processes} use the GPU too, expected no others")
