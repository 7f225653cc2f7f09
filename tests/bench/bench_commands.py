"""How long the commands take as whole processes, beside a named reference. Prints a table, asserts nothing.

Time of the clock, and of processors: that hangs less on what else the machine does.

Python's own cache of what it compiled is on for both, as it is where the commands are installed.
"""

import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from timing import options

SCRIPTS = Path(sysconfig.get_path("scripts"))
REFERENCE = [sys.executable, "-c", "import click, numpy"]
COMMANDS = {
    "simulate": [SCRIPTS / "simulate"],
    "specsim --help": [SCRIPTS / "specsim", "--help"],
    "simulate --help": [SCRIPTS / "simulate", "--help"],
    "simulate --version": [SCRIPTS / "simulate", "--version"],
    "sweep --help": [SCRIPTS / "sweep", "--help"],
    "measure-acceptance --help": [SCRIPTS / "measure-acceptance", "--help"],
    "simulate --total 100000000": [SCRIPTS / "simulate", "--total", "100000000"],
}


def times_s() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def once_s(command: list) -> tuple[float, ...]:
    """Return the seconds of the clock and of processors."""
    began = times_s()
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, capture_output=True, env=cached)
    return tuple(end - start for start, end in zip(began, times_s(), strict=True))


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    print(f"{'command':28} {'median s':>9} {'over reference':>15} {'of CPU':>9}   reference: import click, numpy")
    print(f"{'':64}   bar for simulate: 1.5x")
    for name, command in list(COMMANDS.items())[: 1 if smoke else None]:
        once_s(command)
        # In turn, so that a drift of the machine meets both alike.
        pairs = [(once_s(command), once_s(REFERENCE)) for _ in range(1 if smoke else 15)]
        of_clock, of_cpu = (statistics.median(ours[i] / other[i] for ours, other in pairs) for i in (0, 1))
        median = statistics.median(ours[0] for ours, _ in pairs)
        print(f"{name:28} {median:>9.3f} {of_clock:>14.2f}x {of_cpu:>8.2f}x")


if __name__ == "__main__":
    main()
