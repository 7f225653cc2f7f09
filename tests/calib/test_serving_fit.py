"""What a fit to rows of a server says of itself: how sure, of which loads, beyond which rows, what is not physical."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from calibration.fit.from_serving import calibrate_serving
from calibration.fit.loads import Options, loads_of
from calibration.fit.physical import unphysical
from calibration.fit.serving_report import said, serving_json, serving_text, with_notes
from calibration.sources.serving import ServingRow
from calibration.validate.serving import log_errors, validate_serving
from simulator.costs.cautions import cautions
from simulator.costs.fitted import ServingFit
from simulator.costs.model_costs import ModelPair
from simulator.costs.moved import moved
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.priced import load_pricing
from simulator.costs.profile import CALIBRATED, Profile
from simulator.costs.profile_file import save_profile
from simulator.costs.ranges import TimedRange
from simulator.costs.shapes import read_shape
from simulator.ground.artefacts import UserError
from simulator.rounds.loads import drawn_loads

from .serving_rows import DENSE, SHEET, fitted, halves, loads_in


def test_rows_of_one_load_count_once() -> None:
    """Rows that are given three times tell no more, and repeats of a load no more than their mean."""
    few, once = halves(loads_in(DENSE), 5)[0], fitted(5)
    thrice = calibrate_serving(few.select([i for i in range(5) for _ in range(3)]), SHEET, "engine")
    assert thrice.logs == pytest.approx(once.logs, abs=1e-6)
    assert thrice.covariance == pytest.approx(once.covariance, abs=1e-6)
    one, other = once.profile.fitted, thrice.profile.fitted
    assert one is not None
    assert other is not None
    assert (other.rows, other.loads, one.loads, other.degrees) == (15, 5, 5, one.degrees)
    assert other.tpot_error == pytest.approx(one.tpot_error, rel=1e-6)
    assert "The rows are of 5 loads" in serving_text(thrice)
    with pytest.raises(UserError, match="2 loads of these rows fit"):
        calibrate_serving(few.select([0, 0, 0, 1]), SHEET, "engine")


def test_what_a_row_is_off_by_without_it_is_what_a_fit_of_the_others_says() -> None:
    five, found = halves(loads_in(DENSE), 5)[0], fitted(5)
    five = replace(five, kv_dtype="fp8", served=Load(most_running=4096))  # what changes nothing here is kept too
    for left in (0, 3):
        others = calibrate_serving(five.select([i for i in range(5) if i != left]), SHEET, "engine")
        alone = validate_serving(five.select([left]), others.profile)
        assert found.held_out_tpot[left] == pytest.approx(float(alone.tpot[0]), abs=0.02)
        kept = others.profile.fitted
        assert kept is not None
        assert (kept.kv_dtype, kept.tp, kept.served.most_running) == ("fp8", None, 4096)
    assert np.abs(found.held_out_tpot).mean() > np.abs(found.tpot).mean()


def test_a_forecast_s_interval_is_that_of_rows() -> None:
    """Constants are drawn together, and rows are off besides: `simulate` and `validate --serving` say the same."""
    profile = fitted(10).profile
    row = replace(loads_in(DENSE).rows[0], concurrency=32.0, isl=2048.0, osl=2048.0, tp=4)
    (error,) = log_errors(loads_of([row], profile, Options()), profile)["tpot"]
    drafter = {"target_model": "llama-3.1-70b", "method": "eagle3", "dtype": "fp8", "tp": 4}

    def spread(of: Profile) -> float:
        pair = load_pricing(DeviceOptions(profile="h200", **drafter)).models
        assert pair is not None
        pair = replace(pair, profile=of, batch=32, context=3072)
        lengths, tokens = np.arange(1, 2), np.array([1.5])
        drawn = drawn_loads(
            pair, Load(requests=320), 2048, 2048, lengths, tokens, np.full((2000, 1), 1.5), np.random.default_rng(1)
        )
        low, high = np.quantile(drawn.plain.tpot_s, (0.025, 0.975))
        return float(np.log(high / low) / 2)

    most = float(error) * t.ppf(0.975, profile.fitted.degrees)
    assert spread(profile) == pytest.approx(most, rel=0.25)
    assert spread(profile) < 0.8 * spread(SHEET)


def fitted_to(**changes: object) -> Profile:
    """A profile that says it was fitted to rows of a model."""
    fit = ServingFit(
        **{"sheet": "h200", "model": "llama-3.1-70b", "engine": "vllm", "rows": 10, "loads": 10, "tpot_error": 0.04},
        **{"constants": ("flop_scale",), "covariance": np.eye(1) * 1e-4, "draws": np.array([[0.01], [-0.01]])},
        **{"formats": ("fp8",), "ttft_error": 0.1},
        ranges={n: TimedRange(least=a, most=b) for n, a, b in RANGED},
    )
    return replace(SHEET, status=CALIBRATED, fitted=replace(fit, **changes))


RANGED = (("concurrency", 4, 64), ("isl", 1024, 8192), ("osl", 256, 1024), ("devices", 1, 8))


@pytest.mark.parametrize(
    ("changed", "load", "expected"),
    [
        ({}, {}, ""),
        ({"batch": 256}, {}, "256 sequences at once: engine was fitted to rows of 4 to 64; each doubling"),
        ({}, {"isl": 32768}, "prompts of 32,768 tokens: engine was fitted to rows of 1,024 to 8,192"),
        ({}, {"osl": 64}, "answers of 64 tokens: engine was fitted to rows of 256 to 1,024"),
        ({"devices": 16}, {}, "16 devices: engine was fitted to rows of 1 to 8"),
        ({"dtype": "bfloat16"}, {}, "weights in bfloat16: engine was fitted to rows of fp8; that adds 10%"),
        ({"server": "sglang"}, {}, "sglang: engine was fitted to rows of vllm; that adds 12%"),
        ({"target": read_shape("llama-3.1-8b")}, {}, "llama-3.1-8b: engine was fitted to rows of llama-3.1-70b"),
    ],
)
def test_beyond_the_rows_of_a_fit_one_line_says_so_and_the_interval_widens(
    changed: dict, load: dict, expected: str
) -> None:
    options = DeviceOptions(profile="h200", target_model="llama-3.1-70b", method="ngram", dtype="fp8", tp=4)
    pair = load_pricing(options).models
    assert pair is not None
    pair = replace(pair, profile=replace(fitted_to(), name="engine"), batch=32, context=2048)
    moved_pair, at = replace(pair, **changed), {"isl": 2048, "osl": 512} | load
    told = [line for line in cautions(moved_pair, None, **at) if "fitted to rows" in line]
    assert [line.startswith(expected) for line in told] == ([True] if expected else [])
    lengths, tokens = np.arange(1, 2), np.array([1.5])

    def spread(of: ModelPair, isl: int, osl: int) -> float:
        drawn = drawn_loads(of, Load(), isl, osl, lengths, tokens, np.full((500, 1), 1.5), np.random.default_rng(1))
        return float(np.std(np.log(drawn.plain.tpot_s)))

    fits_there = replace(moved_pair, profile=replace(fitted_to(), fitted=replace(fitted_to().fitted, **ANYWHERE)))
    if "target" not in changed and "server" not in changed:
        ratio = spread(moved_pair, at["isl"], at["osl"]) / spread(fits_there, at["isl"], at["osl"])
        assert (ratio > 1.2) == bool(expected)


ANYWHERE = {"formats": (), "ranges": {}}


def test_constants_are_said_to_be_as_before_only_where_rows_left_them() -> None:
    """And where no device has such, that is said: rates above a peak, floors that have all but gone."""
    found = fitted(5)
    errors, usual = (np.array([getattr(c, name) for c in found.constants]) for name in ("error", "usual"))
    still = replace(found, logs=usual + 0.2 * errors, covariance=np.diag(errors**2))
    assert set(said(still).values()) == {"as before: the rows do not tell"}
    moving = replace(still, logs=usual + 0.3 * errors)
    assert set(said(moving).values()) == {"moved, though known no better"}
    assert set(said(replace(moving, covariance=np.diag(errors**2 / 4))).values()) == {""}
    assert unphysical(found) == {}
    at = [c.name for c in found.constants].index("mem_scale")
    logs = found.logs.copy()
    logs[at], logs[at + 1] = np.log(0.7), np.log(0.05)
    odd = replace(found, logs=logs)
    assert unphysical(odd) == {
        "mem_scale": "not physical: 114% of peak, expected 30 to 100",
        "launch_s": "not physical: 0.1 us, expected 0.2 to 10",
    }
    assert "warning: not physical, so this is not what the server has: seconds a byte; launch\n" in serving_text(odd)
    assert not serving_json(odd, {})["physical"]
    assert with_notes(odd).notes[0] == "Seconds a byte is not physical: 114% of peak, expected 30 to 100."
    assert with_notes(found) == found.profile


def test_what_a_round_takes_for_each_sequence_is_fitted_where_rows_have_drafts() -> None:
    """Rows without drafts leave it as it was; those whose drafts nobody can price are left out and counted."""
    truth = moved(replace(SHEET, engine=replace(SHEET.engine, round_sequence_s=1.4e-4)), TRUTH)
    like = {"isl": 1024.0, "osl": 512.0, "tp": 4, "dtype": "fp8", "model": "llama-3.1-70b", "engine": "vllm"}
    of_k = {0: None, 2: 2.1, 5: 2.9}
    drafts = [
        ServingRow(line=1, concurrency=c, tpot_s=1.0, draft_length=k, method="EAGLE-3" if k else "", **like)
        for c in (4.0, 32.0, 128.0)
        for k in of_k
    ]
    rows = [replace(row, tokens_per_round=of_k[row.draft_length]) for row in drafts]
    loads = loads_of(rows, SHEET, Options())
    assert len(loads) == 9
    times = loads.priced(truth).tpot_s
    found = calibrate_serving(
        replace(loads, rows=tuple(replace(r, tpot_s=float(s)) for r, s in zip(rows, times, strict=True))), SHEET, "e"
    )
    assert float(found.profile.engine.round_sequence_s) == pytest.approx(2.8e-4, rel=0.1)
    assert "round_sequence_s" in found.told
    assert found.profile.round_overhead_error < SHEET.round_overhead_error
    plain = fitted(5)
    assert not {"round_sequence_s", "round_overhead_s"} & {c.name for c in plain.constants}
    assert (plain.profile.engine.round_sequence_s, plain.profile.round_overhead_s) == (0.0, SHEET.round_overhead_s)
    odd = [{"tokens_per_round": None}, {"tokens_per_round": 9.0}, {"method": "guesswork"}, {"method": "draft_model"}]
    left = loads_of([*rows, *(replace(rows[1], **one) for one in odd)], SHEET, Options()).left_out
    assert sum(left.values()) == len(left) == 4


TRUTH = {"round_sequence_s": 2.0, "round_overhead_s": 1.3, "mem_scale": 1.1}


def test_rows_in_other_units_are_refused_and_nothing_is_written(run, tmp_path) -> None:
    rows = ((1, 4, 21.47), (1, 64, 37.44), (2, 8, 14.36), (4, 16, 10.94))
    text = "".join(f"{tp},{clients},1024,1024,{ms / 1e3}\n" for tp, clients, ms in rows)
    (tmp_path / "seconds.csv").write_text(f"tp,concurrency,isl,osl,tpot_ms\n{text}")
    model = ("--target-model", "llama-3.1-70b", "--dtype", "fp8", "--profile", "h200")
    done = run("calibrate", "--from-serving", "seconds.csv", *model, "--out", "out.json")
    assert done.returncode == 3
    assert "times the memory bandwidth of h200, expected about 1: times in other units" in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_forecast_takes_loads_as_the_rows_of_its_profile_were_served(run, tmp_path: Path) -> None:
    """What was given for rows stands where nobody states others, and is said; an option wins, and so does its no."""
    given = {"dtype": "fp8", "kv_dtype": "fp8", "served": Load(chunk=2000, mixed=False)}
    save_profile(tmp_path / "e.json", fitted_to(**given), {})
    placed, served = ("--kv-dtype", "fp8", "--dtype", "fp8"), ("--prompts-first", "--chunk", "2k")
    model = ("--profile", "e.json", "--target-model", "llama-3.1-70b")

    def told(*more: object) -> dict[str, Any]:
        load = ("--concurrency", 8, "--isl", "4k", "--osl", 256)
        found: dict[str, Any] = json.loads(run("simulate", *model, *load, *more, "--json").stdout)
        return found

    first = "passes of 2,000 tokens at most (--chunk), prompts in passes of their own (--prompts-first)"
    assert told()["notes"] == [f"as for the rows of e.json: --dtype fp8, --kv-dtype fp8, {first}"]
    assert told()["plain"] == told(*placed, *served)["plain"]
    own = told("--no-prompts-first", "--chunk", "8k", *placed)
    assert (own["notes"], own["parameters"]["load"]["prompts_first"]) == ([], False)
    assert own["plain"] != told()["plain"]
    batch = ("--method", "eagle3", "--batch", 4, "--replications", 1, "--dtype", "fp8")
    assert "as for the rows of e.json: --kv-dtype fp8" in run("simulate", *model, *batch).stdout
    # Of another model it is said of loads alone.
    other = run("simulate", *model[:3], "llama-3.1-8b", "--concurrency", 1, "--chunk", 4096, "--json")
    assert json.loads(other.stdout)["notes"][1] == "as for the rows of e.json: " + first.partition(", ")[2]
    held = run("validate", "--serving", DENSE, "--profile", "e.json")
    assert held.stderr.startswith("as for the rows of h200: passes of 2,000 tokens at most (--chunk)")
    steps = ("simulate-serving", *model, *placed, "--concurrency", 2, "--requests", 4, "--isl", 64, "--osl", 4)
    assert first.partition(", ")[0] in run(*steps).stdout
    assert "passes of" not in run(*steps, "--chunk", 512).stdout
