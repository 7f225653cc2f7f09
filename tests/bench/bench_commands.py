"""How long the commands take as whole processes, beside a named reference. Prints a table, asserts nothing."""

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
REFERENCE = [sys.executable, "-c", "import click, numpy"]
COMMANDS = {
    "specsim --help": [SCRIPTS / "specsim", "--help"],
    "simulate --help": [SCRIPTS / "simulate", "--help"],
    "simulate --version": [SCRIPTS / "simulate", "--version"],
    "sweep --help": [SCRIPTS / "sweep", "--help"],
    "measure-acceptance --help": [SCRIPTS / "measure-acceptance", "--help"],
    "simulate": [SCRIPTS / "simulate"],
    "simulate --total 100000000": [SCRIPTS / "simulate", "--total", "100000000"],
}


def once_s(command: list) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    print(f"{'command':28} {'median s':>9} {'over reference':>15}   reference: python -c 'import click, numpy'")
    for name, command in COMMANDS.items():
        once_s(command)
        # In turn, so that a drift of the machine meets both alike.
        pairs = [(once_s(command), once_s(REFERENCE)) for _ in range(9)]
        ratio = statistics.median(ours / reference for ours, reference in pairs)
        print(f"{name:28} {statistics.median(ours for ours, _ in pairs):>9.3f} {ratio:>14.2f}x")


if __name__ == "__main__":
    main()
