"""How long the commands take as whole processes, beside a named reference. Prints a table, asserts nothing.

Python's own cache of what it compiled is on for both, as it is where the commands are installed.
"""

import os
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


def once_s(command: list) -> float:
    began = time.perf_counter()
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, capture_output=True, env=cached)
    return time.perf_counter() - began


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    print(f"{'command':28} {'median s':>9} {'over reference':>15}   reference: python -c 'import click, numpy'")
    print(f"{'':54}   bar for simulate: 1.5x")
    for name, command in list(COMMANDS.items())[: 1 if smoke else None]:
        once_s(command)
        # In turn, so that a drift of the machine meets both alike.
        pairs = [(once_s(command), once_s(REFERENCE)) for _ in range(1 if smoke else 9)]
        ratio = statistics.median(ours / reference for ours, reference in pairs)
        print(f"{name:28} {statistics.median(ours for ours, _ in pairs):>9.3f} {ratio:>14.2f}x")


if __name__ == "__main__":
    main()
