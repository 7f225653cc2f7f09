"""What our scheduler plans for a workload of `workloads`, in the words of the oracle: a record a step."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from simulator.serving import state
from simulator.serving.draw_tables import Walks, acceptance_of
from simulator.serving.fleet import ONE, Replicas
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policies import Policy
from simulator.serving.policy_tables import of_table
from simulator.serving.run import Outcome, run
from simulator.serving.settings import Settings, settings_of
from simulator.workloads.requests import Requests, requests_of
from tests.server.workloads import draw as draw

Workload = dict[str, Any]
Record = dict[str, Any]
MOST = 1 << 20
# Settings that ours has under the same name.
SAME = ("max_num_batched_tokens", "max_num_seqs", "max_num_active_seqs", "max_model_len", "block_size", "num_blocks")
SAME += ("watermark", "k", "chunked_prefill", "prefix_caching", "async_scheduling", "reserve_full_isl")
SAME += ("long_prefill_token_threshold", "long_prefill_adaptive")
PAIRS = {state.PLANS: "tokens", state.VERIFY: "drafts", state.HITS: "cached", state.EMITS: "emitted"}
NAMES = {state.ADMITS: "new", state.RESUMES: "resumed", state.EVICTS: "preempted", state.RUNS: "running"}
NAMES |= {state.WAITS: "waiting", state.ENDS: "finished"}


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
    named = [names.setdefault(r["prefix"][0], len(names)) if r.get("prefix") else 0 for r in wanted]
    return requests_of(
        [r["prompt"] for r in wanted],
        [r["output"] for r in wanted],
        arrival_s=[r["arrival"] for r in wanted],
        priority=[r["priority"] for r in wanted],
        shared=[min(r["prefix"][1], r["prompt"]) if r.get("prefix") else 0 for r in wanted],
        units_start=np.arange(len(wanted)),
        units=named,
    )


def policy(k: int, rows: list[list[int]] | None) -> Policy:
    """Return vLLM's table: from one number of requests to another so many drafts; gaps keep those before."""
    lengths, last = [k], k
    for first, end, count in rows or ():
        lengths += [last] * (first - len(lengths)) + [min(count, k)] * (end - first + 1)
        last = lengths[-1]
    return of_table(np.array([lengths]), (), 0)


def serve(workload: Workload, replicas: Replicas = ONE) -> Outcome:
    """Run a workload."""
    given, wanted = workload["settings"], sorted(workload["requests"], key=lambda r: r["arrival"])
    walks = Walks([r["accept"] for r in wanted], [r.get("propose") or [MOST] for r in wanted])
    costs = linear_costs(given["step_us"] / 1e6, given["token_us"] / 1e6, tokens=given["max_num_batched_tokens"])
    table = policy(given["k"], given["k_per_batch"])
    told: dict[str, Any] = {"replicas": replicas, "is_logged": True}
    return run(settings(given), requests(wanted), acceptance_of([walks]), costs, table, **told)


def plans(workload: Workload) -> list[Record]:
    """Return our plans of a workload."""
    log, wanted = serve(workload).log, sorted(workload["requests"], key=lambda r: r["arrival"])
    records: list[Record] = [
        {
            "step": int(step),
            "planned_us": round(planned * 1e6),
            "done_us": round(done * 1e6),
            **{name: [] for name in ("tokens", "drafts", *NAMES.values(), "cached", "emitted")},
            "free_blocks": int(free),
            "next_k": int(k),
        }
        for step, planned, done, _, free, k in log.steps
    ]
    for kind, step, request, value in log.entries.tolist():
        if kind in PAIRS:
            records[step][PAIRS[kind]].append((request, value))
        else:
            records[step][NAMES[kind]].append(request)
    for record in records:
        for name in ("resumed", "preempted", "cached"):
            record[name].sort()
        if workload["settings"]["policy"] == "priority":
            record["waiting"].sort(key=lambda i: (wanted[i]["priority"], wanted[i]["arrival"], i))
    return records


def line(record: Record) -> str:
    """Return a record as a line of text: names sorted, tuples as lists."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def digest(records: Iterable[Record]) -> str:
    """Return the mark of all records of a workload."""
    return hashlib.sha256("\n".join(map(line, records)).encode()).hexdigest()[:16]


def difference(ours: list[Record], theirs: list[Record]) -> str | None:
    """Return where two schedulers first differ: the step, what of it, ours and theirs."""
    for one, other in zip(ours, theirs, strict=False):
        for name in other:
            if line({"": one[name]}) != line({"": other[name]}):
                return f"step {other['step']}: {name}: ours {one[name]}, theirs {other[name]}"
    if len(ours) != len(theirs):
        return f"steps: ours {len(ours)}, theirs {len(theirs)}"
    return None
