"""probe.json, its raw samples, the CSV and the table: what is written is read back, and what is broken is named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cuda_probe.probe.probes import PROBES
from cuda_probe.probe.report import (
    axes_text,
    duration,
    load_probe,
    raw_path,
    result_text,
    save_probe,
    size_text,
    write_csv,
)
from cuda_probe.probe.runner import QUICK, Results, plan, run_probes
from simulator.ground.artefacts import UserError, file_sha256

from .fake_device import FakeDevice


@pytest.fixture(scope="module")
def results() -> Results:
    device = FakeDevice(wrong=("write",))
    return run_probes(device, plan(device, PROBES, {}, quick=True), QUICK, seed=2)


@pytest.fixture
def saved(results: Results, tmp_path: Path) -> Path:
    save_probe(tmp_path / "probe.json", results, {"seed": 2})
    return tmp_path / "probe.json"


def test_what_is_written_is_read_back(results: Results, saved: Path) -> None:
    found = load_probe(saved)
    assert (found.units, found.left_out, found.device) == (results.units, results.left_out, results.device)
    assert len(found.points) == len(results.points) > 30
    for one, other in zip(results.points, found.points, strict=True):
        for name in ("probe", "axes", "flop", "bytes", "states"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("median_s", "iqr_s", "median_error_s", "batch", "flushed", "reason", "verdict"):
            assert getattr(one.measurement, name) == getattr(other.measurement, name)
        assert one.measurement.samples_s.tolist() == other.measurement.samples_s.tolist()
        assert one.measurement.warm_ups_s.tolist() == other.measurement.warm_ups_s.tolist()
    raw_path(saved).unlink()
    summaries = load_probe(saved, raw=False)
    assert [p.measurement.median_s for p in summaries.points] == [p.measurement.median_s for p in results.points]
    assert all(len(p.measurement.samples_s) == 0 for p in summaries.points)
    with pytest.raises(UserError, match=r"probe\.npz: no such file, but .*probe\.json names it"):
        load_probe(saved)


def test_the_file_says_what_it_is_and_what_a_unit_is(saved: Path) -> None:
    found = json.loads(saved.read_text())
    assert (found["kind"], found["schema_version"], found["tool"]) == ("probe", 1, "specsim")
    assert found["parameters"] == {"seed": 2}
    assert found["environment"]["device"] == {"name": "fake", "model": "Costs $1 a law"}
    assert found["units"]["workflops_flop"] == 600
    raw = {"file": "probe.npz", "points": len(found["points"]), "sha256": file_sha256(raw_path(saved))}
    assert found["raw"] == raw
    with np.load(saved.with_suffix(".npz")) as archive:
        assert len(archive.files) == 2 * len(found["points"])
        for index, point in enumerate(found["points"]):
            samples = archive[f"samples_{index:04d}"]
            assert (len(samples), np.median(samples)) == (point["samples"], point["median_s"])
            assert len(archive[f"warm_ups_{index:04d}"]) == point["warm_ups"]
    point = next(p for p in found["points"] if p["probe"] == "triad")
    assert point["bytes_per_s"] == pytest.approx(point["bytes"] / point["median_s"])
    assert {"stop_reason", "verdict", "verdict_reason", "iqr_s", "flop_per_s", "states"} <= set(point)
    fit = next(f for f in found["fits"] if f["probe"] == "burn_flops")
    assert (fit["axis"], fit["points"]) == ("work_flops", 3)
    assert fit["max_relative_residual"] < 1e-6


def drafted(found: dict) -> dict:
    return next(point for point in found["points"] if point["probe"] == "draft")


def edited(path: Path, change) -> Path:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.update(kind="simulation"), "kind is 'simulation', expected 'probe'"),
        (lambda f: f.update(schema_version=9), "schema_version is 9, supported: 1"),
        (lambda f: f.pop("units"), "units is missing, expected an object"),
        (lambda f: f["units"].pop("workmem_bytes"), "units.workmem_bytes is missing"),
        (lambda f: f["units"].update(workflops_flop=1.5), "units.workflops_flop is 1.5, expected a whole number"),
        (lambda f: f["environment"].pop("device"), "environment.device is missing"),
        (lambda f: f.update(points={}), "points is {}, expected a list"),
        (lambda f: f["points"][3].update(median_s="fast"), r"points\[3\].median_s is 'fast', expected a number"),
        (lambda f: f["points"][3].update(median_s=-1), r"points\[3\].median_s is -1, expected a number of at least 0"),
        (lambda f: f["points"][3].update(median_s=1), r"points\[3\].median_s is not the median of its raw samples"),
        (lambda f: f["points"][3].pop("stop_reason"), r"points\[3\].stop_reason is missing, expected text"),
        (lambda f: f["points"][0].update(flushed=1), r"points\[0\].flushed is 1, expected true or false"),
        (lambda f: f["points"][5].update(flop=True), r"points\[5\].flop is True, expected a whole number"),
        (lambda f: f["points"][5].update(axes={"tokens": None}), r"points\[5\].axes.tokens is None"),
        (lambda f: drafted(f)["axes"].update(draft_n=0), r"axes.draft_n is 0, expected a whole number of at least 1"),
        (lambda f: f["points"].append(f["points"][0]), "has no raw samples 'samples_"),
        (lambda f: f["left_out"][0].pop("reason"), r"left_out\[0\].reason is missing"),
        (lambda f: f.update(raw=None), "raw is None, expected an object"),
        (lambda f: f["raw"].update(file="../other.npz"), "raw.file is '../other.npz', expected a name without folders"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_the_field(saved: Path, change, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_probe(edited(saved, change))
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


def test_broken_raw_samples_are_refused(saved: Path) -> None:
    found = json.loads(saved.read_text())
    for hashed, message in ((True, "is not what probe.json was written with"), (False, r"is no \.npz of arrays")):
        if not hashed:
            del found["raw"]["sha256"]
            saved.write_text(json.dumps(found))
        for content in (b"", b"PK\x03\x04 cut", b"no archive"):
            raw_path(saved).write_bytes(content)
            with pytest.raises(UserError, match=rf"probe\.npz: {message}"):
                load_probe(saved)


def test_the_csv_has_a_row_a_point_and_a_column_an_axis(results: Results, tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", results)
    frame = pd.read_csv(tmp_path / "p.csv")
    assert len(frame) == len(results.points)
    row = frame[(frame["probe"] == "skinny") & (frame["tokens"] == 8)].iloc[0]
    assert (row["weight"], row["dtype"], row["flop"]) == ("30x50", "float32", 2 * 8 * 30 * 50)
    assert np.isnan(row["draft_n"])
    point = next(p for p in results.of("skinny") if p.axes["tokens"] == 8)
    assert row["median_s"] == pytest.approx(point.measurement.median_s, rel=1e-12)
    # Whole numbers stay whole, beside axes that a point does not have.
    assert ",8,24000," in (tmp_path / "p.csv").read_text()


def test_the_table_shows_every_point_its_rate_the_lines_and_what_was_left_out(results: Results) -> None:
    text = result_text(results)
    lines = text.splitlines()
    assert sum(line.startswith("verify  ") for line in lines) == len(results.of("verify"))
    triad = next(line for line in lines if line.startswith("triad") and "7.812 KiB" in line)
    assert f"{results.of('triad')[-1].bytes_per_s / 1e9:.4g}" in triad
    assert "quiet" in triad
    for words in (
        "1 workflops = 600 FLOP: 600 FLOP",
        "burn_flops by work_flops",
        "FAILED write (2 points): wrong result: off by one",
        "skipped draft_graph (27 points): no graphs here",
    ):
        assert words in text


def test_disturbances_are_counted_and_nothing_timed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device, wrong = FakeDevice(), FakeDevice(wrong=("empty",))
    hot = {"disturbed": "throttled by heat"}
    monkeypatch.setattr(device, "state", lambda busy=None: hot if device.time_s > 0.001 else {})
    found = run_probes(device, plan(device, PROBES, {}, quick=True), QUICK)
    assert f"throttled by heat, at {len(found.points)} of {len(found.points)} points" in result_text(found)
    text = result_text(run_probes(wrong, plan(wrong, (PROBES[0],), {}, quick=True), QUICK))
    assert "nothing was timed" in text
    assert "FAILED empty (its only point)" in text


def test_times_and_sizes_are_written_for_people() -> None:
    assert [duration(s) for s in (2.5, 0.0025, 2.5e-6, 2.5e-9, 0)] == ["2.5 s", "2.5 ms", "2.5 us", "2.5 ns", "0 ns"]
    assert [size_text(b) for b in (100, 2048, 3 << 20, 5 << 30)] == ["100", "2 KiB", "3 MiB", "5 GiB"]
    assert axes_text({"weight": "4x4", "tokens": 3}) == "4x4, tokens 3"
