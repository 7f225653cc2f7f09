"""What our scheduler plans for a workload, in the words of the oracle: a record a step."""

from typing import Any

import numpy as np

from simulator.serving import state
from simulator.serving.by_batch import by_batch
from simulator.serving.draw_tables import Walks, acceptance_of
from simulator.serving.draws import Acceptance
from simulator.serving.pass_tables import linear_costs
from simulator.serving.run import run
from simulator.serving.settings import Settings, settings_of
from simulator.workloads.requests import Requests, requests_of

Workload = dict[str, Any]
Record = dict[str, Any]
MOST = 1 << 20
# Settings that ours has under the same name.
SAME = ("max_num_batched_tokens", "max_num_seqs", "max_model_len", "block_size", "num_blocks", "watermark", "k")
SAME += ("chunked_prefill", "prefix_caching", "async_scheduling", "long_prefill_token_threshold", "reserve_full_isl")


def settings(given: dict[str, Any]) -> Settings:
    """Return settings as the oracle has them."""
    k, method = given["k"], given["method"]
    return settings_of(
        **{name: given[name] for name in SAME},
        by_priority=given["policy"] == "priority",
        is_dynamic=bool(given["k_per_batch"]),
        lookahead=0 if method == "ngram" else k,
        drops_block=k > 0 and method == "eagle",
        draft_rows=int(k > 0 and method == "draft_model"),
    )


def requests(wanted: list[dict[str, Any]]) -> Requests:
    """Return requests as the oracle has them, by arrival."""
    names: dict[str, int] = {}
    named = [names.setdefault(r["prefix"][0], len(names)) if r.get("prefix") else -1 for r in wanted]
    return requests_of(
        [r["prompt"] for r in wanted],
        [r["output"] for r in wanted],
        arrival_s=[r["arrival"] for r in wanted],
        priority=[r.get("priority", 0) for r in wanted],
        shared=[min(r["prefix"][1], r["prompt"]) if r.get("prefix") else 0 for r in wanted],
        units_start=np.arange(len(wanted)),
        units=[max(0, name) for name in named],
    )


def acceptance(wanted: list[dict[str, Any]]) -> Acceptance:
    """Return walks of rounds, of which each request has its own."""
    accept, propose = [r.get("accept") or [0] for r in wanted], [r.get("propose") or [MOST] for r in wanted]
    return acceptance_of([Walks(accept, propose)])


def plans(workload: Workload) -> list[Record]:
    """Return our plans of a workload whose settings are complete."""
    given, wanted = workload["settings"], sorted(workload["requests"], key=lambda r: r["arrival"])
    outcome = run(
        settings(given),
        requests(wanted),
        acceptance(wanted),
        linear_costs(given["step_ms"] / 1000, given["token_ms"] / 1000, tokens=given["max_num_batched_tokens"]),
        by_batch(given["k"], given["k_per_batch"] or ()),
        is_logged=True,
    )
    log = outcome.log
    records = [
        {
            "step": int(step),
            "planned_at": planned,
            "done_at": done,
            "free_blocks": int(free),
            "next_k": int(k),
            **{name: {} for name in ("tokens", "drafts", "cached", "emitted")},
            **{name: [] for name in ("new", "resumed", "preempted", "running", "waiting", "finished")},
        }
        for step, planned, done, _, free, k in log.steps
    ]
    counted = {state.PLANS: "tokens", state.VERIFY: "drafts", state.HITS: "cached", state.EMITS: "emitted"}
    listed = {state.ADMITS: "new", state.RESUMES: "resumed", state.EVICTS: "preempted", state.RUNS: "running"}
    listed |= {state.WAITS: "waiting", state.ENDS: "finished"}
    for kind, step, request, value in log.entries:
        if kind in counted:
            records[step][counted[kind]][int(request)] = int(value)
        else:
            records[step][listed[kind]].append(int(request))
    return records
