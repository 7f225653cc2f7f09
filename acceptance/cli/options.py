"""The options of `measure-acceptance`: as --help shows them, and as the command takes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acceptance.models.bundled import BUNDLED
from acceptance.models.model import ASR
from acceptance.models.rule import SamplingRule, rules_of_pair
from acceptance.text.prompts import DATASETS, check_at_least_one
from simulator.ground.artefacts import UserError
from simulator.ground.command import FILE, stacked
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.pictures import check_format

if TYPE_CHECKING:
    from acceptance.results.shards import Shard

OF_SPEECH = ("task", "language", "speech_task")
SPEECH_OPTIONS = stacked(
    click.option("--language", help="With --task asr: what is spoken, as en or english, where a model knows several."),
    click.option(
        "--speech-task",
        type=click.Choice(("transcribe", "translate")),
        show_default="the model's own, else transcribe",
        help="With --task asr: write down what is said, or what it means in English.",
    ),
)
GGUF_OPTIONS = stacked(
    click.option("--gguf", metavar="FILE", help="GGUF file of --target, in its folder or on the hub, or alone."),
    click.option("--draft-gguf", metavar="FILE", help="The same of --draft."),
)
TEXT_OPTIONS = stacked(
    click.option("--target", default=BUNDLED, help="Folder or hub id, with @REVISION; of a server, its model's name."),
    click.option("--draft", default=BUNDLED, help="Folder or hub id, with @REVISION; of a server, its model's name."),
    GGUF_OPTIONS,
    click.option("--target-server", metavar="URL", help="vLLM or SGLang that serves the target: nothing runs here."),
    click.option("--draft-server", metavar="URL", help="The same of the draft, served as a model of its own."),
    click.option("--prompts", default=BUNDLED, help="File of prompts, in any format of --format, packed or not."),
    click.option(
        "--format",
        "dataset",
        type=click.Choice(DATASETS),
        default="auto",
        help="Format of --prompts; auto: what the file holds, which is said.",
    ),
    click.option("--dataset", "old_dataset", hidden=True, help="Old name of --format, elsewhere of --prompts."),
    click.option("--column", show_default="the usual ones", help="Column or key of --prompts that holds the prompt."),
    click.option(
        "--task",
        type=click.Choice((ASR,)),
        help="asr: --prompts are a folder of sound, or a manifest that names it; both models are ones that hear.",
    ),
    SPEECH_OPTIONS,
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
        "--trace",
        "trace_files",
        type=FILE,
        multiple=True,
        help="A trace.json measured before, or its folder: runs no model. Again: shards, made into one trace.",
    ),
)
MEASURE_OPTIONS = stacked(
    click.option("--k", default="4", metavar="VALUES", help="Draft length, list or range (1:8); a histogram for each."),
    click.option("--temperature", default=0.0, help="0.01 to 100; 0: greedy. With --texts the one it was written at."),
    click.option("--draft-temperature", type=float, show_default="--temperature", help="The draft's own; 0: greedy."),
    click.option("--top-k", default=0, help="Sample from the k largest logits, in both models; 0: off."),
    click.option(
        "--top-p",
        default=1.0,
        type=click.FloatRange(0, 1, min_open=True),
        help="Sample from the fewest tokens that reach p, in both models; 1: off.",
    ),
    click.option(
        "--q-kind",
        type=click.Choice(("sampled", "greedy")),
        default="sampled",
        help="Draft that the histograms are of: one that samples, or one that proposes its first choice.",
    ),
    click.option("--max-new-tokens", default=128, type=click.IntRange(1), help="Tokens the target writes a turn."),
    click.option("--batch-size", default=16, type=click.IntRange(1), help="Prompts at a time; of servers, requests."),
    click.option("--device", default="auto", help="torch device, such as cpu or cuda:0."),
    click.option(
        "--dtype", type=click.Choice(("auto", "float32", "float16", "bfloat16")), default="auto", help="Weights."
    ),
    click.option("--quantization", type=click.Choice(("8bit", "4bit")), help="Through bitsandbytes, on a CUDA device."),
    click.option(
        "--allow-pickle", is_flag=True, help="Take weights in a .bin, which can hold any program, if you trust it."
    ),
    click.option("--seed", default=0, type=click.IntRange(0, 2**31), help="Seed of sampling, bootstrap and policies."),
    click.option(
        "--cross-tokenizer",
        type=click.Choice(("text",)),
        help="Measure a draft with another tokenizer by strings: an approximation.",
    ),
    click.option(
        "--shard", metavar="I/N", help="Measure the I-th of N parts; --trace of all makes them one.", show_default="all"
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
    click.option(
        "--by",
        type=click.Choice(("category", "context")),
        help="With --trace: a folder of histograms for each category of prompts, or range of context.",
    ),
    click.option("--report", is_flag=True, help="Print everything the trace says: positions, categories, policies."),
    click.option(
        "--draft-cost",
        default=0.1,
        type=click.FloatRange(0, 1000),
        help="A draft pass over a target pass, for the policies of --report.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
    click.option("--resume", is_flag=True, help="Go on where it was interrupted, as without; tell what is done again."),
    click.option("--force", is_flag=True, help="Overwrite files that exist."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """What the user asked for, by the names of the options.

    Raises:
        UserError: Values that are not allowed, alone or together; names the option.
    """

    target: str
    draft: str
    target_server: str | None
    draft_server: str | None
    prompts: str
    dataset: str
    column: str | None
    task: str | None
    language: str | None
    speech_task: str | None
    turns: str
    max_prompts: int | None
    use_chat_template: bool
    system_prompt: str
    texts: Path | None
    trace_files: tuple[Path, ...]
    k: str
    temperature: float
    draft_temperature: float | None
    top_k: int
    top_p: float
    q_kind: str
    max_new_tokens: int
    batch_size: int
    device: str
    dtype: str
    quantization: str | None
    allow_pickle: bool
    seed: int
    cross_tokenizer: str | None
    shard: str | None
    check_loop: int | None
    out_dir: Path
    plot: Path | None
    by: str | None
    report: bool
    draft_cost: float
    as_json: bool
    resume: bool
    force: bool

    def __post_init__(self) -> None:
        for name in ("max_prompts", "max_new_tokens", "batch_size", "check_loop"):
            check_at_least_one("--" + name.replace("_", "-"), getattr(self, name))
        longest = max(self.draft_lengths)
        if not (self.trace_files or self.texts) and longest > self.max_new_tokens:
            raise UserError(f"--k: {longest} is above --max-new-tokens, expected 1 to {self.max_new_tokens}")
        if self.by and len(self.trace_files) != 1:
            raise UserError(f"--by: {self.by} is told from one trace that is there, expected one --trace beside it")
        if self.part and self.check_loop:
            raise UserError("--check-loop: looks at the first prompts of all, expected it without --shard")
        if self.cross_tokenizer and self.check_loop:
            raise UserError("--check-loop: the loop needs one vocabulary, expected it without --cross-tokenizer")
        if (self.target_server is None) != (self.draft_server is None):
            missing = "--target-server" if self.target_server is None else "--draft-server"
            raise UserError(f"{missing}: is missing, expected both models on servers, or both here")
        self.check_task()
        _ = self.rules, self.turn_count
        if not self.draft_cost >= 0:
            raise UserError(f"--draft-cost: {self.draft_cost} is not allowed, expected 0 to 1000")
        check_format(self.plot)

    def check_task(self) -> None:
        """Refuse what does not go with speech, or goes with it alone."""
        if self.task == ASR and self.prompts == BUNDLED:
            raise UserError(f"--task {ASR}: --prompts is not given, expected a folder or manifest of sound")
        for name in OF_SPEECH[1:]:
            if getattr(self, name) is not None and self.task != ASR:
                raise UserError(f"--{name.replace('_', '-')}: is read by --task {ASR} alone, expected it beside")
        if self.task == ASR and self.use_chat_template:
            raise UserError(f"--use-chat-template: is for prompts of text, expected --task {ASR} without it")

    @property
    def draft_lengths(self) -> tuple[int, ...]:
        """Draft lengths to make histograms of, in ascending order."""
        from simulator.ground.ranges import parse_whole

        return parse_whole("--k", self.k, 1, MAX_DRAFT_LENGTH)

    @property
    def part(self) -> "Shard | None":
        """Which part is measured; None: all."""
        from acceptance.results.shards import shard_of

        return None if self.shard is None else shard_of(self.shard)

    @property
    def writes_trace(self) -> bool:
        """Whether a trace is written: one that is measured, or made of several."""
        return len(self.trace_files) != 1

    @property
    def rules(self) -> tuple[SamplingRule, SamplingRule]:
        """What target and draft sample from."""
        return rules_of_pair(self.temperature, self.draft_temperature, self.top_k, self.top_p)

    @property
    def turn_count(self) -> int | None:
        """User turns of each conversation, at most; None for all."""
        if self.turns == "all":
            return None
        if not self.turns.isdecimal() or int(self.turns) < 1:
            raise UserError(f"--turns: {self.turns!r} is not allowed, expected a whole number from 1, or all")
        return int(self.turns)
