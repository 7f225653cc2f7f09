"""A command run in our place: it keeps stdin, stdout and stderr, gets the signals that we get, and its end is ours."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from simulator.ground.artefacts import UserError
from simulator.ground.endings import EXIT_BY_SIGNAL, handled

NAP_S = 0.05


def sent_to_all(number: int) -> bool:
    """Say whether a terminal has sent this signal to the command already: Ctrl-C goes to the whole foreground group."""
    if number != signal.SIGINT:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def check(words: Sequence[str]) -> None:
    """Refuse a command that cannot be started: there is no such program."""
    if shutil.which(words[0]) is None:
        raise UserError(f"COMMAND: {words[0]!r} is no program that can be run")


def run(words: Sequence[str]) -> int:
    """Run a command to its end and return its exit code; 128 plus the signal where one killed it."""
    early: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int) -> None:
        if child is None:
            early.append(number)
        elif not sent_to_all(number):
            child.send_signal(number)

    with handled(lambda number, _: forward(number)):
        try:
            child = subprocess.Popen(words)
        except OSError as error:
            raise UserError(f"COMMAND: {words[0]!r} cannot be run ({error.strerror})") from None
        for number in early:
            child.send_signal(number)
        code = child.wait()
    return EXIT_BY_SIGNAL - code if code < 0 else code


def wait(duration_s: float | None) -> int | None:
    """Wait for the time, or for ever where it is None, or for a signal, whose number is returned."""
    came: list[int] = []
    end_s = None if duration_s is None else time.monotonic() + duration_s
    with handled(lambda number, _: came.append(number)):
        while not came:
            left_s = NAP_S if end_s is None else end_s - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(left_s, NAP_S))
    return came[0]
