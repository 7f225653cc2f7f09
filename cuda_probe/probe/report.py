"""What a probe found, as people and programs read it: the terminal table, probe.json with its raw samples, CSV."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.ground.arrays import Numbers, read_arrays
from simulator.ground.artefacts import (
    UserError,
    check_kind,
    envelope,
    file_sha256,
    finite_or_text,
    neutral,
    read_hashed,
    write_json,
    writing,
)
from simulator.ground.command import table
from simulator.ground.fields import Field, read_json

from .probes import AXIS_UNITS, BY_NAME, Axes, Units
from .runner import LeftOut, Point, Results, WorkFit, line_fits
from .stats import Verdict
from .timing import Measurement

KIND = "probe"
# 1: first version.
SCHEMA_VERSION = 1
RATES = ("flop_per_s", "bytes_per_s")
TIMES = ("median_s", "iqr_s", "median_error_s")
# Probes whose bytes come from memory, not from a cache.
STREAMED = ("read", "write", "copy", "triad", "burn_memory")
UNIT_NUMBERS = ("workflops_flop", "workmem_bytes", "workmem_flop")
UNIT_WORDS = ("workflops_means", "workmem_means")
# Axes whose values are words or sizes such as 4096x4096; all others are whole numbers.
TEXT_AXES = ("dtype", "weight")
NO_SAMPLES: NDArray[np.float64] = np.empty(0)


# The probe of passes one after another, and the axis that says how many.
DRAFT, DRAFTED = "draft", "draft_n"


def raw_path(out: Path) -> Path:
    """Return where the raw samples of a probe.json are kept: beside it."""
    return out.with_suffix(".npz")


def result_json(results: Results, parameters: Mapping[str, Any], raw: Path | None) -> dict[str, Any]:
    """Return everything but the raw samples, with its provenance, under plain keys; raw: their file if any."""
    payload = envelope(KIND, SCHEMA_VERSION, parameters)
    payload["environment"]["device"] = dict(results.device)
    return payload | {
        "units": asdict(results.units),
        "points": [point_json(point) for point in results.points],
        "left_out": [asdict(left) | {"axes": dict(left.axes)} for left in results.left_out],
        "fits": [fit_json(fit) for fit in line_fits(results)],
        "interrupted": results.interrupted,
        "raw": None if raw is None else {"file": raw.name, "points": len(results.points)},
    }


def point_json(point: Point) -> dict[str, Any]:
    """Return one point: where it is, its work, what was timed, and the rates that follow."""
    measurement = point.measurement
    return {
        "probe": point.probe,
        "axes": dict(point.axes),
        "flop": point.flop,
        "bytes": point.bytes,
        **{name: getattr(measurement, name) for name in TIMES},
        **{name: getattr(point, name) for name in RATES},
        "samples": len(measurement.samples_s),
        "warm_ups": len(measurement.warm_ups_s),
        "batch": measurement.batch,
        "flushed": measurement.flushed,
        "stop_reason": measurement.reason,
        "verdict": measurement.verdict.word,
        "verdict_reason": measurement.verdict.reason,
        "states": [dict(state) for state in point.states],
    }


def fit_json(fit: WorkFit) -> dict[str, Any]:
    return {"probe": fit.probe, "axis": fit.axis, "held": dict(fit.held), "points": fit.points, **asdict(fit.line)}


def save_probe(out: Path, results: Results, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Write probe.json and its raw samples; returns what the JSON holds."""
    return save_with_raw(out, result_json(results, parameters, raw_path(out)), results.points)


def save_with_raw(out: Path, payload: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any]:
    """Write the raw samples of points, by their place, then the report, which names their hash; return the report."""
    arrays: dict[str, NDArray[np.float64]] = {}
    for index, point in enumerate(points):
        arrays[f"samples_{index:04d}"] = point.measurement.samples_s
        arrays[f"warm_ups_{index:04d}"] = point.measurement.warm_ups_s
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # NumPy types the keywords with its own flag
    with writing(raw_path(out), "wb") as file:
        file.write(buffer.getvalue())
    hashed = {**payload, "raw": payload["raw"] | {"sha256": file_sha256(raw_path(out))}}
    write_json(out, hashed)
    return hashed


