"""What a replay says, for a terminal and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .replay import PLAIN, Range, Row

KIND, SCHEMA_VERSION = "policy_replay", 1


def between(values: Range, digits: int) -> str:
    """Write a range; one number where both ends look the same."""
    low, high = (f"{value:.{digits}f}" for value in sorted(values))
    return low if low == high else f"{low}..{high}"


def percent(values: Range) -> str:
    """Write a range of fractions."""
    low, high = (f"{value:.0%}" for value in sorted(values))
    return low if low == high else f"{low}..{high}"


def replay_text(rows: Sequence[Row], heading: str, notes: Sequence[str], condition: str, instead: str) -> str:
    """Return the answer, what it is of, and a line for each policy.

    condition: what has to hold for the answer to. instead: what stands in the answer's place.
    """
    priced = rows[0].ms_per_token is not None
    given = f"{condition[0].upper()}{condition[1:]}: " if condition else ""
    columns = ["policy", "drafted", "verified", "accepted", "wasted", "a step"]
    lines = [(*columns, *(("ms/token", "speedup") if priced else ()))]
    for row in rows:
        cells = [row.name, between(row.drafted, 2), between(row.verified, 2), f"{row.accepted:.2f}"]
        cells += [percent(row.wasted), f"{row.tokens_per_step:.2f}"]
        if row.ms_per_token and row.speedup:
            cells += [between(row.ms_per_token, 2), between(row.speedup, 2) + "x"]
        lines.append(tuple(cells))
    explained = (
        "drafted, verified, accepted: tokens of a sequence, which commits one more; wasted: of drafted ones; a step: "
        "tokens that all sequences commit"
    )
    return "\n".join([instead or given + answer(rows), heading, "", table(lines), "", explained, *notes])


def answer(rows: Sequence[Row]) -> str:
    """Return the first line: which policy is fastest, where costs tell."""
    drafting = [row for row in rows if row.name != PLAIN]
    gains = {row.name: min(row.speedup) for row in drafting if row.speedup is not None}
    if not gains:
        most = max(drafting, key=lambda row: row.tokens_per_round)
        return (
            f"{most.name} commits most, {most.tokens_per_round:.2f} tokens a round; which is fastest, costs tell: "
            "expected --profile and models, or --workmem and its like"
        )
    name = max(gains, key=lambda name: gains[name])
    if f"{gains[name]:.2f}" == "1.00":
        return f"Nothing is gained here: the best of these, {name}, is as fast as plain decoding."
    if gains[name] < 1:
        return f"None of these pays: plain decoding is fastest, the next is {name} at {gains[name]:.2f}x."
    return f"{name} is fastest here: {gains[name]:.2f}x as fast as plain decoding."


def replay_json(
    rows: Sequence[Row],
    parameters: Mapping[str, Any],
    notes: Sequence[str],
    *,
    condition: str,
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """Return all of it under plain keys."""
    policies = {row.name: row.as_json() for row in rows}
    said = {"condition": condition, "left_out": dict(left_out), "notes": list(notes)}
    return envelope(KIND, SCHEMA_VERSION, parameters) | {"policies": policies} | said
