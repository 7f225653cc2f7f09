"""ShareGPT's conversations, a JSON array: of each the first text and the answer to it, as `vllm bench` takes them."""

from functools import partial
from typing import Any

import numpy as np

from simulator.workloads.requests import Array

from .account import Account
from .columns import Columns, Workload, gathered, requests_in
from .format import Format, Options
from .rows import Block, Source
from .tokens import Counter, counter

# That command's bounds: of either text, of the first, and of both.
LEAST, MOST_PROMPT, MOST_BOTH = 4, 1024, 2048
BOUNDS = f"not of {LEAST} to {MOST_PROMPT:,} tokens in, {LEAST} or more out and at most {MOST_BOTH:,} in all"


def read(source: Source, options: Options) -> Workload:
    """Read conversations; when they were sent is not told."""
    account = Account(source.place)
    count, notes = counter(options.tokenizer)
    found = gathered(source, ("conversations",), account, partial(columns, account, count), FORMAT.name)
    requests = requests_in(found, path=source.path)
    return Workload(requests, FORMAT.name, source.path, is_timed=False, notes=(*account.notes(), *notes))


def columns(account: Account, count: Counter, block: Block) -> Columns:
    """Return the columns of the conversations that are within bounds."""
    said = [texts_of(value) for value in block.column("conversations")]
    places = np.asarray(block.places)
    is_short = np.array([len(texts) < 2 for texts in said], np.bool_)
    account.leave_out("of fewer than two texts", places[is_short], were_rows=True)
    pairs = [texts for texts in said if len(texts) == 2]
    prompt, output = count([p for p, _ in pairs]), count([a for _, a in pairs])
    within = (np.minimum(prompt, output) >= LEAST) & (prompt <= MOST_PROMPT) & (prompt + output <= MOST_BOTH)
    account.leave_out(BOUNDS, places[~is_short][~within], were_rows=True)
    return {"places": places[~is_short][within], "prompt": floats(prompt[within]), "output": floats(output[within])}


def texts_of(conversation: Any) -> list[str]:
    """Return the first two texts of a conversation, fewer where it has fewer."""
    turns = conversation[:2] if isinstance(conversation, list) else []
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict)]
    return [text for text in texts if isinstance(text, str)]


def floats(tokens: Array) -> Array:
    """Return counts in the type in which columns are checked."""
    return tokens.astype(np.float64)


FORMAT = Format("ShareGPT", ("conversations",), read)
