"""How much exact speculative decoding gains on this machine, against plain decoding in the same run.

The target is the bundled one with sixteen times the weights, in bfloat16: a CPU verifies several tokens at about the
cost of one there, and the draft costs a small part of the target, as for the pairs that are used in earnest.
"""

import subprocess
import sysconfig
import tempfile
from pathlib import Path

ARMS = ("speculative", "eagle", "prompt-lookup")


def main() -> None:
    command = Path(sysconfig.get_path("scripts")) / "bench-decode"
    told = ["--inflate-target", 16, "--dtype", "bfloat16", "--k", 3, "--max-prompts", 24, "--max-new-tokens", 96]
    with tempfile.TemporaryDirectory() as folder:
        words = [command, "--method", ",".join(ARMS), *told, "--out", Path(folder) / "decode.jsonl"]
        subprocess.run(list(map(str, words)), check=True)


if __name__ == "__main__":
    main()
