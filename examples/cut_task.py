"""Cut the bundled next-token task: held-out code in two, a prompt and the tokens that really follow.

    python examples/cut_task.py --out acceptance/tiny_pair/task.jsonl

Each is cut within a line at a place where tokenizing both parts apart gives the tokens of the whole. Every file is cut
once before any is cut again, elsewhere: the first items are of different files.
"""

import json
import sysconfig
from pathlib import Path
from typing import Any

import click
import numpy as np
from train_tiny_pair import is_held_out, read_sources
from transformers import AutoTokenizer

import acceptance
from simulator.ground.artefacts import check_output, writing
from simulator.ground.command import command

TARGET = Path(acceptance.__file__).parent / "tiny_pair" / "target"
PROMPT_TOKENS = 128
# No item of a file that is too short to have a middle.
LEAST_TOKENS = 1024


def cut(
    text: str, tokenizer: Any, reference_tokens: int, taken: list[int], rng: np.random.Generator
) -> tuple[str, str] | None:
    """Return prompt and reference from a random place of a text; none where no place was found.

    Args:
        text: Of a file.
        tokenizer: Whose tokens are counted.
        reference_tokens: Tokens behind the prompt.
        taken: Where earlier items of the file begin, which this one does not overlap; grows.
        rng: Draws the place.
    """
    tokens, length = tokenizer(text).input_ids, PROMPT_TOKENS + reference_tokens
    for _ in range(100):
        if len(tokens) < LEAST_TOKENS:
            return None
        begin = int(rng.integers(0, len(tokens) - length))
        middle = begin + PROMPT_TOKENS
        if any(abs(begin - other) < length for other in taken):
            continue
        parts = tokens[begin:middle], tokens[middle : middle + reference_tokens]
        prompt, reference = map(tokenizer.decode, parts)
        unfit = prompt.endswith((" ", "\n")) or "\ufffd" in prompt + reference
        if not unfit and [tokenizer(prompt).input_ids, tokenizer(reference).input_ids] == list(parts):
            taken.append(begin)
            return prompt, reference
    return None


@command("cut_task.py")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.option("--files", default=64, help="Files.")
@click.option("--cuts", default=4, help="Items of each file.")
@click.option("--reference-tokens", default=32, help="Tokens that follow each prompt.")
@click.option("--seed", default=20, help="Seed of files and places.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def main(out: Path, files: int, cuts: int, reference_tokens: int, seed: int, force: bool) -> None:
    """Cut the task and write it to --out."""
    check_output("--out", out, force)
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    sources = read_sources(Path(sysconfig.get_path("stdlib")))
    paths = sorted(path for path in sources if is_held_out(path))
    rng = np.random.default_rng(seed)
    taken: dict[str, list[int]] = {paths[i]: [] for i in rng.permutation(len(paths))}
    rows = []
    for _ in range(cuts):
        fresh: list[dict[str, str]] = []
        for path, begun in taken.items():
            found = cut(sources[path], tokenizer, reference_tokens, begun, rng) if len(fresh) < files else None
            if found is not None:
                line = sources[path][: sources[path].find("".join(found))].count("\n") + 1
                fresh.append({"prompt": found[0], "reference": found[1], "source": f"{path}:{line}"})
        rows += sorted(fresh, key=lambda row: row["source"])
    with writing(out) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    click.echo(f"{len(rows)} items of {len(paths)} held-out files: {out}")


if __name__ == "__main__":
    main()
