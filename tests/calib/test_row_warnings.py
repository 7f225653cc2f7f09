"""What is said of rows before any number: of cells that were mistyped, of throughputs, memory, of few rows used."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.fit.far_rows import far_of_fit, far_rows
from calibration.fit.from_serving import calibrate_serving
from calibration.fit.loads import Loads, Options, loads_of
from calibration.fit.physical import PHYSICAL, unphysical, values
from calibration.fit.row_words import doubts_of, notes_of, row_warnings
from calibration.fit.serving_report import warnings_of
from calibration.sources.serving import ServingRow
from calibration.sources.serving_files import read_serving
from calibration.validate.serving import serving_json, validate_serving
from simulator.costs.model_costs import Placed
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.priced import load_pricing
from simulator.rounds.loads import drawn_loads

from .serving_rows import DENSE, SHEET, fitted, halves, loads_in

LIKE = {"isl": 1024.0, "osl": 512.0, "tp": 1, "dtype": "fp8", "model": "llama-3.1-70b", "engine": "vllm"}


# Cells of rows that are mistyped: the name, by which factor, and what is said of it.
MISTYPED = {
    2: ("tpot_s", 10.0, "tpot_ms is"),
    6: ("ttft_s", 1e-3, "(other units?)"),
    9: ("isl", 10.0, "isl of"),
}


def test_mistyped_cells_are_named_with_what_the_others_expect() -> None:
    assert not far_of_fit(fitted(10))
    right = halves(loads_in(DENSE), 11)[0]
    rows = list(right.rows)
    for at, (name, factor, _) in MISTYPED.items():
        rows[at] = replace(rows[at], **{name: getattr(rows[at], name) * factor})
    found = calibrate_serving(replace(right, rows=tuple(rows)), SHEET, "engine")
    every = far_of_fit(found)
    told = {rows.index(far.row): far for far in every}
    assert set(told) == set(MISTYPED)
    for at, (name, _, said) in MISTYPED.items():
        far, before = told[at], getattr(right.rows[at], name)
        assert f"line {rows[at].line}: " in far.said
        assert said in far.said
        if name in ("tpot_s", "ttft_s"):
            assert far.time == name
            assert far.expected_ms == pytest.approx(1e3 * before, rel=0.4)
        assert f"{before if name in ('isl', 'concurrency') else 1e3 * before:,.5g} would fit" in far.said
    warned = list(warnings_of(found, every))
    assert [far.said for far in told.values()] == [line for line in warned if "would fit" in line]
    assert any(line.startswith("these rows lie far beyond the others") for line in warned)
    # Of rows that are held against a forecast the same are named.
    held = validate_serving(found.loads, fitted(10).profile)
    assert {rows.index(far.row) for far in far_rows(held.held)} == set(MISTYPED)
    assert len(serving_json(held, {})["far_rows"]) == len(MISTYPED)


def test_of_few_rows_one_that_is_mistyped_draws_no_other_with_it() -> None:
    right = halves(loads_in(DENSE), 5)[0]
    rows = tuple(replace(row, tpot_s=10 * row.tpot_s) if at == 1 else row for at, row in enumerate(right.rows))
    (far,) = far_of_fit(calibrate_serving(replace(right, rows=rows), SHEET, "engine"))
    assert (far.row, far.time) == (rows[1], "tpot_s")


def test_ranges_of_constants_hold_what_sheets_assume_and_name_what_is_beyond() -> None:
    found = fitted(10)
    assert unphysical(replace(found, logs=np.zeros(len(found.logs)))) == {}
    names = [c.name for c in found.constants]
    for name, factor, said in (
        ("first_passes", 220.0, "not physical: 66, expected 0 to 4"),
        ("front_client_s", 15.0, "not physical: 4.5 ms, expected 0 to 3"),
        ("flop_scale", 6.0, "not physical: 12% of peak, expected 15 to 100"),
        ("overlap_exponent", 0.2, "not physical: 0.8, expected 1 or more"),
    ):
        logs = np.zeros(len(names))
        logs[names.index(name)] = np.log(factor)
        odd = replace(found, logs=logs)
        assert unphysical(odd) == {name: said}
        assert values(odd)[name] == pytest.approx(float(said.split()[2].rstrip("%,")), rel=0.03)
        assert f"not physical, so this is not what the server has: {PHYSICAL[name].words}" in list(warnings_of(odd))


def test_few_loads_and_few_rows_of_many_are_said_first() -> None:
    few = calibrate_serving(halves(loads_in(DENSE), 3)[0], SHEET, "engine")
    assert "3 loads tell little of 13 constants: five to ten are better" in list(warnings_of(few))
    assert not [line for line in warnings_of(fitted(5)) if "loads tell" in line]
    rows = [ServingRow(line=i, concurrency=4.0, tpot_s=0.01, **LIKE | {"model": m}) for i, m in enumerate(MODELS)]
    loads = loads_of(rows, SHEET, Options(target_model="llama-3.1-70b"))
    (line,) = row_warnings(loads, SHEET)
    assert line == "1 of 4 rows are used (3 rows left out, of other models: Qwen/Qwen3-32B, meta-llama/Llama-3.1-8B)"
    assert loads.read == 4
    assert not [note for note in notes_of(loads) if "left out" in note]
    both = loads_of([rows[0], rows[0], rows[1]], SHEET, Options(target_model="llama-3.1-70b"))
    assert not list(row_warnings(both, SHEET))
    assert notes_of(both)[0] == "1 row left out, of other models: Qwen/Qwen3-32B."


def test_rows_that_were_measured_and_do_not_fit_say_that_they_are_priced_otherwise() -> None:
    """A 70B model in 16 bits has no room on one device, whatever share of it is used."""
    row = ServingRow(line=1, concurrency=4.0, tpot_s=0.02, **LIKE | {"dtype": ""})
    loads = loads_of([row, replace(row, tp=4)], SHEET, Options(dtype="bfloat16"))
    (said,) = row_warnings(loads, SHEET)
    assert said.startswith(
        "1 row does not fit into the memory of their devices as priced, though measured there: --dtype"
    )
    others = loads.fitting(np.isfinite(loads.priced(SHEET).running))
    assert (len(others), others.read) == (1, 2)
    assert list(row_warnings(others, SHEET)) == [said]
    assert "1 row left out, as they do not fit into memory." in notes_of(others)


MODELS = ("llama-3.1-70b", "Qwen/Qwen3-32B", "Qwen/Qwen3-32B", "meta-llama/Llama-3.1-8B")


def rows_of(folder: Path, text: str) -> tuple[ServingRow, ...]:
    (folder / "rows.csv").write_text(text)
    return read_serving(folder / "rows.csv").rows


def test_a_throughput_tells_the_time_a_token_where_none_is_told(tmp_path: Path) -> None:
    """A client's request takes ttft + (osl - 1) tpot, in which osl tokens of it leave; so they do of all clients."""
    tpot_s, ttft_s = 0.02, 0.5
    rate = 32 * 256 / (ttft_s + 255 * tpot_s)
    head = "concurrency,isl,osl,ttft_ms,output throughput,tpot_ms,num_prompts\n"
    (derived,) = rows_of(tmp_path, f"{head}32,1024,256,500,{rate!r},,\n")
    assert derived.is_derived
    assert derived.tpot_s == pytest.approx(tpot_s)
    assert derived.columns == ("output throughput", "ttft_ms")
    (stated,) = rows_of(tmp_path, f"{head}32,1024,256,500,{rate!r},20,\n")
    assert (stated.is_derived, stated.apart) == (False, pytest.approx(1.0))
    loads = loads_of([replace(derived, **LIKE)], SHEET, Options())
    assert "time a token of 1 rows follows from output_tok_s, concurrency, osl and ttft_ms" in loads.assumed
    assert loads.numbers().tolist() == [0]
    for cells, said in (
        (f"32,1024,256,,{rate},,", "no ttft_ms beside output_tok_s"),
        (f"32,1024,256,500,{rate},,40", "40 requests of 32 clients are too few"),
        ("32,1024,256,9000,1600,,", "output_tok_s of 1600 leaves no time for it"),
    ):
        good = f"{head}1,1,2,,,5,\n{cells}\n"
        (tmp_path / "rows.csv").write_text(good)
        assert said in read_serving(tmp_path / "rows.csv").about_skipped()


