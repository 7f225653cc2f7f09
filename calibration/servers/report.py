"""Results as people and programs read them: the answer first, a table, what failed, the same as JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from acceptance.servers.answer import FAILURES
from simulator.answers.latency import Limit, Told, ms, time_text
from simulator.answers.scene import unit_of
from simulator.ground.artefacts import envelope
from simulator.ground.command import table, wrapped

from .export import accepted_by, described
from .metrics import INTERVALS
from .results import Result

KIND = "server_load_result"
TPS = (
    "tokens/s are completion tokens over wall time; others' TPS may be that, prompt tokens with it, one user's "
    "1 / time a token, or requests/s"
)
GAPS = "a chunk holds all tokens of a round: its gaps, which others call ITL, are no times a token"
WARNING = "warning: "
# Of a gap: what the client may be late by, and requests behind when they were due.
MOST_LAG = 0.1


def result_json(
    results: Sequence[Result],
    limits: tuple[Limit, ...],
    parameters: Mapping[str, Any],
    notes: Sequence[str],
    broken: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all figures, in seconds, under plain keys; broken: what a run lacks."""
    unit = unit_of(parameters["load_kind"], sessions=parameters["turns"] is not None)
    return envelope(KIND, 1, parameters) | {
        "headline": " ".join([*broken, *headlines(results, unit)]),
        "unit": unit,
        "is_whole": not broken,
        "limits": {limit.measure: limit.most_s for limit in limits},
        "points": [point_json(result) for result in results],
        "notes": list(notes),
        "intervals": INTERVALS,
        "tokens_per_s": TPS,
    }


def point_json(result: Result) -> dict[str, Any]:
    """Return the figures of an arm at a load."""
    gains: dict[str, Any] = {}
    for name, told in result.gains.items():
        gains[name] = number(told.value)
        if np.isfinite(told.low):
            gains[f"{name}_ci95"] = [told.low, told.high]
    imported = result.counted.imported
    acceptance: dict[str, Any] | None = None
    if imported is not None:
        histogram = imported.histogram
        acceptance = {
            "k": histogram.draft_length,
            "tokens_per_round": histogram.tokens_per_round,
            "draft_acceptance_rate": histogram.draft_acceptance_rate,
            "survival": histogram.survival.tolist(),
            "rounds": histogram.samples,
            "reconstructed": imported.reconstructed,
            "definition": imported.definition,
            "notes": list(imported.notes),
        }
    return {
        "load": result.load,
        "arm": result.server.name,
        "clients": result.clients or None,
        "model": result.model,
        "requests": result.requests,
        "counted": sum(len(part.counted) for part in result.parts),
        "failed": dict(result.failures),
        "figures": described(result),
        "gains": gains,
        "same_text": result.same_text,
        "acceptance": acceptance,
        "tokens_per_round": accepted_by(result),
        "k": result.counted.k,
        "client": {
            "lag_p50_s": result.lag_s[0],
            "lag_p99_s": result.lag_s[1],
            "late_p99_s": result.late_s,
            "cpu": result.cpu,
        },
    }


def number(value: float) -> float | None:
    """Return a number as JSON has it; None of what is none."""
    return float(value) if np.isfinite(value) else None


def result_text(
    results: Sequence[Result],
    limits: tuple[Limit, ...],
    heading: str,
    notes: Sequence[str],
    unit: str,
    broken: Sequence[str] = (),
) -> str:
    """Return the report for a terminal; unit: of loads; broken: what a run lacks."""
    warned = [note for note in notes if note.startswith(WARNING)]
    notes = [note for note in notes if not note.startswith(WARNING)]
    lines = [*broken, *headlines(results, unit), *failed_in_words(results), *warned]
    parts = [wrapped(lines), wrapped(heading.splitlines()), latency_table(results, unit)]
    parts.append(rate_table(results, limits, unit))
    about = [TPS, *([GAPS] if any(per_chunk(r) > 1.05 for r in results) else []), INTERVALS, client_in_words(results)]
    return "\n\n".join([*parts, wrapped([*notes, *about])])


def headlines(results: Sequence[Result], unit: str) -> Iterator[str]:
    """Yield the answer, a line for each arm that is held against the first; else what the only one does."""
    compared = [r for r in results if r.gains]
    for arm in dict.fromkeys(r.server.name for r in compared):
        own = [r for r in compared if r.server.name == arm]
        ends = own if len(own) < 3 else (own[0], own[-1])
        said = ", ".join(f"{as_fast(r.gains['e2e'])} at {at(r.load, unit)}" for r in ends if "e2e" in r.gains)
        yield f"{arm}: answers come {said}, held against {results[0].server.name}."
        same = [r.same_text for r in own if r.same_text is not None]
        if same:
            yield f"{arm}: {sum(same) / len(same):.0%} of answers have the text of {results[0].server.name}'s"
    if compared:
        return
    for result in (results[0], results[-1]) if len(results) > 1 else results:
        f = result.figures
        if np.isnan(f["ttft_mean"].value):
            yield f"{result.server.name}: no answer at {at(result.load, unit)}."
            continue
        yield (
            f"{each_in_words(f['tpot_mean'].value)}, the first after {time_text(f['ttft_mean'].value)}, in the mean; "
            f"{f['output_tokens_per_s'].value:,.0f} tokens/s at {at(result.load, unit)}."
        )


def each_in_words(tpot_s: float) -> str:
    """Return a time a token, which answers of one token have not."""
    return "answers of one token" if np.isnan(tpot_s) else f"{time_text(tpot_s)} a token"


