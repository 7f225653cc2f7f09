"""A comparison of methods as people and programs read it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import key_of
from simulator.costs.room import largest_batch
from simulator.ground.command import table, wrapped

from .comparison import SHOWN_BATCHES, Comparison, Contender, name_of, order
from .model_report import span
from .schedule import LARGEST_BATCH, LEAST_GAIN, Range


def draft_bytes(pair: ModelPair, draft_length: int) -> float:
    """Return the bytes that all passes of a round's drafts move on each device."""
    placed, plan = pair.placed_draft, pair.plan(draft_length)
    return float(
        sum(p.times * placed.pass_bytes(p, np.asarray(pair.batch), np.asarray(pair.context)) for p in plan.passes)
    )


def rounds_text(pair: ModelPair, draft_length: int) -> str:
    """Return the passes of a round's drafts, as numbers of passes and of the tokens that each computes."""
    passes = [p for p in pair.plan(draft_length).passes if p.times]
    return " + ".join(f"{p.times} x {p.rows}" for p in passes) or "none"


def shown_batches(comparison: Comparison, stated: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the batch sizes of a table: those that were stated, else some, as far as they fit."""
    last = len(comparison.batches)
    return tuple(b for b in stated or SHOWN_BATCHES if b <= last)


def row_of(comparison: Comparison, at: int, batches: tuple[int, ...]) -> dict[str, Any]:
    """Return what is told of one method, under plain keys; its rounds at its best K at the first batch size."""
    contender = comparison.contenders[at]
    of = {b: comparison.at(at, b) for b in batches}
    draft_length = next((k for k, _ in of.values() if k), 1)
    found = {str(b): {"draft_length": k or None, "speedup": None if np.isnan(s) else s} for b, (k, s) in of.items()}
    pair = contender.pair
    return {
        "method": contender.name,
        "draft": pair.draft.name,
        "acceptance": contender.source,
        "draft_length": draft_length,
        "passes": rounds_text(pair, draft_length),
        "verified_tokens": int(pair.plan(draft_length).width),
        "draft_bytes_per_round": draft_bytes(pair, draft_length),
        "tokens_per_round": float(contender.acceptance.tokens_per_round(np.array([draft_length]))[0]),
        "largest_batch": largest_batch(pair),
        "assumed": pair.draft.assumed,
        "best": found,
    }


def comparison_json(comparison: Comparison, batches: tuple[int, ...], skipped: dict[str, str]) -> dict[str, Any]:
    """Return a comparison under plain keys."""
    rows = [row_of(comparison, at, batches) for at in range(len(comparison.contenders))]
    take = [
        {"first": r.first, "last": r.last, "method": name_of(comparison, r)} | taken(comparison, r)
        for r in comparison.take
    ]
    return {"methods": rows, "take": take, "not_compared": skipped}


def taken(comparison: Comparison, at: Range) -> dict[str, Any]:
    """Return K and speedup of what to take at both ends of a range of batch sizes; nothing for plain decoding."""
    if not at.draft_length:
        return {}
    ends = [comparison.at(at.draft_length - 1, b) for b in (at.first, at.last)]
    return {"draft_lengths": [k for k, _ in ends], "speedups": [s for _, s in ends]}


def comparison_text(comparison: Comparison, batches: tuple[int, ...], skipped: dict[str, str]) -> str:
    """Return the table of methods, which to take at which batch size, and what it rests on."""
    head = ("method", "drafts", "verify", "reads", "tokens", *(f"{size_word(comparison)} {b}" for b in batches))
    rows = []
    for at in order(comparison, batches[0] if batches else 1):
        row = row_of(comparison, at, batches)
        gains = (
            "-" if of["speedup"] is None else f"{of['speedup']:.2f}x K{of['draft_length']}"
            for of in row["best"].values()
        )
        read = f"{row['draft_bytes_per_round'] / 1e9:.2f} GB" if row["draft_bytes_per_round"] else "-"
        rows.append(
            (row["method"], row["passes"], f"{row['verified_tokens']}", read, f"{row['tokens_per_round']:.2f}", *gains)
        )
    lines = [take_text(comparison), *assumed_lines(comparison)]
    by_reason = grouped((why, name) for name, why in skipped.items())
    lines += [f"not compared: {', '.join(names)}: {why}" for why, names in by_reason.items()]
    return "\n".join([table([head, *rows], left=(0, 1)), "", wrapped(lines)])


def size_word(comparison: Comparison) -> str:
    """Return what sizes are called: of loads those of their clients."""
    return key_of("batch", comparison.contenders[0].load)


def take_text(comparison: Comparison) -> str:
    """Say which method to take at which batch sizes."""
    if not comparison.take:
        return "take: none, no batch fits into memory"
    words = []
    for at in comparison.take:
        name, of = name_of(comparison, at), taken(comparison, at)
        if name is None:
            words.append(f"plain decoding at {size_word(comparison)} {span(at)}")
            continue
        lengths, gains = dict.fromkeys(of["draft_lengths"]), dict.fromkeys(f"{s:.2f}x" for s in of["speedups"])
        words.append(
            f"{name} (K = {' to '.join(map(str, lengths))}) at {size_word(comparison)} {span(at)}, {' to '.join(gains)}"
        )
    beyond = " (no larger ones were looked at)" if comparison.take[-1].last == LARGEST_BATCH else ""
    return f"take, to {LEAST_GAIN:.0%}: {'; '.join(words)}{beyond}"


def assumed_lines(comparison: Comparison) -> list[str]:
    """Say what is known of each method's acceptance, those of one source together, and which drafters were assumed."""
    contenders = comparison.contenders
    sources = grouped((c.source, c.name) for c in contenders)
    assumed = grouped((c.pair.draft.assumed, drafter_name(c)) for c in contenders if c.pair.draft.assumed)
    return [
        *(f"acceptance of {', '.join(names)}: {source}" for source, names in sources.items()),
        *(f"{', '.join(names)}: {reason}" for reason, names in assumed.items()),
    ]


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the second of each pair by the first."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def drafter_name(contender: Contender) -> str:
    """Return how a drafter is called that was assumed."""
    return f"{contender.name} ({contender.pair.draft.name})"