def load_probe(path: Path, *, raw: bool = True) -> Results:
    """Read a probe.json.

    Args:
        path: The file.
        raw: Whether to read the raw samples beside it as well; without them the points hold none.

    Raises:
        UserError: Either file is missing, not ours, of another version, or contradicts itself; names file and field.
    """
    report = read_json(path)
    if not report["kind"].is_given:
        report["kind"].refuse(repr(KIND))
    check_kind(path, report.object(), KIND, (SCHEMA_VERSION,))
    units = report["units"]
    named: dict[str, Any] = {name: units[name].whole() for name in UNIT_NUMBERS}
    named |= {name: units[name].text(empty=True) for name in UNIT_WORDS}
    samples = load_raw(report) if raw else None
    return Results(
        device=report["environment"]["device"].object(),
        units=Units(**named),
        points=tuple(read_point(point, index, samples) for index, point in enumerate(report["points"].elements())),
        left_out=tuple(read_left_out(point) for point in report["left_out"].elements()),
        interrupted=report["interrupted"].flag(default=False),
    )


def load_raw(report: Field) -> Mapping[str, NDArray[np.float64]]:
    """Read the raw samples that a probe.json names."""
    path, file = Path(report.path), report["raw"]["file"]
    if Path(file.text()).name != file.text():
        file.refuse("a name without folders")
    beside, hashed = path.parent / file.text(), report["raw"]["sha256"]
    if not beside.exists():
        raise UserError(f"{beside}: no such file, but {path} names it for its raw samples")
    content, _ = read_hashed(beside, hashed.text() if hashed.is_given else None, path.name)
    return read_arrays(beside, content, Numbers(least=0))


def read_point(entry: Field, index: int, raw: Mapping[str, NDArray[np.float64]] | None) -> Point:
    """Read one point, and compare its median with that of its raw samples."""
    times = {name: entry[name].number() for name in TIMES}
    arrays = (NO_SAMPLES, NO_SAMPLES)
    if raw is not None:
        try:
            arrays = raw[f"samples_{index:04d}"], raw[f"warm_ups_{index:04d}"]
        except KeyError as error:
            raise UserError(f"{entry.place} has no raw samples {error}") from None
        if len(arrays[0]) == 0 or not math.isclose(float(np.median(arrays[0])), times["median_s"], rel_tol=1e-9):
            raise UserError(f"{entry['median_s'].place} is not the median of its raw samples")
    states = [state.object() for state in entry["states"].elements()] or [{}]
    measurement = Measurement(
        **times,
        samples_s=arrays[0],
        warm_ups_s=arrays[1],
        batch=entry["batch"].whole(),
        flushed=entry["flushed"].flag(),
        reason=entry["stop_reason"].text(),
        verdict=Verdict(word=entry["verdict"].text(), reason=entry["verdict_reason"].text(empty=True)),
    )
    probe, axes = entry["probe"].text(), read_axes(entry["axes"])
    for axis in BY_NAME[probe].axes if probe in BY_NAME else ():
        if axis not in axes:
            entry["axes"][axis].refuse(f"a value of the probe {probe}")
    if probe == DRAFT and not axes[DRAFTED]:
        entry["axes"][DRAFTED].refuse("a whole number of at least 1")
    return Point(
        probe=probe,
        axes=axes,
        flop=entry["flop"].whole(),
        bytes=entry["bytes"].whole(),
        measurement=measurement,
        states=(states[0], states[-1]),
    )


def read_left_out(entry: Field) -> LeftOut:
    reason, failed = entry["reason"].text(empty=True), entry["failed"].flag()
    return LeftOut(probe=entry["probe"].text(), reason=reason, axes=read_axes(entry["axes"]), failed=failed)


def read_axes(entry: Field) -> Axes:
    return {name: axis.text() if name in TEXT_AXES else axis.whole() for name, axis in entry.items()}


