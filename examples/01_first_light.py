"""From a real draft/target pair to a speedup surface, with the three commands that a user would type.

    python examples/01_first_light.py --out out

Measures the bundled pair, simulates K = 4 with the measured histogram, and sweeps K against the draft's cost.
"""

import argparse
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))


def run(command: str, *arguments: object) -> None:
    """Show a command as a user would type it, run it, and stop where it fails."""
    words = [str(a) for a in arguments]
    print(f"\n$ {command} {' '.join(words)}", flush=True)
    finished = subprocess.run([SCRIPTS / command, *words], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write (default: out)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="tokens the target writes a prompt")
    options = parser.parse_args()
    out, began = options.out, time.monotonic()

    measured = ("--k", "1:8", "--max-new-tokens", options.max_new_tokens, "--out-dir", out, "--force")
    run("measure-acceptance", *measured)
    hist = out / "accept_hist_k4.json"
    run("simulate", "--draftN", 4, "--hist", hist, "--csv", out / "simulate_k4.csv", "--force")
    sweep = ("--hist", out, "--draftN", "1:8")
    surface, curves = out / "speedup_surface.png", out / "speedup_by_k.png"
    table = out / "sweep.csv"
    run("sweep", *sweep, "--draft-cost", "0.02:0.5:0.02", "--out", table, "--plot", surface, "--force")
    run("sweep", *sweep, "--draft-cost", "0.05,0.1,0.2,0.4", "--plot", curves, "--plot-kind", "curves", "--force")

    print(f"\nFiles in {out}/ after {time.monotonic() - began:.0f} s:")
    for path in sorted(p for p in out.iterdir() if p.is_file()):
        print(f"  {path.name:24} {path.stat().st_size / 1024:8.1f} KiB")


if __name__ == "__main__":
    main()
