"""How much exact speculative decoding gains on this machine, against plain decoding in the same run.

The target is the bundled one with sixteen times the weights, in bfloat16: a CPU verifies several tokens at about the
cost of one there, and the draft costs a small part of the target, as for the pairs that are used in earnest.
"""

import tempfile
from pathlib import Path

from timing import options

from acceptance.cli.bench_decode import bench_decode

METHODS = ("speculative", "eagle", "prompt-lookup")


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    sizes = {"--inflate-target": 16, "--max-prompts": 24, "--max-new-tokens": 96, "--k": 3}
    if smoke:
        sizes |= {"--inflate-target": 1, "--max-prompts": 1, "--max-new-tokens": 4, "--k": 1}
    told = [str(word) for pair in sizes.items() for word in pair]
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--method",
            ",".join(METHODS),
            "--dtype",
            "bfloat16",
            *told,
            "--out",
            str(Path(folder) / "decode.jsonl"),
        ]
        bench_decode.main(words)


if __name__ == "__main__":
    main()
