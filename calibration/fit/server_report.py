"""What a fit to loads on servers found, for a terminal and as JSON: errors of loads left out, and constants."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simulator.costs.profile import Profile
from simulator.costs.step import Floats
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .from_server import Models, ServerCalibration, method_of
from .server_acceptance import Accepted
from .serving_report import MOST_MEDIAN, errors_json, errors_of

KIND = "server_calibration"
# 1: first version.
SCHEMA_VERSION = 1


class LoadErrors(NamedTuple):
    """A load on an arm: what steps and first tokens took, and by how much a fit without it is off; NaN of none."""

    arm: str
    clients: int
    prompt_tokens: float
    step_s: float
    step_off: float
    first_s: float
    first_off: float


def loads_of(calibration: ServerCalibration) -> Iterator[LoadErrors]:
    """Yield the loads, steps weighed by the time that they took."""
    seen = calibration.seen
    blocks, shares, seconds, first = (seen.column(n) for n in ("block", "share", "seconds", "ttft_s"))
    lengths = seen.column("prompt_tokens") / np.maximum(seen.column("prompts"), 1e-9)
    for block in np.unique(blocks):
        at = np.flatnonzero(blocks == block)
        row = seen.rows[at[0]]
        read = at[seen.column("prompts")[at] > 0]
        yield LoadErrors(
            row.arm,
            row.clients,
            mean(lengths[read], shares[read]),
            mean(seconds[at], shares[at] / seconds[at]),
            mean(calibration.held_out_step[at], shares[at]),
            mean(first[at], shares[at]),
            mean(calibration.held_out_first[at], shares[at]),
        )


def mean(values: Floats, weights: Floats) -> float:
    """Return the weighted mean of those that are there; NaN of none."""
    there = np.isfinite(values) & (weights > 0)
    return float(np.average(values[there], weights=weights[there])) if there.any() else np.nan


def failed(calibration: ServerCalibration) -> str:
    """Say why no profile is to be written, "" where one is."""
    median = errors_of(calibration.held_out_step).median_error or 0.0
    if median <= MOST_MEDIAN:
        return ""
    return f"the median error of loads left out is {median:.0%}, expected at most {MOST_MEDIAN:.0%}"


def amounts(profile: Profile, models: Models) -> list[tuple[str, str, str]]:
    """Return what was fitted as a reader takes it: names of constants, words, and amounts."""
    cost, shape, engine = next(iter(profile.passes.values())), models.target, profile.engine
    assert engine is not None
    one, many = (float(cost.flop_scale.at(n)) * float(shape.flops(1, 1, 0)) for n in (1.0, 128.0))
    moved = float(shape.bytes_moved(1, 1, 0, models.storage))
    told = [
        ("mem_scale", "weights, a pass", float(cost.mem_scale.at(moved)) * moved),
        ("flop_scale", "a token, alone", one),
        ("flop_scale", "a token, of 128", many),
        (
            "fixed_s",
            "a pass besides",
            float(cost.fixed_s) + float(cost.launch_s) * profile.launches_per_layer * shape.layers,
        ),
        ("load_layer_s", "a step besides", float(engine.load_layer_s) * shape.layers),
        ("load_layer_sequence_s", "its sequence", float(engine.load_layer_sequence_s) * shape.layers),
        ("round_overhead_s", "a round besides", float(profile.round_overhead_s)),
        ("round_sequence_s", "its sequence", float(engine.round_sequence_s)),
        ("draft_round_s", "a round of a draft model", float(engine.draft_round_s)),
        ("search_s", "a search, a sequence", float(engine.search_s)),
        ("front_s", "in front of a request", float(engine.front_s)),
    ]
    rows = [(name, words, f"{seconds * 1e3:.3g} ms") for name, words, seconds in told]
    rows.append(("attention_flops", "a FLOP of attention", f"{float(engine.attention_flops):.3g} x"))
    rows.append(("draft_flops", "a FLOP of the draft", f"{float(engine.draft_flops):.3g} x"))
    return rows


def server_text(calibration: ServerCalibration, models: Models, accepted: Sequence[Accepted]) -> str:
    """Return what the fit found."""
    seen, held, first = calibration.seen, errors_of(calibration.held_out_step), errors_of(calibration.held_out_first)
    who = f"{seen.engine} serving {models.target.name}" if seen.engine else models.target.name
    requests = sum(len(arm.answers) for arm in seen.arms)
    arms = ", ".join(in_words(arm.name, method_of(arm, models), arm.k) for arm in seen.arms)
    lines = [f"{who}: steps of {requests:,} requests fitted ({arms})."]
    lines.append(f"Steps of a load left out in turn: median error {held.median_error or 0:.1%}.")
    if first.median_error is not None:
        lines.append(f"First tokens of one client: {first.median_error:.1%}.")
    return "\n\n".join(
        ("\n".join(lines), loads_table(calibration), constants_table(calibration, models), said(accepted))
    )


def in_words(name: str, method: Any, k: int) -> str:
    """Say how an arm drafts."""
    return f"{name}: {method.name} K={k}" if method else f"{name}: no drafts"


def said(accepted: Sequence[Accepted]) -> str:
    """Say what rounds accepted."""
    each = (f"{a.method} K={a.k} {a.imported.histogram.tokens_per_round:.3f}" for a in accepted)
    return f"tokens a round that drafted: {', '.join(each)}" if accepted else "no round drafted"


def loads_table(calibration: ServerCalibration) -> str:
    """Return what each load took, and by how much a fit without it is off."""
    rows: list[tuple[str, ...]] = [("arm", "clients", "prompt", "step, ms", "left out", "first, ms", "left out")]
    for load in loads_of(calibration):
        times = ((load.step_s, load.step_off), (load.first_s, load.first_off))
        told = (
            text for s, off in times for text in ((f"{s * 1e3:.3g}", f"{off:+.1%}") if np.isfinite(s) else ("", ""))
        )
        tokens = f"{load.prompt_tokens:.0f}" if np.isfinite(load.prompt_tokens) else ""
        rows.append((load.arm, str(load.clients), tokens, *told))
    return table(rows, (0,))


def constants_table(calibration: ServerCalibration, models: Models) -> str:
    """Return the constants, and how well each is known."""
    known = errors(calibration)
    rows = [("constant", "fitted", "known to")]
    rows += [
        (words, amount, f"{known[n]:.0%}") for n, words, amount in amounts(calibration.profile, models) if n in known
    ]
    return table(rows, (0,))


def errors(calibration: ServerCalibration) -> dict[str, float]:
    """Return relative standard errors by name."""
    sizes = np.sqrt(np.diag(calibration.covariance)).tolist()
    return {c.name: size for c, size in zip(calibration.constants, sizes, strict=True)}


def server_json(
    calibration: ServerCalibration, models: Models, accepted: Sequence[Accepted], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fit with its constants and the errors of every load."""
    known = errors(calibration)
    return envelope(KIND, SCHEMA_VERSION, parameters) | {
        "passed": not failed(calibration),
        "model": models.target.name,
        "engine": calibration.seen.engine,
        "held_out": {
            "step": errors_json(errors_of(calibration.held_out_step)),
            "ttft": errors_json(errors_of(calibration.held_out_first)),
        },
        "step": errors_json(errors_of(calibration.step)),
        "ttft": errors_json(errors_of(calibration.first)),
        "loads": [
            {n: None if isinstance(v, float) and np.isnan(v) else v for n, v in load._asdict().items()}
            for load in loads_of(calibration)
        ],
        "constants": [
            {"name": n, "said": words, "value": amount, "relative_error": known[n]}
            for n, words, amount in amounts(calibration.profile, models)
            if n in known
        ],
        "accepted": [
            {"arm": a.arm, "method": a.method, "k": a.k, "tokens_per_round": a.imported.histogram.tokens_per_round}
            for a in accepted
        ],
    }
