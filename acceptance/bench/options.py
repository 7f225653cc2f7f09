"""The options of `bench-decode`, in groups, and what can be refused of them on any machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from acceptance.models.bundled import BUNDLED
from acceptance.models.rule import rules_of_pair
from acceptance.results.settings import KNOBS, Knob, option_of
from acceptance.text.prompts import DATASETS
from simulator.ground.artefacts import UserError
from simulator.ground.command import FILE, Decorator, stacked

from .placement import Gpu, by_kind

# As many as no machine has: a kind of placement is judged by its spelling alone.
PLENTY = tuple(Gpu(index=i, free_bytes=0) for i in range(1024))


def knob_option(name: str, knob: Knob) -> Decorator:
    """Return the option of a knob; not given, it is None and the method takes its default."""
    kind = click.IntRange(int(knob.low), int(knob.high)) if knob.whole else click.FloatRange(knob.low, knob.high)
    default = "as trained" if knob.default is None else f"{knob.default:g}"
    return click.option(option_of(name), type=kind, help=knob.about, show_default=default)


WHAT_OPTIONS = stacked(
    click.option(
        "--method", default="all", metavar="NAME[,NAME...]|all", help="Methods to compare; the baseline always runs."
    ),
    click.option("--target", default=BUNDLED, help="Folder or hub id, with @REVISION if not the newest."),
    click.option("--draft", default=BUNDLED, help="Folder or hub id, with @REVISION if not the newest."),
    click.option("--medusa", type=FILE, show_default="the bundled target's", help="Folder of Medusa heads."),
    click.option("--eagle", type=FILE, show_default="the bundled target's", help="Folder of an EAGLE head."),
    click.option("--judge", type=FILE, show_default="the bundled pair's", help="Folder of a trained judge."),
    click.option("--dataset", default=BUNDLED, help="File of prompts."),
    click.option("--dataset-format", type=click.Choice(DATASETS), default="auto", help="Format of --dataset."),
    click.option(
        "--task",
        help='In place of --dataset: JSONL of {"prompt", "reference"}, or "bundled"; counts next tokens that are the '
        "reference's, up to the first that is not.",
    ),
    click.option("--max-prompts", type=click.IntRange(1), help="Only the first so many.", show_default="all"),
    click.option("--use-chat-template", is_flag=True, help="Frame prompts with the tokenizer's chat template."),
    click.option("--system-prompt", default="", help="What the chat template's system role says."),
    click.option("--config", type=FILE, show_default="bundled presets", help="TOML file of presets."),
    click.option("--experiment", help="Take what the file of presets says under this name; other options win over it."),
)
RUN_OPTIONS = stacked(
    click.option("--max-new-tokens", default=128, type=click.IntRange(1), help="Budget of each output."),
    click.option("--runs", default=1, type=click.IntRange(1, 10_000), help="Repeats of everything."),
    click.option("--batch-size", default=1, type=click.IntRange(1), help="Prompts at a time."),
    click.option("--temperature", default=0.0, help="0.01 to 100; 0: greedy."),
    click.option("--top-k", default=0, help="Sample from the k largest logits, in both models; 0: off."),
    click.option("--top-p", default=1.0, help="Sample from the fewest tokens that reach p, in both models; 1: off."),
    click.option("--draft-temperature", type=float, show_default="--temperature", help="The draft's own; 0: greedy."),
    click.option("--seed", default=0, type=click.IntRange(0, 2**31), help="Of sampling, turns and intervals."),
)
KNOB_OPTIONS = stacked(*(knob_option(name, knob) for name, knob in KNOBS.items()))
MACHINE_OPTIONS = stacked(
    click.option("--device", default="auto", help="torch device, such as cpu or cuda:0."),
    click.option(
        "--dtype", type=click.Choice(("auto", "float32", "float16", "bfloat16")), default="auto", help="Weights."
    ),
    click.option("--quantization", type=click.Choice(("8bit", "4bit")), help="Through bitsandbytes, on a CUDA device."),
    click.option("--placement", default="same", metavar="same|separate|ratio A:B|auto", help="Over several GPUs."),
    click.option("--target-device", show_default="by --placement", help="torch device of the target."),
    click.option("--draft-device", show_default="by --placement", help="torch device of the draft."),
    click.option("--inflate-target", default=1.0, help="Same logits with so many times the weights in a pass."),
    click.option("--cuda-graphs", is_flag=True, help="Replay passes of single sequences as CUDA graphs."),
    click.option("--draft-stream", is_flag=True, help="Let the draft model work on a CUDA stream of its own."),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Refuse whatever would not repeat bit for bit; CUDA tokens are then drawn with sums on the CPU.",
    ),
    click.option("--require-headless", is_flag=True, help="Refuse a machine with a desktop, or a GPU others use."),
)
OUTPUT_OPTIONS = stacked(
    click.option("--out", type=FILE, default=Path("decode.jsonl"), help="Records, JSONL; one that is there goes on."),
    click.option("--dry-run", is_flag=True, help="Time one short warm-up a method, say what the run would take, end."),
    click.option("--plot", type=FILE, help="Picture, .png or .svg: speedup, rounds against their cost, latency."),
    click.option(
        "--profile",
        type=FILE,
        help="Chrome trace of the first prompts, one track a decoding. Where all is done they are decoded again, "
        "unless the file is there: it is kept.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print header and summaries as JSON."),
    click.option("--force", is_flag=True, help="Overwrite files that exist; start --out anew."),
)


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse values that no machine and no model would take.

    Args:
        options: Of the command, by name.

    Raises:
        UserError: Names the option.
    """
    if options["task"] is not None and options["dataset"] != BUNDLED:
        raise UserError("--task: stands in place of --dataset, expected one of them")
    rules_of_pair(*(options[n] for n in ("temperature", "draft_temperature", "top_k", "top_p")))
    for name in ("target", "draft"):
        if options[name].startswith(f"{BUNDLED}@"):
            raise UserError(f"--{name}: {options[name]!r} is not allowed, {BUNDLED} has no revisions")
    if not options["inflate_target"] >= 1:
        raise UserError(f"--inflate-target: {options['inflate_target']:g} is not allowed, expected 1 or more")
    by_kind(options["placement"], "cpu", PLENTY, None, None)
