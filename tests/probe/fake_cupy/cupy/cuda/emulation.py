"""The emulated machine: its devices, the error it is left with, its time, and the faults a test asks for.

The environment variable FAKE_CUPY holds JSON with the fields of `Machine`, for tests that run a command.
"""

import json
import os
from dataclasses import dataclass, field

STICKY = 700


@dataclass
class Machine:
    """What a test may set.

    `fails` names what goes wrong, and how: a kernel or "open" with an error code of CUDA, "gemm" with one of cuBLAS,
    "wrong gemm" with anything, "compile" and "cublas" with a text.
    """

    devices: int = 1
    multiprocessors: int = 2
    l2_bytes: int = 1 << 14
    memory_bytes: int = 1 << 30
    launch_s: float = 2e-3
    fails: dict = field(default_factory=dict)
    error: int = 0
    time_s: float = 0.0
    current_device: int = 0
    used_bytes: int = 0
    log: list = field(default_factory=list)


machine = Machine(**json.loads(os.environ.get("FAKE_CUPY", "{}")))


def restart(**changes):
    """Make it a new machine."""
    machine.__init__(**changes)


def alive():
    """Raise the error that the device has been left with: it answers every call from then on."""
    if machine.error:
        from .runtime import CUDARuntimeError

        raise CUDARuntimeError(machine.error)


def synchronous(what):
    """Do what waits for the device, which a capture forbids."""
    alive()
    from .runtime import CUDARuntimeError
    from .stream import get_current_stream

    if get_current_stream().captured is not None:
        raise CUDARuntimeError(900)


def run(name, action, stream):
    """Do one thing that goes on a stream, or record it there."""
    alive()
    if stream.captured is not None:
        stream.captured.append((name, action))
    else:
        do(name, action)


def do(name, action):
    """Do it now, and let its time pass; an illegal address shows in the next call, as it does on a device."""
    code = machine.fails.get(name)
    if code and code != STICKY:
        from .runtime import CUDARuntimeError

        raise CUDARuntimeError(code)
    machine.log.append(name)
    machine.time_s += machine.launch_s
    if code:
        machine.error = code
    else:
        action()
