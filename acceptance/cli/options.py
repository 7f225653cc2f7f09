"""The options of `measure-acceptance`, in three groups; what they mean together is checked in `cli`."""

from pathlib import Path

import click

from acceptance.models.bundled import BUNDLED
from acceptance.text.prompts import DATASETS
from simulator.ground.command import FILE, stacked

MAX_DRAFT_LENGTH = 1024

TEXT_OPTIONS = stacked(
    click.option("--target", default=BUNDLED, help="Folder or hub id, with @REVISION if not the newest."),
    click.option("--draft", default=BUNDLED, help="Folder or hub id, with @REVISION if not the newest."),
    click.option("--prompts", default=BUNDLED, help="File of prompts, in the format of --dataset."),
    click.option(
        "--dataset",
        type=click.Choice(DATASETS),
        default="auto",
        help='Format of --prompts; auto: JSON by its keys ("turns", "conversations", "prompt"), else a prompt a line.',
    ),
    click.option("--turns", default="1", metavar="N|all", help="User turns of each conversation, at most."),
    click.option("--max-prompts", type=click.IntRange(1), help="Only the first so many.", show_default="all"),
    click.option("--use-chat-template", is_flag=True, help="Frame prompts with the tokenizer's chat template."),
    click.option("--system-prompt", default="", help="What the chat template's system role says."),
    click.option(
        "--texts",
        type=FILE,
        help='Text that the target wrote before: JSONL of {"prompt": ..., "output": ...} or of token ids.',
    ),
    click.option(
        "--trace", "trace_file", type=FILE, help="A trace.json measured before, or its folder: runs no model."
    ),
)
MEASURE_OPTIONS = stacked(
    click.option("--k", default="4", metavar="VALUES", help="Draft length, list or range (1:8); a histogram for each."),
    click.option("--temperature", default=0.0, help="0.01 to 100; 0: greedy. With --texts the one it was written at."),
    click.option("--draft-temperature", type=float, show_default="--temperature", help="The draft's own; 0: greedy."),
    click.option("--top-k", default=0, help="Sample from the k largest logits, in both models; 0: off."),
    click.option("--top-p", default=1.0, help="Sample from the fewest tokens that reach p, in both models; 1: off."),
    click.option(
        "--q-kind",
        type=click.Choice(("sampled", "greedy")),
        default="sampled",
        help="Draft that the histograms are of: one that samples, or one that proposes its first choice.",
    ),
    click.option("--max-new-tokens", default=128, type=click.IntRange(1), help="Tokens the target writes a turn."),
    click.option("--batch-size", default=16, type=click.IntRange(1), help="Prompts at a time."),
    click.option("--device", default="auto", help="torch device, such as cpu or cuda:0."),
    click.option(
        "--dtype", type=click.Choice(("auto", "float32", "float16", "bfloat16")), default="auto", help="Weights."
    ),
    click.option("--quantization", type=click.Choice(("8bit", "4bit")), help="Through bitsandbytes, on a CUDA device."),
    click.option("--seed", default=0, type=click.IntRange(0, 2**31), help="Seed of sampling, bootstrap and policies."),
    click.option(
        "--cross-tokenizer",
        type=click.Choice(("text",)),
        help="Measure a draft with another tokenizer by strings: an approximation.",
    ),
    click.option(
        "--check-loop",
        type=click.IntRange(1),
        metavar="N",
        help="Run the speculative loop on N prompts as well, and compare.",
    ),
)
OUTPUT_OPTIONS = stacked(
    click.option("--out-dir", type=FILE, default=Path(), show_default="here", help="Folder for the files."),
    click.option("--plot", type=FILE, help="Picture, .png or .svg: histogram, survival, categories, along the output."),
    click.option("--report", is_flag=True, help="Print everything the trace says: positions, categories, policies."),
    click.option(
        "--draft-cost",
        default=0.1,
        type=click.FloatRange(0, 1000),
        help="A draft pass over a target pass, for the policies of --report.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
    click.option("--resume", is_flag=True, help="Go on with an interrupted measurement in --out-dir."),
    click.option("--force", is_flag=True, help="Overwrite files that exist."),
)