def test_a_throughput_that_does_not_go_with_the_times_is_named() -> None:
    row = ServingRow(line=7, path="a.csv", concurrency=32.0, tpot_s=0.02, ttft_s=0.5, **LIKE)
    rate = 32 * 512 / (0.5 + 511 * 0.02)
    for stated, requests, said in (
        (rate, None, ()),
        (10 * rate, None, (f"a.csv: line 7: output_tok_s is {10 * rate:,.5g}, but 32 clients with these times",)),
        (rate / 10, None, (f"make {rate:,.5g}; the times are used",)),
        (rate / 10, 32.0, ()),
    ):
        loads = loads_of([replace(row, output_tok_s=stated, requests=requests)], SHEET, Options())
        found = list(doubts_of(loads.rows))
        assert len(found) == len(said)
        for line, part in zip(found, said, strict=True):
            assert part in line
        assert list(row_warnings(loads, SHEET)) == found
    # Without a first token's time a request may take longer than its tokens say, but not less.
    alone = replace(row, ttft_s=None)
    assert [replace(alone, output_tok_s=r).apart for r in (rate / 10, 10 * rate)] == [1.0, pytest.approx(0.1, rel=0.1)]


def test_a_share_of_the_memory_is_of_rows_of_the_command_and_of_the_profile(run, tmp_path: Path) -> None:
    """Rows say it, or `--gpu-memory-utilization` of those that do not; the profile of a fit keeps it."""
    (stated,) = rows_of(tmp_path, "concurrency,isl,osl,tpot_ms,mem_fraction_static\n4,1,2,3,85%\n")
    assert stated.memory_share == 0.85
    full = ServingRow(line=1, concurrency=140.0, tpot_s=0.05, ttft_s=9.0, requests=1400.0, **LIKE | {"osl": 8192.0})

    def priced(
        share: float | None, given: float | None = None, profile: float | None = None
    ) -> tuple[float, list[str]]:
        row, sheet = replace(full, memory_share=share), replace(SHEET, memory_share=profile)
        loads = loads_of([row], sheet, Options(memory_share=given))
        return float(loads.priced(sheet).running[0]), list(row_warnings(loads, sheet))

    usual, (said,) = priced(None)
    assert "1 of 1 rows run about as many requests at once as memory holds" in said
    assert priced(0.95) == priced(None, 0.95) == priced(0.95, 0.8) == priced(None, None, 0.95)
    assert priced(0.95)[0] > usual > priced(None, 0.85)[0]
    assert priced(0.95)[1] == []

    lines = DENSE.read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join([lines[0], *lines[1::15]]) + "\n")
    fit = ("calibrate", "--from-serving", "few.csv", "--profile", "h200", "--mem-fraction-static", 0.93)
    assert run(*fit, "--out", "e.json").returncode == 0
    assert json.loads((tmp_path / "e.json").read_text())["memory_share"] == 0.93


