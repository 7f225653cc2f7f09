"""Let a target answer prompts, in its own words: what heads that draft for it should learn from.

    python examples/own_answers.py --target FOLDER --prompts questions.jsonl --use-chat-template --out answers.jsonl
    python examples/train_heads.py --target FOLDER --text answers.jsonl --kind eagle --minutes 60 --out heads

Each line of --out holds the token ids of a prompt and of an answer; `measure-acceptance --texts` and `bench-decode
--ngram-texts` read it as well. Answers are appended batch by batch: the same command goes on where it stopped. Measure
on other prompts than these.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from train_heads import load_target
from training import OneLine
from transformers import AutoTokenizer

from acceptance.decoders import baseline
from acceptance.models.laws import streams
from acceptance.models.load import DTYPES, pick_dtype
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.text.conversation import Framing, tokens_before
from acceptance.text.prompts import load_prompts

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
Item = dict[str, Any]


def answered(path: Path) -> set[str]:
    """Return the sources of the answers that a file has; a line that was cut short is dropped from it."""
    if not path.exists():
        return set()
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    path.write_bytes(b"".join(whole))
    return {json.loads(line)["source"] for line in whole}


def items_of(tokenizer: Any, prompts: Path, framing: Framing, temperatures: Sequence[float]) -> Iterator[Item]:
    """Yield what is to be answered: every prompt's first turn at each temperature."""
    for i, prompt in enumerate(load_prompts(prompts).rows):
        ids = tokens_before(tokenizer, framing, prompt.turns[:1], [])
        for j, temperature in enumerate(temperatures):
            source = f"{prompt.source}, answer {j + 1}"
            stream = len(temperatures) * i + j
            yield {"ids": ids, "temperature": temperature, "source": source, "stream": stream}


def batched(items: Sequence[Item], rows: int) -> Iterator[list[Item]]:
    """Yield batches of one temperature and about one length, in an order that mixes both."""
    ordered = sorted(items, key=lambda item: (item["temperature"], len(item["ids"])))
    batches: list[list[Item]] = []
    for item in ordered:
        if not batches or len(batches[-1]) == rows or batches[-1][0]["temperature"] != item["temperature"]:
            batches.append([])
        batches[-1].append(item)
    # Neighbours are alike: a run that is stopped early has seen some of all.
    stride = max(int(len(batches) ** 0.5), 1)
    for first in range(stride):
        yield from batches[first::stride]


def answer(target: Model, batch: Sequence[Item], max_new_tokens: int, seed: int) -> list[list[int]]:
    """Return the target's answers to a batch."""
    return baseline.decode(
        target,
        [item["ids"] for item in batch],
        rule=SamplingRule(temperature=batch[0]["temperature"]),
        max_new_tokens=max_new_tokens,
        rngs=streams(seed, [item["stream"] for item in batch]),
    )


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--target", type=FOLDER, required=True, help="Target's folder.")
@click.option("--prompts", type=click.Path(exists=True, path_type=Path), required=True, help="Prompts, of any format.")
@click.option("--use-chat-template", is_flag=True, help="Frame prompts with the tokenizer's chat template.")
@click.option("--temperature", multiple=True, default=[0.0, 1.0], help="An answer at each; 0: greedy.")
@click.option("--max-prompt-tokens", default=512, help="Longer prompts are left out.")
@click.option("--max-new-tokens", default=256, help="Tokens of an answer at most.")
@click.option("--batch-size", default=32, help="Prompts at a time.")
@click.option("--minutes", type=float, help="Begin no batch after so long.")
@click.option("--device", default="cpu", help="torch device, such as cpu or cuda:0.")
@click.option("--dtype", type=click.Choice(["auto", *DTYPES]), default="auto", help="Weights.")
@click.option("--seed", default=22, help="Of sampling.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSONL to append to.")
def main(target: Path, prompts: Path, out: Path, temperature: tuple[float, ...], **options: Any) -> None:
    """Write a target's own answers to prompts."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    framing = Framing(chat_template=options["use_chat_template"])
    items = list(items_of(tokenizer, prompts, framing, temperature))
    fitting = [item for item in items if 0 < len(item["ids"]) <= options["max_prompt_tokens"]]
    done = answered(out)
    left = [item for item in fitting if item["source"] not in done]
    click.echo(
        f"{len(items)} answers, {len(items) - len(fitting)} left out, {len(fitting) - len(left)} there", err=True
    )
    dtype = DTYPES[pick_dtype(options["dtype"], options["device"])]
    model = load_target(target, options["device"], dtype) if left else None
    began, tokens, written = time.monotonic(), 0, 0
    for batch in batched(left, options["batch_size"]):
        if options["minutes"] is not None and time.monotonic() - began > 60 * options["minutes"]:
            break
        outputs = answer(model, batch, options["max_new_tokens"], options["seed"])
        lines = [
            {"prompt_token_ids": item["ids"], "output_token_ids": output}
            | {name: item[name] for name in ("source", "temperature")}
            for item, output in zip(batch, outputs, strict=True)
        ]
        with out.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        written, tokens = written + len(lines), tokens + sum(map(len, outputs))
        elapsed = time.monotonic() - began
        left_s = elapsed / written * (len(left) - written)
        rates = f"{tokens:,} tokens  {tokens / elapsed:,.0f} tokens/s  {left_s:.0f} s left"
        click.echo(f"  {written}/{len(left)} answers  {rates}", err=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
