"""One trace answers many questions: every draft length, two kinds of draft, and draft-length policies.

    python examples/02_one_trace.py --out out

Lets the bundled target write at temperature 1, then asks the trace; no model runs a second time.
"""

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

from acceptance import Q_KINDS, analyse, load_trace

SCRIPTS = Path(sysconfig.get_path("scripts"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write (default: out)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="tokens the target writes a prompt")
    parser.add_argument("--draft-cost", type=float, default=0.1, help="a draft pass over a target pass")
    options = parser.parse_args()

    measured = ("--temperature", "1", "--k", "1:8", "--max-new-tokens", str(options.max_new_tokens))
    picture = options.out / "acceptance.png"
    words = [*measured, "--out-dir", str(options.out), "--plot", str(picture), "--force"]
    print(f"$ measure-acceptance {' '.join(words)}", flush=True)
    done = subprocess.run([SCRIPTS / "measure-acceptance", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)

    trace, told = load_trace(options.out / "trace.json")
    found = {
        kind: analyse(trace, range(1, 9), temperature=told["temperature"], q_kind=kind, draft_cost=options.draft_cost)
        for kind in Q_KINDS
    }
    print(f"Speedup by policy and kind of draft, a draft pass at {options.draft_cost:g} of a target pass:\n")
    print(f"{'policy':26}" + "".join(f"{kind + ' draft':>16}" for kind in Q_KINDS))
    for name in found["sampled"].policies:
        speedups = [found[kind].policies[name].speedup for kind in Q_KINDS]
        cells = (f"{low:.2f}x" if low == high else f"{low:.2f}..{high:.2f}x" for low, high in speedups)
        print(f"{name:26}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
