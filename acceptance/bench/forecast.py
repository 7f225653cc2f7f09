"""What a run would take, from one short warm-up of each method."""

from time import perf_counter
from typing import Any

from .timed import Taken, warm_up
from .turns import Bench, batches


def forecast_run(bench: Bench, start_s: float) -> dict[str, Any]:
    """Return the plan and what it is estimated to cost: every output taken to run to its budget.

    The first batch is taken for all; quality and comparisons, about one target pass an output, are not counted.
    """
    settings = bench.settings
    groups = batches(len(bench.prompts), settings.batch_size)
    wanted = {(r.arm.name, len(groups[0])) for r in bench.arms}
    began_s = perf_counter()
    taken = warm_up(bench, wanted)
    warm_up_s = perf_counter() - began_s
    # Once more: what only a first time takes is not what a run takes.
    taken = warm_up(bench, wanted) if taken else taken
    methods: list[dict[str, Any]] = []
    for runnable in bench.arms:
        outcome = taken.get(runnable.arm.name, runnable.reason)
        seconds = output_s(outcome, settings.max_new_tokens) if isinstance(outcome, Taken) else None
        methods.append(
            {
                "method": runnable.arm.name,
                "reason": outcome if isinstance(outcome, str) else None,
                "prefill_s": outcome.phases.prefill_s if isinstance(outcome, Taken) else None,
                "output_s": seconds,
                "total_s": None if seconds is None else seconds * len(groups) * settings.runs,
            }
        )
    return {
        "prompts": len(bench.prompts),
        "batches": len(groups),
        "runs": settings.runs,
        "decodings": len(groups) * settings.runs * len([m for m in methods if m["total_s"] is not None]),
        "methods": methods,
        "start_s": start_s,
        "warm_up_s": warm_up_s,
        "total_s": start_s + warm_up_s + sum(m["total_s"] or 0.0 for m in methods),
    }


def output_s(taken: Taken, max_new_tokens: int) -> float:
    """Return what a whole batch would take: the prompt, and every token at the rate of the few that were written."""
    phases = taken.phases
    few = max(len(d.tokens) for d in taken.decoded)
    return phases.prefill_s + (phases.total_s - phases.prefill_s) / few * max_new_tokens
