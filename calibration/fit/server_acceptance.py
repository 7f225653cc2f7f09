"""What rounds of servers accepted, as files: a histogram for each method and draft length, by the engine's counters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acceptance.importers.imported import Imported
from simulator.ground.histogram import NORMAL_95, AcceptanceHistogram, save_histogram, variance

from .from_server import Models, method_of
from .server_rows import Arm, Seen

# Requests that tell how far they differ, at least.
LEAST_REQUESTS = 5


class Accepted(NamedTuple):
    """What the rounds of an arm accepted.

    method: by name. by_length: rounds by drafted and accepted tokens, where some draft nothing. interval: of tokens a
    round. requests: whose rounds they were, of one method as many on average.
    """

    arm: str
    method: str
    k: int
    imported: Imported
    by_length: Mapping[str, list[float]] | None
    interval: tuple[float, float] | None
    requests: int

    @property
    def name(self) -> str:
        """Of its file, in the folder of all."""
        return f"{self.method}/accept_hist_k{self.k}.json"


def accepted_of(seen: Seen, models: Models) -> list[Accepted]:
    """Return what arms accepted whose counters tell it, one for each method and draft length."""
    found: dict[tuple[str, int], Accepted] = {}
    for arm in seen.arms:
        method, imported = method_of(arm, models), arm.counted.imported
        if method is None or imported is None:
            continue
        by_length = None
        if method.is_weightless:
            by_length = {"0": [arm.rounds - arm.counted.drafts], str(arm.k): list(imported.histogram.counts)}
        each = Accepted(
            arm.name, method.name, arm.k, imported, by_length, interval_of(arm, imported.histogram), len(arm.answers)
        )
        found.setdefault((each.method, each.k), each)
    # Files of a folder are of one measurement, whose arms each got as far as there was time.
    requests: dict[str, list[int]] = {}
    for each in found.values():
        requests.setdefault(each.method, []).append(each.requests)
    return [a._replace(requests=round(np.mean(requests[a.method]))) for a in found.values()]


def interval_of(arm: Arm, histogram: AcceptanceHistogram) -> tuple[float, float] | None:
    """Return the interval of tokens a round, as requests differ; None where it is not known by how much they do.

    A round leaves a chunk, so each request tells its own mean; those of one request share what they are about. How far
    loads are apart, as of prompts of other lengths, is not how far requests of one are.
    """
    loads = [[a for a in r.part.answers if a.gaps_s and not a.error] for r in arm.ran]
    squares = rounds = 0.0
    for answers in loads:
        if len(answers) >= LEAST_REQUESTS:
            each = np.array([(len(a.gaps_s), a.tokens - 1) for a in answers], np.float64)
            off = each[:, 1] - each[:, 0] * each[:, 1].sum() / each[:, 0].sum()
            squares += float((off**2).sum()) * len(answers) / (len(answers) - 1)
            rounds += float(each[:, 0].sum())
    if not rounds:
        return None
    counts = np.array(histogram.counts)
    every = counts + np.eye(1, len(counts))[0] * (arm.rounds - arm.counted.drafts)
    effect = max(squares / rounds / max(variance(every / every.sum()), 1e-9), 1.0)
    size = NORMAL_95 * float(np.sqrt(effect * variance(histogram.law) / histogram.samples))
    return histogram.tokens_per_round - size, histogram.tokens_per_round + size


def accepted_beside(profile: Path) -> Path:
    """Return the folder of what the rounds of a server's profile accepted, one in it for each method."""
    return profile.with_name(f"{profile.stem}_accepted")


def write_accepted(folder: Path, each: Accepted, parameters: Mapping[str, Any]) -> Path:
    """Write a histogram; return where."""
    path, histogram = folder / each.name, each.imported.histogram
    told: dict[str, Any] = {"from": "bench-server", "target": each.imported.model or None, "k": each.k}
    told["prompt_count"] = each.requests
    metrics: dict[str, Any] = {
        "tokens_per_round": histogram.tokens_per_round,
        "survival": histogram.survival.tolist(),
        "steps_without_draft": each.imported.steps_without_draft,
    }
    if each.interval is not None:
        metrics["ci95"] = {"tokens_per_round": list(each.interval)}
    extra: dict[str, Any] = {
        "arm": each.arm,
        "definition": each.imported.definition,
        "notes": list(each.imported.notes),
    }
    if each.by_length is not None:
        extra["by_draft_length"] = each.by_length
    path.parent.mkdir(parents=True, exist_ok=True)
    save_histogram(path, histogram, dict(parameters) | told, metrics=metrics, **extra)
    return path
