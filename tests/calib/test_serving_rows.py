"""Rows of load tests: read from what tools write, fitted with a data sheet as prior, held against rows left out."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.fit.from_serving import calibrate_serving, constants_of, factors_of, rows_off
from calibration.fit.loads import Loads, Options, loads_of
from calibration.fit.physical import reached
from calibration.fit.serving_report import errors_of, failed, serving_json, serving_text
from calibration.sources.serving import ServingRow
from calibration.sources.serving_files import read_serving
from calibration.validate.serving import validate_serving
from simulator.costs.engine import ONE_SHOT_BYTES
from simulator.costs.moved import moved
from simulator.costs.profile import CALIBRATED, Profile
from simulator.costs.profile_file import load_profile, save_profile
from simulator.ground.artefacts import UserError

from .serving_rows import DENSE, EXPERTS, SHEET, fitted, halves, loads_in


def test_ten_rows_of_a_server_forecast_the_others() -> None:
    """A sheet alone is off by more, and says by how much."""
    others, found = halves(loads_in(DENSE))[1], fitted(10)
    assert (len(found.loads), len(others), failed(found)) == (10, 50, "")
    validation = validate_serving(others, found.profile)
    tpot, ttft = errors_of(validation.tpot), errors_of(validation.ttft)
    assert tpot.median_error is not None
    assert tpot.median_error <= 0.04
    assert tpot.mean_error is not None
    assert tpot.mean_error <= 0.06
    assert ttft.median_error is not None
    assert ttft.median_error <= 0.15
    covered = validation.coverage["tpot"]
    assert covered is not None
    assert 0.9 <= covered <= 0.99
    alone = errors_of(validate_serving(others, SHEET).tpot)
    assert alone.median_error is not None
    assert tpot.median_error < alone.median_error <= 0.1
    share = validate_serving(others, SHEET).coverage["tpot"]
    assert share is not None
    assert 0.9 <= share <= 0.99
    assert all(0.3 < share <= 1 for share in reached(found).values())


def test_five_rows_of_a_model_with_experts_are_enough() -> None:
    few, others = halves(loads_in(EXPERTS), 5)
    found = calibrate_serving(few, SHEET, "engine")
    median = errors_of(validate_serving(others, found.profile).tpot).median_error
    assert median is not None
    assert median <= 0.07


def made(loads: Loads, profile: Profile, noise: float = 0.0) -> Loads:
    """The same loads with the times of a profile, and noise."""
    found, rng = loads.priced(profile), np.random.default_rng(5)
    off = np.exp(noise * rng.standard_normal((2, len(loads))))
    rows = [
        replace(row, tpot_s=float(found.tpot_s[i] * off[0, i]), ttft_s=float(found.ttft_s[i] * off[1, i]))
        for i, row in enumerate(loads.rows)
    ]
    return replace(loads, rows=tuple(rows))


FACTORS = {"flop_scale": 1.5, "mem_scale": 0.9, "load_layer_sequence_s": 2.0, "link_bytes_per_s": 0.6, "front_s": 2.0}


def test_constants_that_rows_tell_are_found_and_others_stay() -> None:
    truth = moved(SHEET, FACTORS)
    found = calibrate_serving(made(loads_in(DENSE), truth, 0.005), SHEET, "engine")
    factors = factors_of(found.constants, found.logs)
    for name in ("flop_scale", "mem_scale", "load_layer_sequence_s", "link_bytes_per_s"):
        assert factors[name] == pytest.approx(FACTORS[name], rel=0.12), name
        assert name in found.told
    median = errors_of(found.held_out_tpot).median_error
    assert median is not None
    assert median < 0.01
    # Of one device no row tells of links, and the profile's stay as they were.
    alone = loads_in(DENSE)
    alone = alone.select([i for i, p in enumerate(alone.placings) if p.devices == 1])
    assert not {c.name for c in constants_of(SHEET, alone)} & {"link_bytes_per_s", "link_latency_s"}
    assert calibrate_serving(alone, SHEET, "engine").profile.link == SHEET.link


def test_rows_that_wait_for_what_no_form_knows_hardly_count() -> None:
    loads = made(loads_in(DENSE), moved(SHEET, FACTORS), 0.005)
    rows = [replace(r, tpot_s=3 * r.tpot_s) if i in (7, 21, 40) else r for i, r in enumerate(loads.rows)]
    found = calibrate_serving(replace(loads, rows=tuple(rows)), SHEET, "engine")
    median = errors_of(rows_off(loads.priced(found.profile).tpot_s, loads.column("tpot_s"))).median_error
    assert median is not None
    assert median < 0.02


def test_first_tokens_of_another_server_hardly_count() -> None:
    """A quarter of rows whose first tokens come 2.5 times as late: the others are still forecast as they were."""
    loads = made(loads_in(DENSE), moved(SHEET, FACTORS), 0.02)
    rows = [replace(r, ttft_s=2.5 * (r.ttft_s or np.nan)) if i % 4 == 1 else r for i, r in enumerate(loads.rows)]
    found = calibrate_serving(replace(loads, rows=tuple(rows)).select(range(0, 60, 5)), SHEET, "engine")
    off = np.abs(np.log(loads.priced(found.profile).ttft_s / loads.column("ttft_s")))
    assert np.median(off) < 0.05


def test_a_calibrated_profile_is_kept_in_its_file(tmp_path: Path) -> None:
    found = calibrate_serving(loads_in(EXPERTS), SHEET, "engine", "abc")
    assert {"tpot", "ttft", "held_out", "constants", "reached", "physical"} <= serving_json(found, {}).keys()
    save_profile(tmp_path / "engine.json", found.profile, {})
    back = load_profile(tmp_path / "engine.json")
    fit = back.fitted
    assert fit is not None
    assert (back.status, fit.model, fit.engine, fit.sheet) == (CALIBRATED, "deepseek-v3", "sglang", "h200")
    assert (fit.rows, fit.source_sha256) == (15, "abc")
    assert np.array_equal(fit.covariance, found.covariance)
    assert back.engine == found.profile.engine
    assert back.engine is not None
    assert back.engine.one_shot_bytes == ONE_SHOT_BYTES  # of vLLM and SGLang
    assert back.passes["fp8"].error("mem_scale[0]") < SHEET.passes["fp8"].error("mem_scale[0]")
    assert np.array_equal(fit.draws, np.round(found.profile.fitted.draws, 4))
    assert (fit.loads, fit.formats, fit.ranges["isl"].most) == (15, ("fp8 in blocks of 128 x 128",), 8192)
    assert "15 rows fitted, h200 as prior" in serving_text(found)


VLLM = {
    **{"backend": "vllm", "model_id": "meta-llama/Llama-3.1-70B-Instruct", "num_prompts": 320, "max_concurrency": 32},
    **{"completed": 320, "total_input_tokens": 327680, "total_output_tokens": 81920, "output_throughput": 1000.0},
    **{"mean_ttft_ms": 120.5, "mean_tpot_ms": 20.25, "tensor_parallel_size": 4, "itls": [[0.1]]},
}
SGLANG = {"backend": "sglang", "max_concurrency": 8, "completed": 80, "random_input_len": 1000, "mean_tpot_ms": 9.0}
SGLANG |= {"total_input_tokens": 80_000, "total_output_tokens": 16_000, "mean_ttft_ms": 80.0, "accept_length": None}
GUIDELLM = {
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 16}},
            "metrics": {
                "prompt_token_count": {"successful": {"mean": 512.0}},
                "output_token_count": {"successful": {"mean": 128.0}},
                "inter_token_latency_ms": {"successful": {"mean": 12.5}},
                "time_to_first_token_ms": {"successful": {"mean": 60.0}},
            },
        }
    ]
}
AIPERF = {
    **{name: {"unit": "ms", "avg": value} for name, value in (("time_to_first_token", 70.0), ("request_count", 100))},
    **{"inter_token_latency": {"avg": 11.0}, "input_sequence_length": {"avg": 2000.0}},
    **{"output_sequence_length": {"avg": 300.0}, "input_config": {"loadgen": {"concurrency": 10}}},
}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (VLLM, (32, 1024, 256, 0.02025, 0.1205, 4, "vllm", 320)),
        (SGLANG, (8, 1000, 200, 0.009, 0.08, None, "sglang", 80)),
        (GUIDELLM, (16, 512, 128, 0.0125, 0.06, None, "", None)),
        (AIPERF, (10, 2000, 300, 0.011, 0.07, None, "", 100)),
    ],
)
def test_results_of_benches_are_rows(tmp_path: Path, written: dict, expected: tuple) -> None:
    (tmp_path / "result.json").write_text(json.dumps(written))
    (row,) = read_serving(tmp_path / "result.json").rows
    named = ("concurrency", "isl", "osl", "tpot_s", "ttft_s", "tp", "engine", "requests")
    assert tuple(getattr(row, name) for name in named) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bench", "said", "is_drafted"),
    [
        (SGLANG, {"accept_length": 3.1}, True),
        (VLLM, {"spec_decode_acceptance_length": 2.4}, True),
        (VLLM, {"method": "eagle3"}, True),
        (VLLM, {"method": "none", "tokens_per_round": 1.0}, False),
        (SGLANG, {}, False),
    ],
)
def test_rows_with_drafts_are_known_by_whatever_tells_of_them(
    tmp_path: Path, bench: dict, said: dict, is_drafted: bool
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(bench | said))
    (row,) = read_serving(tmp_path / "result.json").rows
    assert bool(row.draft_length) == is_drafted


def test_what_rows_do_not_state_is_said_to_be_assumed() -> None:
    like = {"line": 1, "concurrency": 8.0, "isl": 1000.0, "osl": 100.0, "tpot_s": 0.01, "requests": 80.0}
    silent = ServingRow(**like, model="llama-3.1-8b")
    stated = ServingRow(**like, model="llama-3.1-8b", tp=1, dtype="fp8", kv_dtype="bfloat16")
    said = loads_of([silent, stated], SHEET, Options()).assumed
    assert [note.partition(" are ")[0] for note in said] == [
        "1 rows that state no tp",
        "1 rows that state no number format",
    ]
    assert loads_of([silent, stated], SHEET, Options(tp=1, dtype="bfloat16")).assumed == ()


def test_columns_and_formats_are_read_as_vendors_spell_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "Batch Size,TP_size,attention_dp_size,isl,osl,silicon_tpot_ms,precision,backend\n"
        "16,1,8,1024,512,12.5,fp8_block,TensorRT-LLM\n"
        "4,8,,1024,512,9.5,FP4,trtllm\n"
        "4,8,1,1024,512,9.5,auto,vllm\n"
        "4,8,1,1024,512,fast,bf16,vllm\n"
        "4,8,1,1024,512,9.5,fp3,vllm\n"
        ",8,1,1024,512,9.5,bf16,vllm\n"
    )
    found = read_serving(tmp_path / "rows.csv")
    assert [(r.concurrency, r.tp, r.dp, r.dtype, r.engine) for r in found.rows] == [
        (128, 1, 8, "fp8", "trtllm"),
        (4, 8, 1, "nvfp4", "trtllm"),
        (4, 8, 1, "", "vllm"),
    ]
    assert [skipped.line for skipped in found.skipped] == [5, 6, 7]
    assert "no concurrency" in found.about_skipped()
    assert "line 5 (silicon_tpot_ms is 'fast', expected a number), 6 (precision is 'fp3'" in found.about_skipped()
    (tmp_path / "none.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"no column tells concurrency, expected columns concurrency, .*; it has a, b"):
        read_serving(tmp_path / "none.csv")


def test_what_is_not_priced_is_counted_by_its_reason() -> None:
    like = {"line": 1, "concurrency": 8.0, "isl": 1000.0, "osl": 100.0, "tpot_s": 0.01}
    rows = [
        ServingRow(**like, model="llama-3.1-70b", device="h200", tp=4, dtype="fp8", engine="vllm"),
        ServingRow(**like, model="llama-3.1-70b", device="b200_sxm", tp=4),
        ServingRow(**like, model="qwen3-32b"),
        ServingRow(**like, model="llama-3.1-70b", tp=16),
        ServingRow(**like, model="llama-3.1-70b", tp=3),
        ServingRow(**like, model="llama-3.1-70b", tp=2, dp=2),
        ServingRow(**like, model="llama-3.1-70b", pp=2),
        ServingRow(**like, model="llama-3.1-70b", draft_length=4),
    ]
    found = loads_of(rows, SHEET, Options(target_model="llama-3.1-70b"))
    assert len(found) == 1
    assert sum(found.left_out.values()) == 7
    assert len(found.left_out) == 7
    with pytest.raises(UserError, match=r"--target-model: the rows are of llama-3\.1-70b, qwen3-32b"):
        loads_of(rows, SHEET, Options())
    # Attention of eight groups: experts over all devices, a cache that its own sequences fill.
    shared = ServingRow(**like, model="deepseek-r1", engine="trtllm", dtype="fp8", tp=1, dp=8, ep=8)
    (placing,) = loads_of([shared], SHEET, Options()).placings
    assert (placing.devices, placing.replicas, placing.kv_dtype) == (8, 8, "fp8")


def test_the_cache_is_in_what_an_engine_s_checkpoints_state() -> None:
    like = {"line": 1, "concurrency": 8.0, "isl": 1000.0, "osl": 100.0, "tpot_s": 0.01, "tp": 1, "requests": 80.0}
    for engine, model, dtype, expected, said in (
        ("trtllm", "llama-3.1-8b", "fp8", "fp8", "in fp8, as NVIDIA's"),
        ("vllm", "nvidia/Llama-3.1-8B-Instruct-FP8", "fp8", "fp8", "in fp8, as NVIDIA's"),
        ("vllm", "llama-3.1-8b", "fp8", None, "else in 16 bits"),
        ("sglang", "llama-3.1-8b", "fp8", None, "else in 16 bits"),
        ("vllm", "llama-3.1-8b", "nvfp4", "fp8", "in fp8, as NVIDIA's"),
        ("sglang", "llama-3.1-8b", "nvfp4", None, "else in 16 bits"),
        ("trtllm", "llama-3.1-8b", "bfloat16", None, ""),
    ):
        found = loads_of([ServingRow(**like, engine=engine, model=model, dtype=dtype)], SHEET, Options())
        assert found.placings[0].kv_dtype == expected
        assert [said in line for line in found.assumed] == [True] * bool(said)
    stated = ServingRow(**like, engine="vllm", model="llama-3.1-8b", dtype="fp8", kv_dtype="fp8")
    assert loads_of([stated], SHEET, Options()).assumed == ()


def test_weights_are_stored_as_the_row_says_else_its_model_s_name() -> None:
    like = {"line": 1, "concurrency": 8.0, "isl": 1000.0, "osl": 100.0, "tpot_s": 0.01, "tp": 4}
    for model, dtype, given, expected in (
        ("Qwen/Qwen3-235B-A22B-FP8", "", "", "fp8"),
        ("Qwen/Qwen3-235B-A22B", "", "", "bfloat16"),
        ("Qwen/Qwen3-235B-A22B", "", "fp8", "fp8"),
        ("Qwen/Qwen3-235B-A22B-FP8", "bfloat16", "fp8", "bfloat16"),
        ("openai/gpt-oss-120b", "nvfp4", "", "mxfp4 experts"),
    ):
        row = ServingRow(**like, model=model, dtype=dtype)
        (placing,) = loads_of([row], SHEET, Options(dtype=given)).placings
        assert (placing.storage if isinstance(placing.storage, str) else placing.storage.name) == expected, model


def test_commands_fit_rows_and_hold_forecasts_against_them(run, tmp_path: Path) -> None:
    lines = DENSE.read_text().splitlines()
    (tmp_path / "ten.csv").write_text("\n".join([lines[0], *lines[1::6]]) + "\n")
    done = run("calibrate", "--from-serving", "ten.csv", "--profile", "h200", "--out", "engine.json", "--plot", "e.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 rows fitted, h200 as prior" in done.stdout
    words = ("validate", "--serving", str(DENSE), "--profile", "engine.json", "--json")
    held = run(*words, "--max-error", "0.05")
    payload = json.loads(held.stdout)
    assert held.returncode == 0
    # What was said of rows in the fit holds for others.
    bare = [",".join(line.split(",")[4:]) for line in lines]
    (tmp_path / "bare.csv").write_text("\n".join([bare[0], *bare[1::6]]) + "\n")
    more = ("--target-model", "llama-3.1-70b", "--engine", "vllm", "--dtype", "fp8", "--out", "other.json")
    assert run("calibrate", "--from-serving", "bare.csv", "--profile", "h200", *more).returncode == 0
    (tmp_path / "all.csv").write_text("\n".join(bare) + "\n")
    other = json.loads(run("validate", "--serving", "all.csv", "--profile", "other.json", "--json").stdout)
    assert other["tpot"]["median_error"] == pytest.approx(payload["tpot"]["median_error"], rel=1e-6)
    assert payload["tpot"]["median_error"] <= 0.04
    assert payload["ttft"]["rows"] == len(payload["rows"]) == 60
    inside = [row["tpot_ms_ci95"][0] <= row["tpot_ms"] <= row["tpot_ms_ci95"][1] for row in payload["rows"]]
    assert np.mean(inside) == payload["tpot"]["coverage"]
    assert {group["by"] for group in payload["groups"]} == {"concurrency", "isl", "osl", "devices"}
    assert run(*words, "--max-error", "0.001").returncode == 1
    for extra, answer in (
        (("calibrate", "--from-serving", "ten.csv"), "no device, expected --profile NAME"),
        (("calibrate", "--tp", "4", str(DENSE)), "--tp: 4 without --from-serving"),
        (("validate", "--serving", "ten.csv"), "expected --profile FILE beside it"),
        (
            ("validate", "--serving", "ten.csv", "--profile", "h200", "--target-model", "qwen3-32b"),
            "no row of qwen3-32b",
        ),
    ):
        refused = run(*extra)
        assert refused.returncode == 2
        assert answer in refused.stderr, refused.stderr


def test_published_rows_are_what_they_say() -> None:
    for path in (DENSE, EXPERTS):
        with path.open() as file:
            assert len(list(csv.DictReader(file))) == len(read_serving(path).rows) >= 15
