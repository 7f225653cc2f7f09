"""What a benchmark writes: a header, a record for each method, prompt and run, a summary for each method.

Times are of the batch a row was decoded in: `batch_row` 0 counts them once. Rounds stand in parallel lists. A record of
the same `resume_key` further down replaces an earlier one, but an error never a measurement; a summary of the same
method as well. A method that cannot run has one record, "skipped" under the first prompt and run.

Accepted tokens are those of the output: what a round accepted behind an end of sequence is not among them. So S rounds
that drafted D and accepted A tokens write S + sum A less one for each round that an end of sequence cut; the acceptance
rate is sum A / sum D (model §4).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RECORD, SUMMARY = "decode_record", "decode_summary"
SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).parent / "decode_record.schema.json"
PHASES = ("prefill", "draft", "verify", "sample", "kv", "other")
COUNTED = (
    *("drafted", "accepted", "committed", "depth", "draft_passes", "overruled", "judged"),
    *("leaves", "pruned", "over_budget"),
)
ROUND_FIELDS = (*COUNTED, "cut_by")
# What a difference to the baseline's greedy output is put down to; the last, where it could not be worked out.
VERDICTS = ("rounding", "bug", "unchecked")
# Scores of a text beside a reference; fields that hold them are there where a task has references.
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
WORD_ERRORS = "wer"
TEXT_SCORES = (*ROUGE, WORD_ERRORS)
# Who decided on drafts in the loop's place, and how long each round.
SAMPLER = "sampler"
OPTIONAL = ("text_scores", "sound_s", SAMPLER)


def resume_key(method: str, prompt: int, run: int) -> str:
    """Return what finds a measurement again; the header says of which configuration."""
    return f"{method}/{prompt}/{run}"


def figures(
    rounds: Mapping[str, Sequence[int]],
    *,
    generated: int,
    total_s: float,
    decode_s: float,
    has_tree: bool,
    has_judge: bool,
) -> dict[str, Any]:
    """Return what follows from a measurement's rounds and times, by the names of the schema.

    rounds: parallel lists of ROUND_FIELDS. generated: tokens of the output. decode_s: behind the prompt.
    """
    drafted, accepted, passes = (sum(rounds[name]) for name in ("drafted", "accepted", "draft_passes"))
    count = len(rounds["drafted"])
    return {
        "generated_tokens": generated,
        "tokens_per_s": ratio(generated, total_s),
        "decode_tokens_per_s": ratio(generated, decode_s),
        "tokens_per_round": ratio(generated, count),
        "draft_acceptance_rate": ratio(accepted, drafted),
        "target_calls_per_token": ratio(count, generated),
        "draft_calls_per_token": ratio(passes, generated),
        "overruled": sum(rounds["overruled"]),
        "judge": judge_fields(rounds) if has_judge else None,
        "tree": tree_fields(rounds) if has_tree else None,
    }


def judge_fields(rounds: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return what a trained judge did.

    judged: mismatches it was asked about. kept: those it took for unimportant. fallbacks: rounds that it ended, so that
    the target's own token was taken; over drafted tokens, the fallback rate.
    """
    judged, kept, drafted = (sum(rounds[name]) for name in ("judged", "overruled", "drafted"))
    fallbacks = sum(j > k for j, k in zip(rounds["judged"], rounds["overruled"], strict=True))
    return {
        "judged": judged,
        "kept": kept,
        "judge_accept_rate": ratio(kept, judged),
        "fallbacks": fallbacks,
        "target_fallback_rate": ratio(fallbacks, drafted),
    }


def tree_fields(rounds: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return what the trees were like.

    depth: mean over rounds. effective_parallelism: branches that a target pass verifies side by side, mean over rounds;
    max_active_branches: the most of them. branch_prune_rate: candidates below the threshold, of all that were looked
    at; those above it that the budget left out count as kept.
    """
    nodes, leaves, pruned, over = (sum(rounds[n]) for n in ("drafted", "leaves", "pruned", "over_budget"))
    count = len(rounds["drafted"])
    return {
        "nodes": nodes,
        "nodes_per_round": ratio(nodes, count),
        "depth": ratio(sum(rounds["depth"]), count),
        "effective_parallelism": ratio(leaves, count),
        "max_active_branches": max(rounds["leaves"], default=0),
        "branch_prune_rate": ratio(pruned, nodes + over + pruned),
    }


def ratio(above: float, below: float) -> float | None:
    """Divide; None where there is nothing to divide by."""
    return above / below if below else None


def latest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of measurements, each key once: the last that was measured, or else the last line of it."""
    records_by_key: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.get("kind") == RECORD:
            before = records_by_key.get(record["resume_key"])
            if record["status"] == "ok" or before is None or before["status"] != "ok":
                records_by_key[record["resume_key"]] = record
    return list(records_by_key.values())


def done_keys(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what need not be measured again: failures are tried anew."""
    return {r["resume_key"] for r in latest(records) if r["status"] != "error"}
