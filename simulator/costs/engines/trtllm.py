"""TensorRT-LLM's `speculative_config`, as its YAML and its LLM API take it."""

import json
from typing import Any

from simulator.costs.drafters.lookahead import GUESSES, WINDOW

from .settings import Recommended, Row, Written

# That of trees.
DYNAMIC = "Eagle3"


def written(said: Recommended) -> Written:
    """Return a recommendation as TensorRT-LLM takes it."""
    kind, tree = said.method.engines.trtllm, said.tree
    if not kind:
        return Written(None, notes=(f"TensorRT-LLM has no {said.method.title}",))
    longest, notes = said.longest, list[str]()
    if longest == 0:
        return Written(None)
    if kind == "Lookahead":
        sizes = {"max_window_size": WINDOW, "max_ngram_size": longest + 1, "max_verification_set_size": GUESSES}
        return in_yaml({"decoding_type": kind} | sizes, [])
    config: dict[str, Any] = {"decoding_type": kind, "max_draft_len": longest}
    if said.draft is not None:
        config["speculative_model"] = said.draft
    if said.lacks:
        notes.append(f"speculative_model, {said.lacks}, is yours to add")
    if tree is not None and said.branches:
        config["max_draft_len"] = said.draft_length or longest
        most = tree.topk * config["max_draft_len"]
        if tree.levels or kind != DYNAMIC or not config["max_draft_len"] <= tree.nodes - 1 <= most:
            return Written(
                None, notes=(f"TensorRT-LLM has no tree of {tree.nodes - 1} tokens here, expected {DYNAMIC}",)
            )
        config |= {
            "use_dynamic_tree": True,
            "dynamic_tree_max_topK": tree.topk,
            "max_total_draft_tokens": tree.nodes - 1,
        }
    elif len(said.rows) > 1 or (said.rows and said.rows[0][2] == 0):
        config |= by_batch(said.rows, longest)
        if config.keys().isdisjoint(("max_concurrency", "draft_len_schedule")):
            notes.append("TensorRT-LLM drafts most at the smallest batch sizes: no draft_len_schedule says this one")
    return in_yaml(config, notes)


def by_batch(rows: tuple[Row, ...], longest: int) -> dict[str, Any]:
    """Return the setting of draft lengths by batch size; nothing where there is none.

    Of a cutoff alone it is `max_concurrency`, which excludes a schedule and is what methods of one length take too.
    """
    schedule = by_last(rows)
    first = next(iter(schedule.values()))
    if first != longest:
        return {}
    return {"max_concurrency": int(next(iter(schedule)))} if len(schedule) == 1 else {"draft_len_schedule": schedule}


def in_yaml(config: dict[str, Any], notes: list[str]) -> Written:
    """Return a configuration with its line of YAML, whose keys may be numbers."""
    line = json.dumps(config)
    for last in config.get("draft_len_schedule", ()):
        line = line.replace(f'"{last}":', f"{last}:")
    return Written(config, (f"speculative_config: {line}",), tuple(notes))


def by_last(rows: tuple[Row, ...]) -> dict[str, int]:
    """Return draft lengths by the last batch size of each; behind the last there is none, so that is not said."""
    drafted = max((last for _, last, k in rows if k), default=0)
    return {str(last): k for _, last, k in rows if last <= drafted}