def at(load: float, unit: str) -> str:
    """Return a load in words."""
    return f"{load:g} {unit.removesuffix('s') if load == 1 and unit == 'clients' else unit}"


def as_fast(gain: Told) -> str:
    """Return how many times as fast answers come."""
    span = f" ({gain.low:.2f}x to {gain.high:.2f}x)" if np.isfinite(gain.low) else ""
    return f"{gain.value:.2f}x as fast{span}"


def failed_in_words(results: Sequence[Result]) -> Iterator[str]:
    """Yield how many requests failed, and how."""
    for arm in dict.fromkeys(r.server.name for r in results):
        own = [r for r in results if r.server.name == arm]
        failures = sum((r.failures for r in own), Counter[str]())
        if not failures:
            continue
        said = ", ".join(f"{kind} {count:,}" for kind, count in failures.most_common())
        kind = failures.most_common(1)[0][0]
        detail = next((r.example[kind] for r in own if kind in r.example), FAILURES.get(kind, ""))
        total = sum(r.requests for r in own)
        more = f" ({kind}: {detail})" if detail else ""
        yield f"warning: {sum(failures.values()):,} of {total:,} requests to {arm} failed: {said}{more}"


def latency_table(results: Sequence[Result], unit: str) -> str:
    """Return latencies of each arm at each load, in ms."""
    rows: list[tuple[str, ...]] = [(unit, "arm", "first token", "", "time a token", "", "", "gap", "whole answer", "")]
    rows.append(("", "", "p50", "p99", "p50", "p95", "p99", "p99", "p50", "p99"))
    names = ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p95", "tpot_p99", "gap_p99", "e2e_p50", "e2e_p99")
    for r in results:
        rows.append((f"{r.load:g}", r.server.name, *(ms(r.figures[name].value) for name in names)))
    return "times in ms\n" + table(rows, left=(0, 1), keys=2)


def rate_table(results: Sequence[Result], limits: tuple[Limit, ...], unit: str) -> str:
    """Return what was done a second by each arm at each load, what was accepted, and the gain."""
    heads = [unit, "arm", "requests", "failed", "a token, mean", "95 %", "tokens/s", "95 %", "a round"]
    with_gain = any(r.gains for r in results)
    rows = [[*heads, *(["goodput", "within"] if limits else []), *(["as fast", "95 %"] if with_gain else [])]]
    for r in results:
        f, accepted = r.figures, accepted_by(r)
        row = [f"{r.load:g}", r.server.name, f"{r.requests:,}", f"{sum(r.failures.values()):,}"]
        row += [ms(f["tpot_mean"].value), span(f["tpot_mean"], 1e3), f"{f['output_tokens_per_s'].value:,.1f}"]
        row += [span(f["output_tokens_per_s"]), "-" if accepted is None else f"{accepted:.3f}"]
        if limits:
            row += [f"{f['goodput'].value:.3g}", f"{f['within'].value:.0%}"]
        if with_gain:
            gain = r.gains.get("e2e")
            row += [f"{gain.value:.3f}x", span(gain)] if gain else ["", ""]
        rows.append(row)
    return table(rows, left=(0, 1), keys=2)


def span(told: Told, scale: float = 1.0) -> str:
    """Return an interval, nothing where there is none."""
    if not np.isfinite(told.low):
        return ""
    return f"{scale * told.low:.4g} to {scale * told.high:.4g}"


def per_chunk(result: Result) -> float:
    """Return tokens of a chunk, 1 where that is not known."""
    value = result.figures["tokens_per_chunk"].value
    return 1.0 if np.isnan(value) else value


def client_in_words(results: Sequence[Result]) -> str:
    """Say what the client itself cost."""
    lag_s, cpu = max(r.lag_s[1] for r in results), max(r.cpu for r in results)
    late_s = max(r.late_s for r in results)
    return (
        f"the client: chunks lay unread for {time_text(lag_s)} at most (p99), requests were sent "
        f"{time_text(late_s)} after they were due (p99, connections in that), {cpu:.0%} of a core"
    )


def cautions(results: Sequence[Result]) -> Iterator[str]:
    """Yield what a reader has to know before the figures."""
    for r in results:
        where = f"{r.server.name} at {r.load:g}"
        gap_s = r.figures["gap_p50"].value
        if r.lag_s[1] > MOST_LAG * gap_s > 0:
            yield (
                f"{where}: the client may have been {time_text(r.lag_s[1])} late (p99), beside gaps of "
                f"{time_text(gap_s)}: its machine is busy, or the load too much for one client"
            )
        if r.late_s > MOST_LAG * gap_s > 0:
            yield (
                f"{where}: requests were sent {time_text(r.late_s)} after they were due (p99), beside gaps of "
                f"{time_text(gap_s)}: connections take long, or the client's machine is busy"
            )
        if r.short:
            yield (
                f"{WARNING}{where}, {r.short:,} answers of {r.requests:,} are shorter than was asked, "
                f"{r.figures['mean_output_tokens'].value:,.4g} tokens in the mean of all"
            )
        if r.is_counted_by_chunks:
            yield f"{where}: the server counts no tokens (stream_options), so that each chunk counts as one"
        lengths = {a.tokens for p in r.parts for a in p.answers if not a.error}
        if r.clients > 1 and len(lengths) == 1:
            yield f"{where}: answers of one length keep clients in step, and first tokens hang on how they began"
        short = [len(p.answers) for p in r.parts if r.clients and len(p.answers) < 4 * r.clients]
        if short:
            yield f"{where}: blocks of {min(short)} requests for {r.clients} clients, who come and go at once"
