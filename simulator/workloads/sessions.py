"""Sessions: turns whose prompts hold all that was said before, each sent some time after the answer to the last."""

import numpy as np

from simulator.ground.artefacts import UserError

from .laws import FIXED, Law
from .requests import MOST_TOKENS, NAMED_TEXT, Array, Requests, requests_of

AT_ONCE = Law(FIXED, 0)


def sessions(
    rng: np.random.Generator,
    arrival_s: Array,
    *,
    turns: Law,
    opening: Law,
    further: Law,
    output: Law,
    think_s: Law = AT_ONCE,
    most_tokens: int = MOST_TOKENS,
) -> Requests:
    """Return the turns of sessions that begin at these times, each session's one behind the other.

    Args:
        rng: What is drawn from.
        arrival_s: When the first turns are sent.
        turns: How many a session has.
        opening: Tokens of the first prompt.
        further: Tokens that each further turn adds to all that was said.
        output: Tokens of an answer.
        think_s: Seconds between an answer's end and the next turn.
        most_tokens: Of a prompt and its answer: with the turn that would be longer a session ends; its first stays.
    """
    count = len(arrival_s)
    many = turns.tokens(rng, count).astype(np.int64)
    starts, rows = np.cumsum(many) - many, int(many.sum())
    is_first = np.zeros(rows, np.bool_)
    is_first[starts] = True
    new = further.tokens(rng, rows).astype(np.int64)
    new[starts] = opening.tokens(rng, count)
    answers = output.tokens(rng, rows).astype(np.int64)
    thought = think_s.draw(rng, rows)
    session = np.repeat(np.arange(count), many)
    said = np.cumsum(new + answers)
    before = (said - new - answers)[starts]
    ends = said - before[session]
    kept = is_first | (ends <= min(most_tokens, MOST_TOKENS))
    ahead = np.cumsum(kept) - 2
    return requests_of(
        (ends - answers)[kept],
        answers[kept],
        arrival_s=np.where(is_first, np.asarray(arrival_s)[session], 0)[kept],
        stream=session[kept],
        after=np.where(is_first[kept], -1, ahead[kept]),
        think_s=np.where(is_first, 0, thought)[kept],
    )


def prefixed(requests: Requests, tokens: int, texts: Array | int = 0) -> Requests:
    """Return requests whose prompts begin with so many tokens more, which those of the same text share.

    texts: which text each has, such as a system prompt; a number: all have one.
    """
    if requests.shared.any():
        raise UserError("requests: begin with shared text already, expected none before a prefix")
    names = np.broadcast_to(np.asarray(texts, np.int64), requests.prompt.shape)
    units, places = np.unique(names, return_inverse=True)
    longer = (requests.prompt + np.int64(tokens)).clip(max=MOST_TOKENS).astype(np.int32)
    shared = np.full_like(requests.shared, tokens)
    starts = places.astype(np.int64)
    return requests._replace(prompt=longer, shared=shared, units=units, units_start=starts, unit_tokens=NAMED_TEXT)
