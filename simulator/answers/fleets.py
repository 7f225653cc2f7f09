"""Servers side by side: how evenly a router fills them, what goes between them, and how that is said."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.step import Floats
from simulator.serving.fleet import LEAST_LOADED, PREFIX_AWARE, ROUND_ROBIN, Replicas
from simulator.serving.run import Outcome

from .latency import time_beside, time_text

ROUTERS = {"round-robin": ROUND_ROBIN, "least-loaded": LEAST_LOADED, "prefix-aware": PREFIX_AWARE}
# Figures of each of several servers: `server_3_requests`.
OF_EACH = "server_"


def kv_bytes_a_token(models: ModelPair | Placed, prompt: float) -> float:
    """Return the bytes of KV that a token of such a prompt takes, of all models that have any."""
    placed = [models] if isinstance(models, Placed) else [models.placed_target, models.placed_draft]
    tokens = max(round(prompt), 1)
    return sum(float(of.shape.kv_bytes(1, tokens, of.kv_format)) / tokens for of in placed)


def shares_of(outcome: Outcome, replicas: Replicas, warm: int) -> dict[str, float]:
    """Return figures of several servers.

    imbalance: requests of the fullest, on average, over those of the mean; of those that decode, and of those that read
    prompts for them. handing: seconds from a prompt that was read to its KV on the server that decodes it.
    """
    if replicas.servers == 1:
        return {}
    span_s, readers = max(outcome.end_of_run_s, 1e-12), replicas.readers
    there = (outcome.of_each("running_s") + outcome.of_each("waiting_s")) / span_s
    found = {"imbalance": uneven(there[readers:])}
    if readers:
        handing_s = outcome.handing_s[warm:]
        found |= {"imbalance_prefill": uneven(there[:readers]), "handing_mean": float(np.nanmean(handing_s))}
        found |= {"handing_p99": float(np.nanpercentile(handing_s, 99))}
    columns = {"requests": outcome.of_each("routed"), "there": there, "busy": outcome.of_each("busy_s") / span_s}
    for place in range(replicas.servers):
        found |= {f"{OF_EACH}{place + 1}_{name}": float(column[place]) for name, column in columns.items()}
    return found


def uneven(there: Floats) -> float:
    """Return by how many times the fullest is above the mean."""
    return float(there.max() / there.mean()) if there.any() else 1.0


def each_server(figures: Mapping[str, Floats]) -> list[dict[str, float]]:
    """Return the figures of each server by plain names."""
    found: dict[int, dict[str, float]] = {}
    for name in figures:
        if name.startswith(OF_EACH):
            place, _, what = name.removeprefix(OF_EACH).partition("_")
            found.setdefault(int(place), {})[what] = float(figures[name][0])
    return [found[place] for place in sorted(found)]


def router_of(replicas: Replicas) -> str:
    """Return the name of a rule."""
    return next(name for name, rule in ROUTERS.items() if rule == replicas.router)


def servers_in_words(replicas: Replicas) -> str:
    """Say what servers there are; nothing of one alone."""
    if replicas.servers == 1:
        return ""
    if not replicas.readers:
        return f"{replicas.servers} servers, {router_of(replicas)}"
    decoders = replicas.servers - replicas.readers
    return f"{replicas.readers} for prefill and {decoders} for decode, {router_of(replicas)}"


def shares_in_words(arms: Sequence[tuple[str, Mapping[str, Floats]]], at: str) -> list[str]:
    """Say how unevenly servers are filled at a load, and how long KV is on its way; figures of ways by their names."""
    lines = list[str]()
    told = [(name, float(figures["imbalance"][0])) for name, figures in arms if "imbalance" in figures]
    if told:
        said = ", ".join(f"{name} {value:.2f}x" for name, value in told)
        lines.append(f"the fullest server has, over the mean of them, at {at}: {said} as many requests")
    waits = [(n, float(f["handing_mean"][0]), float(f["handing_p99"][0])) for n, f in arms if "handing_mean" in f]
    if waits:
        said = ", ".join(f"{name} {time_text(mean)} (p99 {time_beside(far, mean)})" for name, mean, far in waits)
        lines.append(f"KV goes from prefill to decode, waits for room there included, in: {said}; in the first token")
    return lines


def of_link(replicas: Replicas, each_token: float, *, gb_per_s: float, latency_s: float) -> Replicas:
    """Return servers between which so many bytes a token go over a link."""
    return replicas._replace(token_s=each_token / (gb_per_s * 1e9), latency_s=latency_s)


def as_columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return columns of requests that only several servers have: which answered, and how long KV was on its way."""
    if all(len(outcome.each) == 1 for outcome in outcomes):
        return {}
    found: dict[str, Any] = {"server": np.concatenate([outcome.replica + 1 for outcome in outcomes])}
    if any(len(outcome.handing_s) for outcome in outcomes):
        found["handing_s"] = np.concatenate([outcome.handing_s for outcome in outcomes])
    return found
