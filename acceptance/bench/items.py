"""What a benchmark decodes: prompts, or what a task has of them and of the texts that belong beside outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acceptance.models.bundled import BUNDLED
from acceptance.models.model import ASR, Pair
from acceptance.text.prompts import Prompt, given_prompts, unique_names
from acceptance.text.speech import Utterance, load_speech, unsaid
from acceptance.text.summaries import CHAT, PLAIN, load_summaries
from simulator.ground.dependency import require

from . import quality, scores
from .options import SUMMARIZE, DecodeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """What is decoded: a file, its prompts, and what really follows each, by its source; nothing without a task.

    beside: the text that an output is scored beside, by its source: a summary, or what was said. parameters: how a task
    was read.
    """

    path: Path
    prompts: Sequence[Prompt]
    references: Mapping[str, str]
    notes: Sequence[str]
    beside: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def parameters_with(self, pair: Pair) -> dict[str, Any]:
        """Return how a task was read, and how what a pair hears is compared."""
        told = {} if pair.ear is None else {"normaliser": scores.normaliser(pair.tokenizer, pair.ear.language)[0]}
        return dict(self.parameters) | told

    def notes_with(self, pair: Pair) -> list[str]:
        """Return what there is to say, and how many texts are nothing to what is heard beside them."""
        if pair.ear is None:
            return [*self.notes]
        normalise = scores.normaliser(pair.tokenizer, pair.ear.language)[1]
        empty = [name for name, text in self.beside.items() if not normalise(text).split()]
        told = f"{empty[0]} among them: in what is said there are no words" if empty else ""
        return [
            *self.notes,
            *([f"word error rate: without {len(empty)} of {len(self.beside)}, {told}"] if empty else []),
        ]

    def score(
        self, task: str | None, prompts: Sequence[Prompt], pair: Pair, write: scores.Write
    ) -> scores.Score | None:
        """Return what scores outputs of a task; None where there is nothing to score them by."""
        if not self.beside:
            return None
        texts = [self.beside.get(p.source) for p in prompts]
        if task == ASR:
            return scores.word_errors(texts, write, scores.normaliser(pair.tokenizer, pair.ear.language)[1])
        return scores.rouge([text or "" for text in texts], write)


def load_items(options: DecodeOptions) -> Items:
    """Read the prompts, or a task's."""
    limit = options.max_prompts
    if options.task == SUMMARIZE:
        return load_texts_to_sum_up(options)
    if options.task == ASR:
        return load_utterances(options)
    if options.task is None:
        how: dict[str, Any] = {"column": options.column, "limit": limit, "turns": None if options.answers else 1}
        found = given_prompts(options.dataset, options.dataset_format, **how)
        return Items(path=found.path, prompts=found.rows, references={}, notes=found.notes())
    path = quality.BUNDLED_TASK if options.task == BUNDLED else Path(options.task)
    task = quality.load_task(path)
    names = unique_names(item.source for item in task.rows)
    rows = list(zip(names, task.rows, strict=True))[:limit]
    prompts = [Prompt(turns=(item.prompt,), source=name) for name, item in rows]
    references = {name: item.reference for name, item in rows}
    return Items(path=path, prompts=prompts, references=references, notes=task.notes())


def load_texts_to_sum_up(options: DecodeOptions) -> Items:
    """Read texts with references."""
    require(scores.ROUGE_SCORE, f"--task {SUMMARIZE}")
    template = options.template or (CHAT if options.use_chat_template else PLAIN)
    columns = {"column": options.column, "reference": options.reference_column}
    path = Path(options.dataset)
    found = load_summaries(path, template, options.dataset_format, **columns, limit=options.max_prompts)
    summaries = {p.source: text for p, text in zip(found.rows, found.references, strict=True)}
    parameters = {"template": template, "column": options.column, "reference_column": options.reference_column}
    notes = found.notes()
    return Items(path=path, prompts=found.rows, references={}, notes=notes, beside=summaries, parameters=parameters)


def load_utterances(options: DecodeOptions) -> Items:
    """Read sound, and what is said in it."""
    columns = {"column": options.column, "reference": options.reference_column}
    found = load_speech(Path(options.dataset), options.dataset_format, **columns, limit=options.max_prompts)
    said = {u.source: u.reference for u in found.rows if isinstance(u, Utterance) and u.reference is not None}
    if said:
        require(scores.JIWER, f"--task {ASR}")
    told = ("column", "reference_column", "language", "speech_task")
    parameters = {name: getattr(options, name) for name in told}
    notes = [*found.notes(), *unsaid(found.rows)]
    return Items(path=found.path, prompts=found.rows, references={}, notes=notes, beside=said, parameters=parameters)
