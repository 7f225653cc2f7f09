"""`simulate` and `sweep` of models on a device as a user meets them: good input and bad."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.costs.profile import KERNELS_MEASURED
from simulator.costs.profile_file import PRESETS, load_profile
from simulator.costs.shapes import CATALOGUE
from tests.conftest import instead

from .builders import burnt, result, written

PAIR = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
ON_H100 = ("--profile", "h100-sxm", *PAIR)
BURNT = burnt()
WORK = ("--workflops", 50_000, "--workmem", 8)


def test_a_forecast_says_passes_throughput_energy_memory_and_schedule(output, hist_file: Path, tmp_path: Path) -> None:
    said = output("simulate", "--draftN", 4, "--hist", hist_file, *ON_H100)
    heads = ("plain step", "draft step", "verification", "tokens/s: ", "energy, were ", "memory: ", "best K by")
    for start in heads:
        assert sum(line.startswith(start) for line in said.splitlines()) == 1, start
    assert "on h100-sxm (datasheet, uncalibrated)" in said
    assert "target in bfloat16 on 1 device, draft in bfloat16 on it; KV cache in 16 bits a number" in said
    assert "of the draws of what is not known" in said
    assert "1 % more of these" not in said
    # Other vocabularies are pointed out.
    assert "vocabularies differ" not in said
    assert "vocabularies differ (128,256 and 50,257 tokens)" in output("simulate", *ON_H100[:-1], "gpt2")
    # The heading says what a probe did not measure.
    probed = replace(BURNT, status=KERNELS_MEASURED, round_overhead_s=6e-4, round_overhead_error=0.5)
    written(tmp_path / "burnt.json", probed)
    said = output("simulate", "--profile", "burnt.json", *WORK)
    assert "on burnt.json (kernels measured; launches a layer and round overhead assumed)\n" in said
    assert "No overhead a round is assumed" not in said


def test_json_hangs_together(run, hist_file: Path) -> None:
    found = result(run, "--draftN", 3, "--hist", hist_file, *ON_H100, "--batch", 8, "--context", 2000)
    models = found["models"]
    step, draft, verify = (models["passes"][name] for name in ("plain step", "draft step", "verification"))
    assert (step["tokens"], draft["tokens"], verify["tokens"]) == (1, 1, 4)
    assert step["total_ms"] == pytest.approx(found["baseline_ms_per_token"])
    assert 3 * draft["total_ms"] == pytest.approx(found["draft_ms_per_round"])
    assert verify["total_ms"] == pytest.approx(found["verify_ms_per_round"])
    tau = 1 + 2.1  # of the cut histogram: 0.8 + 0.7 + 0.6
    assert found["closed_form_tokens_per_round"] == pytest.approx(tau)
    round_ms = 3 * draft["total_ms"] + verify["total_ms"] + found["parameters"]["round_overhead_ms"]
    assert found["closed_form_speedup"] == pytest.approx(tau * step["total_ms"] / round_ms)
    # Eight sequences; the whole device under load.
    assert models["tokens_per_s"]["baseline"] == pytest.approx(8e3 / step["total_ms"])
    assert models["tokens_per_s"]["speculative"] == pytest.approx(8e3 / found["speculative_ms_per_token"])
    for arm, rate in models["tokens_per_s"].items():
        assert models["energy_j_per_token"][arm] == pytest.approx(700 / rate)
    assert (models["device"], models["profile_status"]) == ("NVIDIA H100 SXM 80 GB", "datasheet, uncalibrated")
    stated = {"batch": 8, "context": 2000, "dtype": "bfloat16", "tp": 1, "placement": "same"}
    assert stated.items() <= found["parameters"].items()
    assert "workflops" not in found["parameters"]


def test_json_states_uncertainty_sensitivity_schedule_and_what_engines_take(run, hist_file: Path) -> None:
    found = result(run, "--hist", hist_file, *ON_H100)
    sure = found["uncertainty"]
    low, high = found["verdict"]["speedup_ci95"]
    assert low < found["verdict"]["speedup"] < high
    assert sure["best_draft_length"] == found["verdict"]["best_draft_length"]
    assert sure["draft_lengths"] == [1, 2, 3, 4]
    of_long_runs = found["closed_form_speedup"] / found["verdict"]["speedup"]
    ends = (sure["speedup_low95"][3], sure["speedup_high95"][3])
    assert ends == pytest.approx((low * of_long_runs, high * of_long_runs))
    constants = ("flop_scale", "mem_scale", "launch_s", "fixed_s", "link_s", "round_overhead_s", "mean_accepted")
    assert set(found["sensitivity"]) == set(constants)
    assert found["synthetic_acceptance"]["per_position_rates"] == pytest.approx([0.8, 0.7, 0.6, 0.5])
    assert found["synthetic_acceptance"]["vllm"]["num_speculative_tokens"] == 4
    plan = found["models"]["schedule"]
    rows = plan["vllm"]["num_speculative_tokens_per_batch_size"]
    assert rows == [[r["first"], r["last"], r["draft_length"]] for r in plan["ranges"]]
    assert rows[0][0] == 1
    assert rows[-1][1] == found["models"]["memory"]["largest_batch"]
    longest = max(k for _, _, k in rows)
    assert plan["vllm"]["num_speculative_tokens"] == longest
    engines = plan["synthetic_acceptance"]
    assert engines["vllm"]["num_speculative_tokens"] == longest
    assert engines["vllm"]["synthetic_acceptance_rates"] == pytest.approx([0.8, 0.7, 0.6, 0.5][:longest])
    # The settings of a schedule are for its own longest draft, not the one that was asked for.
    plan = result(run, "--draftN", 1, "--hist", hist_file, *ON_H100)["models"]["schedule"]
    assert len(plan["synthetic_acceptance"]["per_position_rates"]) == plan["vllm"]["num_speculative_tokens"] > 1


def test_devices_that_wait_for_the_other_model_are_at_rest(run, output) -> None:
    found = result(run, *ON_H100, "--placement", "separate", "--tp", 2)
    # 700 W under load, 70 W at rest: two devices verify, the third drafts.
    draft_ms, all_ms = found["draft_ms_per_token"], found["speculative_ms_per_token"]
    joules = (2 * (700 * (all_ms - draft_ms) + 70 * draft_ms) + 700 * draft_ms + 70 * (all_ms - draft_ms)) / 1e3
    energy = found["models"]["energy_j_per_token"]
    assert energy["speculative"] == pytest.approx(joules)
    assert energy["baseline"] == pytest.approx(2 * 0.7 * found["baseline_ms_per_token"])
    said = output("simulate", *ON_H100, "--placement", "separate", "--tp", 2)
    assert "energy, were power the limit all the time but for waits: " in said
    assert "draft in bfloat16 on a device of its own" in said
    assert "GB of model and KV cache on the fullest device fit into" in said
    both = result(run, *ON_H100, "--placement", "separate", "--tp", 2, "--overlap")
    energy = both["models"]["energy_j_per_token"]["speculative"]
    assert energy == pytest.approx(3 * 0.7 * both["speculative_ms_per_token"])
    four = ("--placement", "separate", "--tp", 2, "--draft-tp", 2)
    both = result(run, *ON_H100, *four, "--overlap")
    assert both["models"]["energy_j_per_token"]["speculative"] == pytest.approx(
        4 * 0.7 * both["speculative_ms_per_token"]
    )
    assert "draft in bfloat16 on 2 devices of its own" in output("simulate", *ON_H100, *four)
    assert "draft in bfloat16 on 1 of them" in output("simulate", *ON_H100, "--tp", 2, "--draft-tp", 1)


def test_overlapped_drafting_is_faster_and_explained_by_its_own_round(run, output, hist_file: Path) -> None:
    apart = ("--hist", hist_file, *ON_H100, "--placement", "separate")
    plain, both = result(run, *apart), result(run, *apart, "--overlap")
    assert both["closed_form_speedup"] > plain["closed_form_speedup"]
    low, high = both["verdict"]["speedup_ci95"]
    assert low < both["closed_form_speedup"] < high
    why = output("simulate", *apart, "--overlap", "--why")
    assert f"= {both['closed_form_speedup']:.2f}x." in why


def test_devices_and_formats_that_are_asked_for_are_those_of_the_report(run, output) -> None:
    one, two = (result(run, *ON_H100, "--tp", n)["models"] for n in (1, 2))
    step, half = (m["passes"]["plain step"] for m in (one, two))
    assert two["memory"]["bytes_per_device"] == pytest.approx(one["memory"]["bytes_per_device"] / 2)
    assert half["memory_ms"] == pytest.approx(step["memory_ms"] / 2)
    assert step["link_ms"] == 0 < half["link_ms"]
    assert "target in bfloat16 on 2 devices, draft in bfloat16 on them" in output("simulate", *ON_H100, "--tp", 2)
    narrow, slim = (result(run, *ON_H100, "--dtype", "fp8", *kv) for kv in ((), ("--kv-dtype", "fp8")))
    narrow_bytes, slim_bytes = (f["models"]["memory"]["bytes_per_device"] for f in (narrow, slim))
    # Of 1024 tokens: 128 KiB each of the target, 32 of the draft, in 16 bits.
    assert narrow_bytes - slim_bytes == pytest.approx(1024 * (131_072 + 32_768) / 2)
    assert narrow["baseline_ms_per_token"] < step["total_ms"]
    # As engines take it: weights of fewer bits are the target's, a format of 16 or 32 bits is that of both models.
    formats = (("fp8", (), "bfloat16"), ("awq", ("--draft-dtype", "fp8"), "fp8"), ("float32", (), "float32"))
    for dtype, draft, expected in formats:
        models = result(run, *ON_H100, "--dtype", dtype, *draft)["models"]
        assert (models["target"]["weight_format"], models["draft"]["weight_format"]) == (dtype, expected)


def test_what_does_not_fit_is_said_and_gets_no_schedule(run, output) -> None:
    mixtral = ("--profile", "h100-sxm", "--target-model", "mixtral-8x7b", "--draft-model", "llama-3.2-1b")
    said = output("simulate", *mixtral)
    assert "\nDoes not fit into memory: no speedup to tell of.\n" in said
    assert "do NOT fit into 77.3 GB; no batch does\n" in said
    assert "x as fast" not in said
    found = result(run, *mixtral)
    assert (found["verdict"]["answer"], found["verdict"]["speedup"], found["speedup"]) == ("does not fit", None, None)
    assert found["verdict"]["best_speedup"] is found["uncertainty"] is found["models"]["tokens_per_s"] is None
    found = found["models"]
    assert found["memory"]["largest_batch"] == 0
    notes = found["schedule"].pop("notes")
    assert set(map(tuple, notes.values())) == {("nothing fits into memory",)}
    assert found["schedule"].pop("ranges") == []
    assert set(found["schedule"].values()) == {None}
    most = result(run, *ON_H100)["models"]["memory"]["largest_batch"]
    for batch, words in ((most, "fit"), (most + 1, "do NOT fit")):
        said = output("simulate", *ON_H100, "--batch", batch)
        assert re.search(rf"each device {words} into 77\.31? GB; batches up to {most} do\n", said)


def test_a_draft_that_never_pays_is_off_at_every_batch(run, output) -> None:
    slow = ("--profile", "h100-sxm", "--target-model", "llama-3.2-1b", "--draft-model", "llama-3.2-1b", "--alpha", 0.5)
    plan = result(run, *slow)["models"]["schedule"]
    assert (plan["off_above_batch"], plan["vllm"]) == (0, None)
    said = output("simulate", *slow)
    assert f"best K by batch size, to 2%: off at batch 1-{plan['ranges'][0]['last']}\n" in said
    assert said.startswith("If alpha is 0.5: 0.")
    # An empty context is allowed.
    assert result(run, *ON_H100, "--context", 0)["models"]["memory"]["largest_batch"] > 10_000


STEP, VERIFY = "A plain step takes", "Verifying 5 tokens takes"
MIXTRAL = ("b200", "mixtral-8x7b", "llama-3.2-1b")
REASONS = [
    (ON_H100[1::2], {}, VERIFY, "1.00 steps: the weights are read once for all of them."),
    (ON_H100[1::2], {"batch": 256}, VERIFY, "steps: arithmetic grows with the tokens."),
    (MIXTRAL, {}, VERIFY, "steps: more tokens touch more experts."),
    (ON_H100[1::2], {}, STEP, "most of it reading weights and KV cache."),
    (ON_H100[1::2], {"tp": 32, "batch": 512, "context": 16}, STEP, "most of it exchanging sums between devices."),
    (("h100-sxm", "qwen2.5-0.5b", "llama-68m"), {"context": 16}, STEP, "most of it launching kernels."),
    (("cpu-2-core", "llama-3.2-1b", "llama-68m"), {"batch": 64, "context": 16}, STEP, "most of it arithmetic."),
]


def test_why_names_what_binds(output) -> None:
    for names, sizes, start, end in REASONS:
        words = [w for pair in zip(ON_H100[::2], names, strict=True) for w in pair]
        words += [w for name, size in sizes.items() for w in (f"--{name}", size)]
        (line,) = (line for line in output("simulate", *words, "--why").splitlines() if line.startswith(start))
        assert line.endswith(end)


def test_why_says_what_a_percent_of_each_constant_changes(run, output) -> None:
    effects = result(run, *ON_H100)["sensitivity"]
    (line,) = (
        line for line in output("simulate", *ON_H100, "--why").splitlines() if line.startswith("1 % more of these")
    )
    assert f"accepted tokens {effects['mean_accepted']:+.2f} %" in line
    assert f"time of memory {effects['mem_scale']:+.2f} %" in line
    assert "time of the link" not in line
    # It is there for burn units as well: a verification that arithmetic binds, plain steps and drafts that memory does.
    said = output("simulate", "--why", "--workflops", 5e6)
    assert "time of memory +" in said
    assert "time of arithmetic -" in said
    assert "changes the speedup by: nothing.\n" in output("simulate", "--why", "--alpha", 0)


def test_a_profile_sets_the_burn_units_and_the_user_goes_before_it_one_by_one(run, tmp_path: Path) -> None:
    path = written(tmp_path / "burnt.json", BURNT)
    plain = result(run, "--profile", path, *WORK)["parameters"]
    assert plain["profile_status"] == "measured"
    # Of the profile, then of the user.
    for option, key, from_profile, own in (
        ("--flopScale", "flopScale", 600 * 2e-12 * 1e3, 1e-5),
        ("--memScale", "memScale", 8000 * 4e-11 * 1e3, 0.7),
        ("--pass-overhead", "pass_overhead_ms", 6e-3, 0.5),
        ("--round-overhead", "round_overhead_ms", 0.2, 1),
        ("--overlap-exponent", "overlap_exponent", 3, 2),
    ):
        assert plain[key] == pytest.approx(from_profile)
        assert result(run, "--profile", path, *WORK, option, own)["parameters"] == plain | {key: own}
    found = result(run, "--profile", path, "--workflops", 0, "--workmem", 10, "--pass-overhead", 0)
    assert found["baseline_ms_per_token"] == pytest.approx(10 * 8000 * 4e-11 * 1e3)
    for words, overhead_ms in (((), 0.6), (("--round-overhead", 0.2), 0.2)):
        found = result(run, *ON_H100, *words)
        assert found["parameters"]["round_overhead_ms"] == pytest.approx(overhead_ms)


def test_a_profile_and_a_model_from_files_give_what_their_names_give(run, tmp_path: Path) -> None:
    written(tmp_path / "p.json", load_profile("h100-sxm"))
    (tmp_path / "target").mkdir()
    shutil.copy(CATALOGUE / "llama-3.1-8b.json", tmp_path / "target/config.json")
    named = result(run, *ON_H100)
    filed = result(run, "--profile", "p.json", "--target-model", "target", "--draft-model", "llama-3.2-1b")
    for key in ("speedup", "models", "uncertainty", "sensitivity"):
        assert filed[key] == named[key]


def test_the_same_seed_gives_the_same_bytes(output, hist_file: Path) -> None:
    words = ("simulate", "--hist", hist_file, *ON_H100, "--json", "--seed")
    first, again, other = (output(*words, seed, SOURCE_DATE_EPOCH="1700000000") for seed in (3, 3, 4))
    assert first == again
    first, other = map(json.loads, (first, other))
    assert other["uncertainty"] != first["uncertainty"]
    assert other["sensitivity"] == first["sensitivity"]


# What library calls refuse is test_pricing's; here is what only a command line can get wrong, and one of the others.
REFUSED = [
    (PAIR, "--target-model: llama-3.1-8b without a device, expected --profile NAME beside it"),
    (("--batch", 4), "--batch: needs --profile and --target-model"),
    (("--context", 4), "--context: needs --profile and --target-model"),
    ((*ON_H100, "--workflops", 5), "--workflops: has no part in models on a profile"),
    ((*ON_H100, "--draft-cost", 0.1), "--draft-cost: has no part in models on a profile"),
    ((*ON_H100, "--overlap"), "--overlap: draft and target are on the same devices, expected --placement separate"),
    ((*ON_H100, "--tp", 0), "--tp"),
    (("--profile", "p.json", *PAIR), "p.json: kind is missing, expected 'hardware_profile'"),
    ((*ON_H100[:-1], "config.json"), "config.json: model_type is 'rwkv'"),
    ((*ON_H100, "--placement", "apart"), "--placement"),
    ((*ON_H100, "--batch", 0), "--batch: 0 is not allowed, expected a whole number from 1"),
]


@pytest.mark.parametrize("command", ["simulate", "sweep"])
def test_options_at_odds_are_one_line(run, user_error, command: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "rwkv"}')
    for options, message in REFUSED:
        user_error(run(command, *options), message)


def test_an_output_never_takes_the_place_of_what_is_read(run, user_error, tmp_path: Path) -> None:
    for option in ("--profile", "--target-model", "--draft-model"):
        source = PRESETS / "cpu-2-core.json" if option == "--profile" else CATALOGUE / "llama-68m.json"
        shutil.copy(source, tmp_path / "config.json")
        # A folder stands for the config.json in it.
        for value in ("config.json",) if option == "--profile" else ("config.json", "."):
            words = instead(ON_H100, (option, value))
            done = run("simulate", *words, "--force", "--events", "config.json")
            user_error(done, f"is the file of {option} too")
            assert (tmp_path / "config.json").read_bytes() == source.read_bytes()


def test_a_sweep_over_batch_and_context_has_a_row_and_the_models_of_each_point(
    run, output, hist_file, tmp_path: Path
) -> None:
    grid = ("--draftN", "2,4", "--batch", "1,4,16,256", "--context", "512,4096")
    output("sweep", "--hist", hist_file, *ON_H100, *grid, "--out", "s.csv", "--plot", "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert len(frame.drop_duplicates(["draftN", "batch", "context"])) == len(frame) == 16
    assert not {"workflops", "flopScale", "draft_cost", "alpha"} & set(frame.columns)
    stated = {"profile": "h100-sxm", "target_model": "llama-3.1-8b", "draft_model": "llama-3.2-1b", "tp": 1}
    stated |= {"profile_status": "datasheet, uncalibrated", "dtype": "bfloat16", "draft_dtype": "bfloat16"}
    for key, value in (stated | {"placement": "same"}).items():
        assert frame[key].unique().tolist() == [value]
    at = frame[(frame.draftN == 4) & (frame.batch == 16) & (frame.context == 4096)].iloc[0]
    alone = result(run, "--hist", hist_file, *ON_H100, "--batch", 16, "--context", 4096)
    for key in ("baseline_ms_per_token", "draft_ms_per_round", "verify_ms_per_round", "closed_form_speedup"):
        assert at[key] == pytest.approx(alone[key], rel=1e-12)
    assert at.memory_bytes == alone["models"]["memory"]["bytes_per_device"]
    by_size = frame.sort_values("memory_bytes")
    assert by_size.fits.is_monotonic_decreasing
    assert frame.fits[frame.memory_bytes > 0.9 * 80 * 2**30].max() == 0
    assert frame.fits[frame.memory_bytes < 0.9 * 80 * 2**30].min() == 1


def test_a_sweep_takes_a_profiles_burn_units_and_the_users_range_of_one(output, tmp_path: Path) -> None:
    written(tmp_path / "burnt.json", replace(BURNT, round_overhead_s=0.0))
    output("sweep", "--profile", "burnt.json", *WORK, "--memScale", "0.1:0.3:0.1", "--out", "s.csv")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.memScale.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert frame.flopScale.tolist() == pytest.approx([1.2e-6] * 3)
    compute, memory = 50_000 * 1.2e-6, 8 * frame.memScale
    step_ms = (compute**3 + memory**3) ** (1 / 3) + 6e-3
    assert np.asarray(frame.baseline_ms_per_token) == pytest.approx(np.asarray(step_ms))


def test_a_sweep_leaves_what_does_not_fit_out_of_its_best_and_says_so(output, hist_file: Path) -> None:
    words = ("sweep", "--hist", hist_file, *ON_H100, "--draftN", "1:2", "--replications", 0)
    said = output(*words, "--batch", "1,256", "--context", "32768").splitlines()
    assert said[0].endswith("batch 1.")
    assert said[3].endswith("; 2 do not fit into memory")
    batches = {line.split()[0]: line for line in said[6:]}
    assert batches["1"].split()[1] == "2"
    assert batches["256"].endswith("does not fit into memory")
    none = output(*words, "--batch", "256", "--context", "32768")
    assert none.startswith("Does not fit into memory, at any of these points.\n")
    assert "x as fast" not in none


def test_a_profile_without_the_size_of_its_memory_does_not_say_what_fits(run, output, tmp_path: Path) -> None:
    profile = load_profile("h100-sxm")
    written(tmp_path / "p.json", replace(profile, name="p", memory_bytes=None))
    words, told = ("--profile", "p.json", *PAIR, "--alpha", 0.7), "not known: p does not say how much its device has"
    assert told in " ".join(output("simulate", *words).split())
    assert result(run, *words)["models"]["memory"]["fits"] is None
    assert result(run, "--profile", "h100-sxm", *words[2:])["models"]["memory"]["fits"] is True
    swept = ("sweep", *words, "--batch", "1,8", "--draftN", "1:2", "--replications", 0)
    assert told in " ".join(output(*swept).split())
    assert json.loads(output(*swept, "--json"))["memory_known"] is False
