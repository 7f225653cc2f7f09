"""Cut the bundled next-token task: held-out code in two, a prompt and the tokens that really follow.

    python examples/cut_task.py --out acceptance/tiny_pair/task.jsonl

One item a file, cut within a line at a place where tokenizing both parts apart gives the tokens of the whole.
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
from simulator.artefacts import check_output, writing
from simulator.command import command

TARGET = Path(acceptance.__file__).parent / "tiny_pair" / "target"
PROMPT_TOKENS = 128
# No item of a file that is too short to have a middle.
LEAST_TOKENS = 1024


def cut(text: str, tokenizer: Any, reference_tokens: int, rng: np.random.Generator) -> tuple[str, str] | None:
    """Return prompt and reference from a random place of a text; none where no place was found."""
    tokens = tokenizer(text).input_ids
    for _ in range(100):
        if len(tokens) < LEAST_TOKENS:
            return None
        begin = int(rng.integers(0, len(tokens) - PROMPT_TOKENS - reference_tokens))
        middle = begin + PROMPT_TOKENS
        parts = tokens[begin:middle], tokens[middle : middle + reference_tokens]
        prompt, reference = map(tokenizer.decode, parts)
        unfit = prompt.endswith((" ", "\n")) or "\ufffd" in prompt + reference
        if not unfit and [tokenizer(prompt).input_ids, tokenizer(reference).input_ids] == list(parts):
            return prompt, reference
    return None


@command("cut_task.py")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.option("--items", default=64, help="Items, of one file each.")
@click.option("--reference-tokens", default=32, help="Tokens that follow each prompt.")
@click.option("--seed", default=20, help="Seed of files and places.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def main(out: Path, items: int, reference_tokens: int, seed: int, force: bool) -> None:
    """Cut the task and write it to --out."""
    check_output("--out", out, force)
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    sources = read_sources(Path(sysconfig.get_path("stdlib")))
    paths = sorted(path for path in sources if is_held_out(path))
    rng = np.random.default_rng(seed)
    rows = []
    for path in (paths[i] for i in rng.permutation(len(paths))):
        found = cut(sources[path], tokenizer, reference_tokens, rng) if len(rows) < items else None
        if found is not None:
            line = sources[path][: sources[path].find("".join(found))].count("\n") + 1
            rows.append({"prompt": found[0], "reference": found[1], "source": f"{path}:{line}"})
    rows.sort(key=lambda row: row["source"])
    with writing(out) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    click.echo(f"{len(rows)} items of {len(paths)} held-out files: {out}")


if __name__ == "__main__":
    main()