def write_csv(path: Path, results: Results) -> None:
    """Write one row for each point; axes that a point does not have are empty."""
    import pandas as pd

    rows = []
    for point in results.points:
        row = point_json(point)
        axes = {axis: row["axes"].get(axis) for axis in AXIS_UNITS}
        rows.append({"probe": row["probe"]} | axes | {k: v for k, v in row.items() if k not in ("axes", "states")})
    frame = pd.DataFrame([finite_or_text({k: neutral(v) for k, v in row.items()}) for row in rows])
    for column in frame.columns.intersection([a for a in AXIS_UNITS if a not in ("weight", "dtype")]):
        frame[column] = frame[column].astype("Int64")
    with writing(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def duration(seconds: float) -> str:
    """Write a time with the unit that suits it."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"


def rate(value: float | None) -> str:
    """Write a rate in 10^9 a second."""
    return "" if value is None else f"{value / 1e9:.4g}"


def size_text(value: object) -> str:
    """Write bytes in the binary unit that divides them."""
    if isinstance(value, int):
        for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value >= 1 << exponent:
                return f"{value / (1 << exponent):.4g} {unit}"
    return f"{value}"


def axes_text(axes: Axes) -> str:
    """Write where a point is, in a few words."""
    words = []
    for name, value in axes.items():
        if name == "buffer_bytes":
            words.append(size_text(value))
        else:
            words.append(str(value) if isinstance(value, str) else f"{name} {value}")
    return ", ".join(words)


def result_text(results: Results) -> str:
    """Return the report for a terminal: the device, its units, every point, the fits, and what was left out."""
    doubts = disturbed_text(results.points)
    tables = "\n".join(filter(None, [headline(results), doubts])), heading(results), points_text(results)
    return "\n\n".join(filter(None, (*tables, fits_text(results), left_text(results.left_out))))


def headline(results: Results) -> str:
    """Name the device and say the best that was timed on it: arithmetic, memory, and the time of nothing at all."""
    flop = max((point.flop_per_s for point in results.points if point.flop_per_s), default=None)
    flowing = [point for point in results.points if point.probe in STREAMED and point.bytes_per_s]
    best = [] if flop is None else [f"{rate(flop)} GFLOP/s"]
    best += [f"{rate(max(point.bytes_per_s or 0 for point in flowing))} GB/s"] if flowing else []
    empty = results.of("empty")
    best += [f"a launch {duration(empty[0].measurement.median_s)}"] if empty else []
    return f"{device_text(results.device)}: {', '.join(best) or 'nothing that has a rate was timed'}."


def device_text(device: Mapping[str, Any]) -> str:
    """Name a device."""
    return f"{device.get('name', '')}: {device.get('model', 'unknown device')}"


def heading(results: Results) -> str:
    """Say what a burn unit is."""
    units, lines = results.units, []
    lines.append(f"1 workflops = {units.workflops_flop:,} FLOP: {units.workflops_means}")
    lines.append(f"1 workmem = {units.workmem_bytes:,} bytes: {units.workmem_means}")
    return "\n".join(lines)


def points_text(results: Results) -> str:
    if not results.points:
        return "nothing was timed"
    rows: list[Sequence[str]] = [("probe", "at", "median", "IQR", "GFLOP/s", "GB/s", "samples", "stopped", "verdict")]
    for point in results.points:
        measurement = point.measurement
        spread = measurement.iqr_s / measurement.median_s if measurement.median_s > 0 else math.inf
        timed = (duration(measurement.median_s), f"{spread:.1%}", rate(point.flop_per_s), rate(point.bytes_per_s))
        why = (f"{len(measurement.samples_s)}", measurement.reason, measurement.verdict.word)
        rows.append((point.probe, axes_text(point.axes), *timed, *why))
    return table(rows, left=(0, 1, 7, 8))


def fits_text(results: Results) -> str:
    """Say how well time follows work, and at what rate."""
    rows: list[Sequence[str]] = [("time against work", "per unit", "start", "largest residual", "points")]
    for fit in line_fits(results):
        held = f" ({axes_text(fit.held)})" if fit.held else ""
        line = fit.line
        start = f"{'-' if line.intercept_s < 0 else ''}{duration(abs(line.intercept_s))}"
        cells = (duration(line.slope_s), start, f"{line.max_relative_residual:.1%}", f"{fit.points}")
        rows.append((f"{fit.probe} by {fit.axis}{held}", *cells))
    return table(rows) if len(rows) > 1 else ""


def disturbed_text(points: Sequence[Point]) -> str:
    """Say what disturbed how many points."""
    counts: dict[str, int] = {}
    for point in points:
        for words in {str(state["disturbed"]) for state in point.states if state.get("disturbed")}:
            counts[words] = counts.get(words, 0) + 1
    return "\n".join(f"{words}, at {count} of {len(points)} points" for words, count in counts.items())


def left_text(left_out: Iterable[LeftOut]) -> str:
    """Say what was left out and why, like with like."""
    groups: dict[tuple[bool, str, str], list[Axes]] = {}
    for left in left_out:
        groups.setdefault((left.failed, left.probe, left.reason), []).append(left.axes)
    return "\n".join(
        f"{'FAILED' if failed else 'skipped'} {probe} ({places(axes)}): {reason}"
        for (failed, probe, reason), axes in groups.items()
    )


def places(axes: Iterable[Axes]) -> str:
    """Name points: one by its axes, several by their number."""
    listed = list(axes)
    return (axes_text(listed[0]) or "its only point") if len(listed) == 1 else f"{len(listed)} points"
