"""What a benchmark found, as people and programs read it: the table, bench_sampling.json with raw samples, CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cuda_probe.probe.report import (
    device_text,
    disturbed_text,
    duration,
    left_text,
    point_json,
    rate,
    raw_path,
    save_with_raw,
    size_text,
)
from simulator.ground.artefacts import envelope, finite_or_text, neutral, writing
from simulator.ground.command import table
from simulator.ground.statistics import quartiles

from .runner import BenchPoint, BenchResults
from .shapes import BACKENDS, OURS

KIND = "bench_sampling"
# 1: first version.
SCHEMA_VERSION = 1
NOT_OURS = ("flop", "flop_per_s", "probe")
AXES = ("batch", "k", "vocabulary", "dtype")


def result_json(results: BenchResults, parameters: Mapping[str, Any], raw: Path | None) -> dict[str, Any]:
    """Return everything but the raw samples, with its provenance, under plain keys."""
    payload = envelope(KIND, SCHEMA_VERSION, parameters)
    payload["environment"]["device"] = dict(results.device)
    return payload | {
        "copy": None if results.copy is None else point_json(results.copy),
        "points": [bench_json(results, bench) for bench in results.points],
        "left_out": [
            {"backend": left.probe, "axes": dict(left.axes), "reason": left.reason, "failed": left.failed}
            for left in results.left_out
        ],
        "raw": None if raw is None else {"file": raw.name, "points": len(results.points)},
        "interrupted": results.interrupted,
    }


def bench_json(results: BenchResults, bench: BenchPoint) -> dict[str, Any]:
    """Return one backend at one point; times are seconds."""
    row = point_json(bench.point)
    kept = {name: value for name, value in row.items() if name not in NOT_OURS}
    return {
        "backend": bench.point.probe,
        **kept,
        "calls": bench.calls,
        "call_s": bench.call_s,
        "accepted_mean": bench.accepted_mean,
        "agrees": bench.agrees,
        "share_of_copy": results.share(bench),
        "time_ratios": results.ratios(bench),
    }


def save_bench(out: Path, results: BenchResults, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Write bench_sampling.json and its raw samples; returns what the JSON holds."""
    payload = result_json(results, parameters, raw_path(out))
    # The copy is the last, so that points keep their numbers.
    points = [bench.point for bench in results.points] + ([results.copy] if results.copy is not None else [])
    return save_with_raw(out, payload, points)


def csv_rows(results: BenchResults) -> list[dict[str, Any]]:
    """Return one flat row for each backend at each point; `x_over_this` is the time of x over that of this backend."""
    rows = []
    for bench in results.points:
        row = bench_json(results, bench)
        ratios = {f"{name}_over_this": row["time_ratios"].get(name) for name in BACKENDS}
        rows.append(
            {
                "backend": row["backend"],
                **{axis: row["axes"][axis] for axis in AXES},
                "calls": row["calls"],
                "median_ms": row["median_s"] * 1e3,
                "iqr_ms": row["iqr_s"] * 1e3,
                "samples": row["samples"],
                "stop_reason": row["stop_reason"],
                "verdict": row["verdict"],
                "call_ms": None if row["call_s"] is None else row["call_s"] * 1e3,
                "bytes": row["bytes"],
                "bytes_per_s": row["bytes_per_s"],
                "copy_bytes_per_s": results.copy and results.copy.bytes_per_s,
                "share_of_copy": row["share_of_copy"],
                "accepted_mean": row["accepted_mean"],
                "agree": row["agrees"],
                **ratios,
            }
        )
    return rows


def write_csv(path: Path, results: BenchResults) -> None:
    """Write one row for each backend at each point."""
    import pandas as pd

    frame = pd.DataFrame([finite_or_text({k: neutral(v) for k, v in row.items()}) for row in csv_rows(results)])
    with writing(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def result_text(results: BenchResults) -> str:
    """Return the report for a terminal: device, copy, every backend at every point, and what was left out."""
    lines = [headline(results), device_text(results.device)]
    if results.copy is not None:
        size = size_text(results.copy.axes["buffer_bytes"])
        lines.append(f"copies buffers of {size} at {rate(results.copy.bytes_per_s)} GB/s, read and written")
    disturbed = disturbed_text([bench.point for bench in results.points])
    parts = points_text(results), disturbed, left_text(results.left_out), disagreement_text(results)
    return "\n\n".join(filter(None, ("\n".join(lines), *parts)))


def headline(results: BenchResults) -> str:
    """Say which backend of ours is fastest at the largest point, and how it stands to the others there."""
    if not results.points:
        return "Nothing was timed."
    largest = max(results.points, key=lambda bench: bench.point.bytes).point.axes
    here = [bench for bench in results.points if bench.point.axes == largest]
    ours = [bench for bench in here if bench.point.probe in OURS]
    best = min(ours or here, key=lambda bench: bench.point.measurement.median_s)
    where = ", ".join(str(value) if axis == "dtype" else f"{axis} {value}" for axis, value in largest.items())
    others = "".join(f"; {beside(best, other, results)}" for other in here if other is not best)
    return f"{best.point.probe} takes {duration(best.point.measurement.median_s)} at {where}{others}."


def beside(best: BenchPoint, other: BenchPoint, results: BenchResults) -> str:
    """Say how one backend stands to another; where their quartiles overlap, that nothing tells them apart."""
    one, two = (quartiles(bench.point.measurement.samples_s) for bench in (best, other))
    name = other.point.probe
    if name not in results.ratios(best) or (one[0] <= two[2] and two[0] <= one[2]):
        return f"not told apart from {name}"
    return f"{results.ratios(best)[name]:.3g}x as fast as {name}"


def points_text(results: BenchResults) -> str:
    """Return the table: what was timed and how backends compare, then how it was timed."""
    if not results.points:
        return "nothing was timed"
    peers = [name for name in BACKENDS if any(p.point.probe == name for p in results.points)]
    first = (*AXES, "backend", "median", "IQR", "agree", *(f"{name}/this" for name in peers))
    rows: list[Sequence[str]] = [(*first, "calls", "GB/s", "of copy", "samples", "stopped")]
    for bench in results.points:
        timed, share, ratios = bench.point.measurement, results.share(bench), results.ratios(bench)
        spread = f"{timed.iqr_s / timed.median_s:.1%}" if timed.median_s > 0 else ""
        where = (*(str(bench.point.axes[axis]) for axis in AXES), bench.point.probe)
        agree = {True: "yes", False: "NO", None: ""}[bench.agrees]
        others = (f"{ratios[name]:.3g}" if name in ratios else "" for name in peers)
        speed = (str(bench.calls), rate(bench.point.bytes_per_s), "" if share is None else f"{share:.1%}")
        counts = (str(len(timed.samples_s)), timed.reason)
        rows.append((*where, duration(timed.median_s), spread, agree, *others, *speed, *counts))
    return table(rows, left=(3, 4, 7, len(rows[0]) - 1), keys=len(AXES) + 1)


def disagreement_text(results: BenchResults) -> str:
    """Name the backends of ours that accepted otherwise than the reference."""
    wrong = [bench.point.probe for bench in results.points if bench.agrees is False]
    if not wrong:
        return ""
    names = ", ".join(sorted(set(wrong)))
    return f"NOT AS THE REFERENCE: {names} accepted other counts at {len(wrong)} of {len(results.points)} points"
