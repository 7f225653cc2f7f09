"""Train AutoJudge's judge for a pair: mine mismatches that matter, fit a classifier, choose its threshold.

Without `--prompts`, prompts are cut from files that the bundled pair learned from, never from those that its own
prompts and its task come from. It takes scikit-learn: pip install "specsim[judge]".

    python examples/train_judge.py --out acceptance/tiny_pair/judge          # two cores, about 8 minutes
    python examples/train_judge.py --target FOLDER --draft FOLDER --prompts gsm8k.jsonl --answer number \
        --max-new-tokens 256 --out judge --device cuda
"""

import sysconfig
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from train_heads import weights_sha256
from train_tiny_pair import cut_prompts, is_held_out, read_sources

import acceptance
from acceptance.decoders.judge import judge, mining, training
from acceptance.models.load import load_pair
from acceptance.models.model import Pair, hidden_size_of
from acceptance.text.prompts import load_prompts
from simulator.ground.artefacts import check_output
from simulator.ground.command import command

PAIR = Path(acceptance.__file__).parent / "tiny_pair"


def training_prompts(count: int, seed: int) -> list[str]:
    """Cut prompts from the files that the bundled pair learned from, one a file."""
    sources = read_sources(Path(sysconfig.get_path("stdlib")))
    learned = {path: text for path, text in sources.items() if not is_held_out(path)}
    return [row["prompt"] for row in cut_prompts(learned, count, seed)]


def answer_of(name: str, pair: Pair) -> tuple[mining.SameAnswer, int]:
    """Return what makes two answers the same, and the tokens it looks at behind them."""
    if name == "number":
        return mining.Number(tokenizer=pair.tokenizer), 0
    rejoin = mining.Rejoin()
    return rejoin, rejoin.window


@command("train_judge.py")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option("--target", default=str(PAIR / "target"), help="Target's folder or name.")
@click.option("--draft", default=str(PAIR / "draft"), help="Draft's folder or name.")
@click.option(
    "--prompts", type=click.Path(path_type=Path), help="Prompts to learn from; default: cut from what the pair learned."
)
@click.option("--count", default=192, help="Prompts at most.")
@click.option("--answer", type=click.Choice(["rejoin", "number"]), default="rejoin", help="When answers are the same.")
@click.option("--max-new-tokens", default=64, help="Positions of each answer that are walked.")
@click.option("--batch-size", default=96, help="Prompts at a time.")
@click.option("--device", default="cpu", help="torch device, such as cpu or cuda:0.")
@click.option("--dtype", default="auto", help="Of both models.")
@click.option("--seed", default=20, help="Seed of prompts and of the split.")
@click.option("--force", is_flag=True, help="Replace a judge that is there.")
def main(
    out: Path,
    target: str,
    draft: str,
    prompts: Path | None,
    count: int,
    answer: str,
    max_new_tokens: int,
    batch_size: int,
    device: str,
    dtype: str,
    seed: int,
    *,
    force: bool,
) -> None:
    """Mine, train, and write the judge to --out."""
    check_output("--out", out / judge.CONFIG, force)
    pair = load_pair(target, draft, device=device, dtype=dtype)
    if prompts is None:
        texts = training_prompts(count, seed)
    else:
        texts = [row.turns[0] for row in load_prompts(prompts, limit=count).rows]
    same_answer, lookahead = answer_of(answer, pair)
    began = time.monotonic()

    def progress(done: int) -> None:
        click.echo(f"  {done}/{len(texts)} prompts  {time.monotonic() - began:.0f} s", err=True)

    mined = mining.mine(
        pair.target,
        pair.draft,
        [pair.tokenizer(text).input_ids for text in texts],
        same_answer,
        max_new_tokens=max_new_tokens,
        lookahead=lookahead,
        batch_size=batch_size,
        progress=progress,
    )
    found, report = training.train(mined, hidden_size_of(pair.draft), np.random.default_rng(seed))
    parameters: dict[str, Any] = {"answer": answer, "max_new_tokens": max_new_tokens, "seed": seed}
    parameters |= {"prompts": str(prompts) if prompts else "training files of the bundled pair", "count": len(texts)}
    parameters["dtype"] = pair.dtype
    for role, folder in (("target", Path(target)), ("draft", Path(draft))):
        if folder.is_dir():
            parameters[f"{role}_weights_sha256"] = weights_sha256(folder)
    judge.save(out, found, pair.target, pair.draft, asdict(report), parameters)
    click.echo(
        f"{report.mismatches} mismatches, {report.important / report.mismatches:.1%} important\n"
        f"validation on {report.validation_mismatches}: AUC {report.auc:.3f} at C = {report.strength:g}, threshold "
        f"{report.threshold:.3f} with recall {report.recall:.3f}, {report.unimportant:.1%} judged unimportant, "
        f"of which {report.wrongly:.1%} are important"
    )


if __name__ == "__main__":
    main()
