"""Parts of rounds that were timed by themselves, as a benchmark's file holds them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .records import SCHEMA_VERSION

PARTS = "decode_parts"
# What a part is: a pass of the target, all that a round does but passes; a drafter's passes, and its work on the host.
VERIFY, DECIDE, FIRST, STEP, BLOCK, HOST = "verify", "decide", "first draft", "draft step", "draft block", "host"
# Methods whose arms share their parts, whatever they draft; of the others each arm has its own.
SHARED = {"baseline": "plain", "speculative": "speculative", "eagle": "eagle", "medusa": "medusa"}
APART = ("ngram", "anpd", "suffix", "prompt-lookup", "specexec", "medusa-tree", "eagle-tree")


class Part(NamedTuple):
    """A part of a decoder's rounds. of: whose (`owner`). rows: tokens of it; head_rows: those with logits.

    Of the host's work rows are levels of a tree, or drafted tokens.
    """

    of: str
    name: str
    rows: int
    head_rows: int


def owner(arm: str, method: str) -> str:
    """Return what an arm's parts are kept under; nothing of a method whose rounds are not made of known parts."""
    return SHARED.get(method, arm if method in APART else "")


def parts_record(run: int, batch_index: int, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a turn's parts: of each its fields, and its times."""
    head = {"kind": PARTS, "schema_version": SCHEMA_VERSION, "run": run, "batch_index": batch_index}
    return head | {"parts": list(parts)}
