"""What a benchmark of decoding methods is asked for, and what can be refused of it on any machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acceptance.models.bundled import BUNDLED
from acceptance.models.model import ASR
from acceptance.models.rule import SamplingRule, rules_of_pair
from acceptance.results.settings import KNOBS, LOOP, option_of
from acceptance.text.prompts import check_at_least_one
from simulator.ground.artefacts import UserError
from simulator.ground.names import nearest

from .placement import Gpu, by_kind

# A task by name: texts with references, summed up.
SUMMARIZE = "summarize"
# Tasks that say what --prompts hold, and the options that only they read.
WANTED = {SUMMARIZE: "a file of texts with references", ASR: "a folder or manifest of sound"}
OF_TASKS = {
    "reference_column": (SUMMARIZE, ASR),
    "template": (SUMMARIZE,),
    "language": (ASR,),
    "speech_task": (ASR,),
}
TEXT_ALONE = ("use_chat_template", "system_prompt")
# As many as no machine has: a kind of placement is judged by its spelling alone.
PLENTY = tuple(Gpu(index=i, free_bytes=0) for i in range(1024))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """The options of `bench-decode`, by their names and with its defaults; `bench-decode --help` says what each is.

    knobs: those of KNOBS that are set, for every method that reads them.

    Raises:
        UserError: A value that no machine and no model would take; names the option.
    """

    method: str = "all"
    target: str = BUNDLED
    draft: str = BUNDLED
    medusa: Path | None = None
    eagle: Path | None = None
    judge: Path | None = None
    ngram_texts: Path | None = None
    dataset: str = BUNDLED
    dataset_format: str = "auto"
    column: str | None = None
    task: str | None = None
    reference_column: str | None = None
    template: str | None = None
    language: str | None = None
    speech_task: str | None = None
    max_prompts: int | None = None
    use_chat_template: bool = False
    system_prompt: str = ""
    config: Path | None = None
    experiment: str | None = None
    max_new_tokens: int = 128
    runs: int = 1
    time_parts: bool = False
    batch_size: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    draft_temperature: float | None = None
    sampler: str = LOOP
    seed: int = 0
    knobs: Mapping[str, float] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    allow_pickle: bool = False
    placement: str = "same"
    target_device: str | None = None
    draft_device: str | None = None
    inflate_target: float = 1.0
    cuda_graphs: bool = False
    processor_time: bool = False
    draft_stream: bool = False
    deterministic: bool = False
    require_headless: bool = False
    record_host: bool = False
    out: Path = Path("decode.jsonl")
    answers: Path | None = None
    dry_run: bool = False
    plot: Path | None = None
    profile: Path | None = None
    torch_trace: Path | None = None
    as_json: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        self.check_task()
        for name in ("max_prompts", "max_new_tokens", "runs", "batch_size"):
            check_at_least_one(option_of(name), getattr(self, name))
        _ = self.rules
        if self.samplers != (LOOP,) and self.rules[0].is_greedy:
            raise UserError(
                f"--sampler: {self.sampler} samples, and at --temperature 0 nothing is, expected it above 0"
            )
        beside_parts = {"batch_size": self.batch_size > 1, "cuda_graphs": self.cuda_graphs}
        for name, value in (beside_parts | {"sampler": self.samplers != (LOOP,)}).items():
            if self.time_parts and value:
                raise UserError(f"--time-parts: {option_of(name)} is {getattr(self, name)}, expected none beside it")
        for name, model in (("target", self.target), ("draft", self.draft)):
            if model.startswith(f"{BUNDLED}@"):
                raise UserError(f"--{name}: {model!r} is not allowed, {BUNDLED} has no revisions")
        if not self.inflate_target >= 1:
            raise UserError(f"--inflate-target: {self.inflate_target:g} is not allowed, expected 1 or more")
        by_kind(self.placement, "cpu", PLENTY, None, None)

    def check_task(self) -> None:
        """Refuse a task and prompts that do not go together."""
        if self.task in WANTED and self.dataset == BUNDLED:
            raise UserError(f"--task {self.task}: --prompts is not given, expected {WANTED[self.task]}")
        if self.task not in WANTED and self.task is not None and self.dataset != BUNDLED:
            if self.task != BUNDLED and not Path(self.task).exists():
                raise UserError(f"--task {self.task}: no such task, nearest: {', '.join(nearest(self.task, WANTED))}")
            raise UserError("--task: stands in place of --prompts, expected one of them")
        for name, tasks in OF_TASKS.items():
            if getattr(self, name) is not None and self.task not in tasks:
                raise UserError(f"{option_of(name)}: is read by --task {' and '.join(tasks)} alone, expected it beside")
        for name in TEXT_ALONE if self.task == ASR else ():
            if getattr(self, name):
                raise UserError(f"{option_of(name)}: is for prompts of text, expected --task {ASR} without it")

    @property
    def rules(self) -> tuple[SamplingRule, SamplingRule]:
        """What the target and the draft sample from."""
        return rules_of_pair(self.temperature, self.draft_temperature, self.top_k, self.top_p)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Who decides on drafts, each in arms of its own."""
        return tuple(dict.fromkeys(name.strip() for name in self.sampler.split(",")))

    def with_values(self, values: Mapping[str, Any]) -> "DecodeOptions":
        """Return these options with others in their place, knobs among them by their own names."""
        knobs = {name: value for name, value in values.items() if name in KNOBS}
        return replace(self, knobs={**self.knobs, **knobs}, **{n: v for n, v in values.items() if n not in KNOBS})
