"""Prompts as JSON a line: vLLM's custom data set (`prompt`, `output_tokens`), questions of MT-Bench and Spec-Bench."""

from functools import partial
from typing import Any

import numpy as np

from .account import Account
from .columns import Columns, Workload, gathered, named, numbers, requests_in
from .format import Format, Options
from .rows import Block, Source
from .tokens import Counter, counter

# What `vllm bench` asks for where nothing else is said.
USUAL_OUTPUT = 256


def read(source: Source, options: Options) -> Workload:
    """Read prompts; of questions in several turns the first one. When they were sent is not told."""
    account, categories = Account(source.place), dict[str, int]()
    count, notes = counter(options.tokenizer)
    names = ("prompt", "turns", "output_tokens", "category")
    found = gathered(source, names, account, partial(columns, count, categories), "prompts")
    unsaid = int(found.pop("is_unsaid").sum())
    said = (f"{unsaid:,} prompts without output_tokens: {USUAL_OUTPUT} taken, as vllm bench does",) * (unsaid > 0)
    requests = requests_in(found, path=source.path)
    form = QUESTIONS if "turns" in source.names else CUSTOM
    named_so = tuple(categories) if set(categories) != {""} else ()
    return Workload(
        requests,
        form.name,
        source.path,
        is_timed=False,
        categories=named_so,
        notes=(*account.notes(), *said, *notes),
    )


def columns(count: Counter, categories: dict[str, int], block: Block) -> Columns:
    """Return the columns of a block."""
    prompts, turns, asked, kinds = map(block.column, ("prompt", "turns", "output_tokens", "category"))
    texts = [text_of(p, t) for p, t in zip(prompts, turns, strict=True)]
    output = numbers(asked)
    is_unsaid = np.array([value in (None, -1) for value in asked], np.bool_)
    return {
        "prompt": count(texts).astype(np.float64),
        "output": np.where(is_unsaid, USUAL_OUTPUT, output),
        "is_unsaid": is_unsaid,
        "category": named(kinds, categories),
    }


def text_of(prompt: Any, turns: Any) -> str:
    """Return the text of a prompt, or the first of several turns; nothing of what is neither."""
    first = turns[0] if isinstance(turns, list) and turns else prompt
    return first if isinstance(first, str) else ""


CUSTOM = Format("vLLM custom", ("prompt",), read)
QUESTIONS = Format("questions", ("turns",), read)
