"""A measurement that can begin, whoever runs the models."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import OF_SPEECH, MeasureOptions

if TYPE_CHECKING:
    from acceptance.measure.loop_check import LoopCheck
    from acceptance.results.unfinished import Unfinished
    from acceptance.text.prompts import Prompt
    from acceptance.text.texts import Text
    from acceptance.trace.trace import Trace
    from simulator.ground.records import Records

# What decides the numbers, of the options.
PARAMETERS = (
    *("max_new_tokens", "seed", "batch_size", "target", "draft", "prompts", "dataset", "column", "turns"),
    *("max_prompts", "use_chat_template", "system_prompt", "quantization", "temperature", "top_k", "top_p"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A measurement that can begin.

    count: prompts that it is of. together: prompts that are kept together when they are done. parameters: what decides
    the numbers. notes: what was left out before it began.
    measure: Returns the trace; takes where finished prompts are kept, and what is called with how many are done.
    left_out: What else a trace lacks, or is to be known of it.
    check: Runs the speculative loop beside a trace, for a kind of draft.
    """

    count: int
    together: int
    parameters: dict[str, Any]
    notes: list[str]
    measure: "Callable[[Unfinished, Callable[[int], object]], Trace]"
    left_out: "Callable[[Trace], list[str]]"
    check: "Callable[[Trace, str], LoopCheck] | None" = None


def load_items(options: MeasureOptions) -> "Records[Prompt] | Records[Text]":
    """Read the prompts, or the texts written before."""
    from acceptance.text.prompts import given_prompts
    from acceptance.text.texts import load_texts

    if options.texts:
        return load_texts(options.texts, limit=options.max_prompts)
    if options.task:
        from acceptance.text.speech import load_speech

        return load_speech(Path(options.prompts), options.dataset, column=options.column, limit=options.max_prompts)
    how: dict[str, Any] = {"column": options.column, "turns": options.turn_count, "limit": options.max_prompts}
    return given_prompts(options.prompts, options.dataset, **how)


def stated(options: MeasureOptions) -> dict[str, Any]:
    """Return what the options say of a measurement, as files have it."""
    parameters = {name: getattr(options, name) for name in PARAMETERS}
    parameters |= {"texts": str(options.texts) if options.texts else None}
    of_speech = {name: getattr(options, name) for name in OF_SPEECH if options.task}
    return parameters | of_speech | ({"shard": str(options.part)} if options.part else {})