def test_a_sheet_s_intervals_are_those_of_a_forecast_with_it() -> None:
    """`validate --serving` and `simulate` draw a profile that was fitted to no rows alike; coverage is in the JSON."""
    loads: Loads = loads_in(DENSE)
    validation = validate_serving(loads, SHEET)
    payload = serving_json(validation, {})
    inside = [row["tpot_ms_ci95"][0] <= row["tpot_ms"] <= row["tpot_ms_ci95"][1] for row in payload["rows"]]
    assert payload["tpot"]["coverage"] == np.mean(inside)
    assert 0.9 <= np.mean(inside) <= 0.99
    assert (payload["rows_read"], len(payload["warnings"])) == (60, 1)
    at = 5
    row, placed = loads.rows[at], loads.placed(loads.placings[at], SHEET)
    assert isinstance(placed, Placed)
    named = DeviceOptions(profile="h200", target_model="llama-3.1-70b", method="ngram", dtype="fp8", tp=row.tp)
    pair = load_pricing(named).models
    assert pair is not None
    pair = replace(pair, batch=row.concurrency, context=row.isl)
    one, load, rng = np.arange(1, 2), Load(requests=10 * row.concurrency), np.random.default_rng(1)
    drawn = drawn_loads(pair, load, row.isl, row.osl, one, np.ones(1), np.ones((2000, 1)), rng)
    for kind, times in (("tpot", drawn.plain.tpot_s), ("ttft", drawn.plain.ttft_s)):
        assert np.log(validation.factors[kind][at]) == pytest.approx(1.96 * np.std(np.log(times)), rel=0.15)
