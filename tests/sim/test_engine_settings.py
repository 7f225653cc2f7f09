"""Settings of serving engines: what each says, the same forecast from them and back, and refusals in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree
from simulator.costs.engines import llama_cpp, sglang, trtllm, vllm
from simulator.costs.engines.all import ENGINES, as_engines_take_it, lines_for
from simulator.costs.engines.settings import Recommended
from simulator.ground.artefacts import UserError

from .builders import result

BASE = ("--profile", "h100-sxm", "--replications", 2, "--total", 64)
ON_LLAMA = (*BASE, "--target-model", "llama-3.1-8b")
ROWS = ((1, 8, 5), (9, 64, 2), (65, 256, 0))
HEAD = "lmsys/EAGLE3-8B"


def said(name: str, **more: Any) -> Recommended:
    method = methods()[name]
    return Recommended(
        method=method, **{"draft": "d" if method.engines.needs_model else None, "draft_length": 5} | more
    )


def alike(name: str, engine: str) -> str:
    """The first of the methods that an engine calls as this one."""
    word = getattr(methods()[name].engines, engine)
    return next(other for other, method in methods().items() if getattr(method.engines, engine) == word)


def answered(run, *words: object) -> tuple[dict[str, Any], str]:
    """What `simulate --json` answers, and what it says besides."""
    done = run("simulate", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """What a forecast says, without when and by which options."""
    return {key: value for key, value in found.items() if key not in ("parameters", "created_utc")}


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.engines.vllm])
def test_what_is_written_for_vllm_is_read_as_the_same(name: str) -> None:
    settings = vllm.written(said(name, rows=ROWS, devices=2, draft_devices=1, draft_format="fp8")).settings
    found = vllm.read(json.dumps(settings))
    values = {key: stated.value for key, stated in found.options.items()}
    expected = {"method": alike(name, "vllm"), "draft_length": 5, "draft_tp": 1, "draft_dtype": "fp8"}
    assert values == expected | ({"draft_model": "d"} if methods()[name].engines.needs_model else {})
    assert (found.schedule, found.notes) == (ROWS, ())


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.engines.sglang])
def test_what_is_written_for_sglang_is_read_as_the_same(name: str) -> None:
    tree = Tree(4, 16) if methods()[name].engines.sglang in sglang.BY_STEPS else None
    for branched in {None, tree}:
        settings = sglang.written(said(name, tree=branched, draft_format="fp8")).settings
        assert settings is not None
        values = {key: stated.value for key, stated in sglang.read(settings["flags"]).options.items()}
        expected = {"method": alike(name, "sglang"), "draft_length": 5, "draft_dtype": "fp8"}
        expected |= {"draft_model": "d"} if methods()[name].engines.needs_model else {}
        assert values == expected | ({"topk": 4, "nodes": 16} if branched else {})


def test_one_forecast_by_options_by_vllm_and_by_sglang_and_back(run) -> None:
    plain, _ = answered(run, *ON_LLAMA, "--method", "eagle3", "--draftN", 3, "--batch", 8)
    by_vllm, notes = answered(
        run, *ON_LLAMA, "--batch", 8, "--speculative-config", '{"method": "eagle3", "num_speculative_tokens": 3}'
    )
    assert figures(by_vllm) == figures(plain)
    assert notes == ""
    flags = "--speculative-algorithm EAGLE3 --speculative-num-steps 3 --speculative-eagle-topk 1"
    by_sglang, _ = answered(run, *ON_LLAMA, "--batch", 8, "--from-sglang", flags)
    assert figures(by_sglang) == figures(plain)
    # What it recommends, read again, is the forecast that recommends it.
    told = plain["models"]["schedule"]
    k = next(r["draft_length"] for r in told["ranges"] if r["first"] <= 8 <= r["last"])
    best, _ = answered(run, *ON_LLAMA, "--method", "eagle3", "--draftN", k, "--batch", 8)
    for option, settings in (
        ("--speculative-config", json.dumps(told["vllm"])),
        ("--from-sglang", told["sglang"]["flags"]),
    ):
        again, _ = answered(run, *ON_LLAMA, "--batch", 8, option, settings)
        assert figures(again) == figures(best)


def test_a_whole_command_of_sglang_with_a_tree(run) -> None:
    command = (
        "HF_HUB_OFFLINE=1 python3 -m sglang.launch_server --model meta-llama/Llama-3.1-8B-Instruct --tp-size=2 \\\n"
        f" --speculative-algo EAGLE3 --speculative-draft-model-path {HEAD} --speculative-num-steps 3 --host ::1 "
        "--speculative-eagle-topk 4 --speculative-num-draft-tokens 16 --mem-fraction-static 0.7 --quantization fp8"
    )
    found, notes = answered(run, *BASE, "--from-sglang", command)
    tree = ("--method", "eagle3", "--draftN", 3, "--topk", 4, "--nodes", 16, "--tp", 2, "--dtype", "fp8")
    tree += ("--gpu-memory-utilization", 0.7)
    plain, _ = answered(run, *BASE, "--target-model", "meta-llama/Llama-3.1-8B-Instruct", *tree)
    named = found["models"]["schedule"].pop("sglang"), plain["models"]["schedule"].pop("sglang")
    assert HEAD in named[0]["flags"]
    for one in (found, plain):
        del one["models"]["schedule"]["trtllm"], one["models"]["schedule"]["notes"]
    assert figures(found) == figures(plain)
    assert found["parameters"]["draft_model"] == HEAD
    assert f"no file of {HEAD} is here, priced as is usual for EAGLE-3" in " ".join(notes.split())
    assert "--host is not looked at" in notes


def test_an_acceptance_that_is_to_be_synthesised_is_forecast(run, hist_file: Path, tmp_path: Path) -> None:
    measured = result(run, *ON_LLAMA, "--method", "eagle3", "--hist", hist_file)
    told = measured["synthetic_acceptance"]["vllm"] | {"method": "eagle3"}
    (tmp_path / "spec.json").write_text(json.dumps(told))
    for name in ("spec.json", "@spec.json"):
        again = result(run, *ON_LLAMA, "--speculative-config", name)
        assert again["closed_form_speedup"] == pytest.approx(measured["closed_form_speedup"])
        assert (again["parameters"]["hist"], again["parameters"]["measured"]) == ("synthetic_acceptance", True)
    mean = {"method": "eagle3", "num_speculative_tokens": 4, "rejection_sample_method": "synthetic"}
    mean["synthetic_acceptance_length"] = 2.5
    found = result(run, *ON_LLAMA, "--speculative-config", json.dumps(mean))
    assert found["closed_form_tokens_per_round"] == pytest.approx(2.5)
    text = run("simulate", *ON_LLAMA, "--speculative-config", json.dumps(mean)).stdout
    assert "acceptance sampled from synthetic_acceptance" in text


def test_a_schedule_is_forecast_at_batch_sizes_of_one_length_alone(run) -> None:
    config = ("--speculative-config", json.dumps(GOOD | {"num_speculative_tokens": 5, vllm.OURS[3]: ROWS}))
    models = (*ON_LLAMA[:2], *ON_LLAMA[6:])
    swept = ("sweep", *models, "--replications", 0, "--batch")
    found = run(*swept, "16,32", "--json", *config)
    plain = run(*swept, "16,32", "--json", "--method", "eagle3", "--draftN", 2)
    assert json.loads(found.stdout)["answers"] == json.loads(plain.stdout)["answers"]
    refused(run(*swept, "4,32,128", *config), "says K = 5 at batch 4, K = 2 at batch 32, K = 0 at batch 128; expected")
    refused(run(*swept, "65:70", *config), "drafts nothing at batch 65:70, expected a --batch at which it does")
    for words in (("--compare", "--batch", 4), ("--concurrency", 9, "--isl", 64, "--osl", 64)):
        refused(run("simulate", *models, *words, *config), "K = 5 at batch 1, K = 2 at batch 9")
    assert run("simulate", *models, "--concurrency", 8, "--isl", 64, "--osl", 64, *config).stdout


def test_a_drafter_that_says_its_block_needs_no_length(run, tmp_path: Path) -> None:
    config = {"architectures": ["DFlashDraftModel"], "model_type": "qwen3", "hidden_size": 4096, "block_size": 8}
    config |= {"num_hidden_layers": 5, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151_936}
    config |= {"intermediate_size": 12_288, "dflash_config": {"target_layer_ids": [1, 9, 17, 25, 33]}}
    (tmp_path / "flash.json").write_text(json.dumps(config))
    on_qwen = (*BASE, "--target-model", "qwen3-8b")
    flags = "--speculative-algorithm DFLASH --speculative-draft-model-path flash.json"
    found = result(run, *on_qwen, "--from-sglang", flags)
    assert found["parameters"]["draftN"] == 7
    shorter = result(run, *on_qwen, "--from-sglang", f"{flags} --speculative-num-draft-tokens 5")
    assert shorter["parameters"]["draftN"] == 4
    # vLLM finds the method in a name, we in the file as well.
    by_file = result(run, *on_qwen, "--speculative-config", '{"model": "flash.json", "num_speculative_tokens": 4}')
    assert figures(by_file) == figures(shorter)


def test_every_engine_says_each_method_or_that_it_has_none() -> None:
    for name, method in methods().items():
        found = as_engines_take_it(said(name, rows=ROWS))
        for engine in ENGINES:
            key = engine.replace(".", "_")
            has_it = bool(getattr(method.engines, key))
            assert (found[key] is not None) == has_it
            assert has_it or f"has no {method.title}" in found["notes"][key][0]


def test_the_forms_of_tensorrt_llm_and_llama_cpp() -> None:
    assert trtllm.written(said("eagle3", rows=ROWS)).settings == {
        "decoding_type": "Eagle3",
        "max_draft_len": 5,
        "speculative_model": "d",
        "draft_len_schedule": {"8": 5, "64": 2},
    }
    (line,) = trtllm.written(said("eagle3", rows=ROWS)).lines
    assert line.endswith('"draft_len_schedule": {8: 5, 64: 2}}')
    # A cutoff alone has a key of its own, which its schedule excludes.
    cut = trtllm.written(said("eagle3", rows=((1, 32, 5), (33, 256, 0)))).settings
    assert cut is not None
    assert (cut["max_concurrency"], "draft_len_schedule" in cut) == (32, False)
    # TensorRT-LLM has the longest drafts first.
    rising = trtllm.written(said("eagle3", rows=((1, 8, 2), (9, 64, 5))))
    assert rising.settings == {"decoding_type": "Eagle3", "max_draft_len": 5, "speculative_model": "d"}
    assert "no draft_len_schedule" in rising.notes[0]
    tree = trtllm.written(said("eagle3", tree=Tree(2, 9))).settings
    assert tree is not None
    assert (tree["dynamic_tree_max_topK"], tree["max_total_draft_tokens"]) == (2, 8)
    assert trtllm.written(said("draft_model", tree=Tree(2, 9))).settings is None
    model = llama_cpp.written(said("draft_model")).settings
    assert model == {
        "flags": "--spec-type draft-simple --model-draft d.gguf --spec-draft-n-max 5",
        "older_flags": "--model-draft d.gguf --draft-max 5",
    }
    assert vllm.written(said("eagle3", tree=Tree(2, 9))).settings is None


def test_modules_that_take_turns_get_a_multiple_of_them() -> None:
    turns = vllm.written(said("mtp", modules=2)).settings
    assert turns == {"method": "mtp", "num_speculative_tokens": 6, vllm.OURS[3]: [[1, vllm.MOST_BATCH, 5]]}
    assert vllm.at_batch(vllm.read(json.dumps(turns)).schedule, 64) == 5
    assert vllm.written(said("mtp", modules=5)).settings == {"method": "mtp", "num_speculative_tokens": 5}


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        ("NEXTN", "mtp"),
        ("EAGLE", "mtp"),
        ("EAGLE --speculative-draft-model-path lmsys/DeepSeek-R1-NextN", "mtp"),
        ("EAGLE --speculative-draft-model-path lmsys/EAGLE-llama2", "eagle"),
        ("eagle3 --speculative-draft-model-path x", "eagle3"),
    ],
)
def test_sglang_has_one_name_for_heads_and_modules(flags: str, method: str) -> None:
    found = sglang.read(f"--speculative-algorithm {flags} --speculative-num-steps 2 --speculative-eagle-topk 1")
    assert found.options["method"].value == method


def test_a_drafters_file_tells_what_an_engine_calls_alike(run, tmp_path: Path) -> None:
    config = {"architectures": ["DeepSeekMTPModel"], "model_type": "qwen3", "hidden_size": 4096, "vocab_size": 151_936}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 36, "head_dim": 128}
    config |= {"intermediate_size": 12_288, "num_nextn_predict_layers": 1}
    (tmp_path / "module.json").write_text(json.dumps(config))
    flags = "--speculative-algorithm EAGLE --speculative-draft-model-path module.json --speculative-num-steps 2"
    found = result(run, *BASE, "--target-model", "qwen3-8b", "--from-sglang", flags)
    assert found["parameters"]["method"] == "mtp"


def test_adaptive_steps_of_sglang_follow_the_schedule() -> None:
    found = sglang.written(said("eagle3", rows=ROWS))
    assert found.settings is not None
    steps = {"1": [5], "9": [2], "65": [0]}
    assert found.settings["adaptive_config"] == {first: {"candidate_steps": k} for first, k in steps.items()}
    assert "0 is plain decoding" in found.notes[0]
    assert sglang.written(said("dflash", rows=ROWS)).settings == {
        "flags": "--speculative-algorithm DFLASH --speculative-draft-model-path d --speculative-num-draft-tokens 6",
        "adaptive_config": None,
    }
    off = lines_for("sglang", said("eagle3", draft_length=0))
    assert off == ["for sglang:", "  note: plain decoding is best"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_report_ends_with_what_to_paste(run, output, engine: str) -> None:
    done = run("simulate", *ON_LLAMA, "--draft-model", "llama-3.2-1b", "--batch", 8, "--engine", engine)
    assert done.returncode == 0
    assert f"\n\nfor {engine}, at batch 8:\n  " in done.stdout
    assert "llama-3.2-1b" in done.stdout.partition(f"for {engine}")[2]
    words = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "eagle3", "--replications", 0)
    swept = output("sweep", *words, "--batch", "1:16", "--alpha", "0.6,0.8", "--engine", engine)
    assert f"\nfor {engine}, alpha 0.6:\n  " in swept
    assert f"\nfor {engine}:\n  " in output("sweep", *words, "--draftN", "1:3", "--engine", engine)


def test_what_a_comparison_takes_is_told_to_engines(run, output) -> None:
    words = (*BASE[:2], "--target-model", "llama-3.1-8b", "--method", "eagle3,ngram", "--alpha", 0.7)
    done = run("simulate", *words, "--draft-model", "none/EAGLE3-8B", "--compare")
    refused(done, "none/EAGLE3-8B: no such file or folder")
    found = json.loads(output("simulate", *words, "--json"))
    first = found["engines"][0]
    assert (first["first"], first["method"]) == (1, found["take"][0]["method"])
    assert first["vllm"]["num_speculative_tokens"] == max(k for _, _, k in first["vllm"][vllm.OURS[3]])
    assert f"\nfor sglang, {first['method']} at batch 1:\n  {first['sglang']['flags']}\n" in output(
        "simulate", *words, "--engine", "sglang"
    )


GOOD = {"method": "eagle3", "num_speculative_tokens": 4}
SYNTHETIC = GOOD | {"rejection_sample_method": "synthetic"}
# Of a good configuration, what is other, and what is said of it.
ODD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_speculative_tokens": 0}, "num_speculative_tokens is 0, expected a whole number from 1 to "),
    ({"num_speculative_tokens": "4"}, "num_speculative_tokens is '4', expected a whole number"),
    ({"num_speculative_token": 4}, "'num_speculative_token' is no setting of vLLM, nearest: num_speculative_tokens, "),
    ({"method": "eagel3"}, "method is 'eagel3', expected one of "),
    ({"method": None}, "method is None, expected a method, or a model beside it"),
    ({"method": ["eagle3"]}, "method is ['eagle3'], expected text"),
    ({"method": "custom_class"}, "expected one of dflash, draft_model, dspark, eagle, eagle3, medusa, mtp, ngram, "),
    (
        {"method": "eagle", "parallel_drafting": True},
        "no such key beside method eagle (draft_model and eagle3 have it)",
    ),
    ({"parallel_drafting": 1}, "parallel_drafting is 1, expected true or false"),
    ({"enforce_eager": "no"}, "enforce_eager is 'no', expected true or false"),
    ({"prompt_lookup_max": 2, "prompt_lookup_min": 3}, "prompt_lookup_min is 3, expected at most the 2 of"),
    ({"suffix_decoding_min_token_prob": 2}, "suffix_decoding_min_token_prob is 2, expected a number from 0 to 1"),
    ({"draft_sample_method": "best"}, "draft_sample_method is 'best', expected 'greedy' or 'probabilistic'"),
    ({"synthetic_acceptance_length": 2}, "synthetic_acceptance_length is 2, expected no such key without"),
    ({vllm.OURS[3]: [[2, 4, 1]]}, f"{vllm.OURS[3]} is [[2, 4, 1]], expected a first range that begins at"),
    ({vllm.OURS[3]: [[1, 4]]}, f"{vllm.OURS[3]}[0] is [1, 4], expected [first batch size, last, draft length]"),
    ({vllm.OURS[3]: [[1, 4, 2], [4, 5, 1]]}, "expected ranges that do not overlap"),
    ({vllm.OURS[3]: [[5, 4, 2]]}, "expected a first batch size that is not above the last"),
    ({vllm.OURS[3]: [[1, 4, 0]]}, "drafts nothing at batch 1, expected a --batch at which it does"),
    ({vllm.OURS[3]: 4}, f"{vllm.OURS[3]} is 4, expected a list"),
    ({"draft_tensor_parallel_size": 2}, "draft_tensor_parallel_size 2, expected 1, or --tp beside it"),
    ({"rejection_sample_method": "synthetic"}, "expected one of synthetic_acceptance_rates and "),
    (SYNTHETIC | {"synthetic_acceptance_rates": [0.5]}, "expected 4 numbers that do not rise"),
    (SYNTHETIC | {"synthetic_acceptance_rates": [0.5, 0.6, 0.1, 0.1]}, "expected 4 numbers that do not rise"),
    (SYNTHETIC | {"synthetic_acceptance_length": 6}, "synthetic_acceptance_length is 6, expected a number from 1 to 5"),
    ({"num_speculative_tokens": None}, "no draft length, expected num_speculative_tokens or --draftN beside it"),
    ({"model": "none/none.json"}, "none/none.json: no such file"),
]
FLAGS = "--speculative-algorithm EAGLE3"
TREE = f"{FLAGS} --speculative-num-steps 3 --speculative-eagle-topk 2"
ODD_FLAGS = [
    ("", "'' holds no flag, expected those of SGLang"),
    ("--speculative-num-steps 3", "--speculative-algorithm is missing, expected text"),
    (f"{FLAGS} 'open", "no closing quotation, expected flags as a shell takes them"),
    ("--speculative-algorithm EAGEL --speculative-num-steps 3", "is 'EAGEL', expected one of "),
    (FLAGS, "no draft length, expected --speculative-num-steps or --draftN beside it"),
    (f"{FLAGS} --speculative-num-steps", "--speculative-num-steps has no value, expected one behind it"),
    ("--speculative-algorithm NGRAM", "no draft length, expected --speculative-num-draft-tokens or --draftN beside it"),
    (f"{FLAGS} --speculative-num-steps 0", "--speculative-num-steps is 0, expected a whole number from 1"),
    (f"{FLAGS} --speculative-num-steps x", "--speculative-num-steps is 'x', expected a whole number"),
    (f"{FLAGS} --speculative-num-steps 3 4", "--speculative-num-steps is ['3', '4'], expected a whole number"),
    (f"{FLAGS} --speculative-num-steps 3 --speculative-num-steps 4", "appears twice, expected it once"),
    (f"{FLAGS} --speculative-num-stpes 3", "'--speculative-num-stpes' is no setting of SGLang, nearest: --spec"),
    (f"{FLAGS} --speculative-num-steps 3 --speculative-eagle-topk 0", "topk is 0, expected a whole number from 1"),
    (TREE, "--speculative-num-draft-tokens is missing, expected the tokens of a tree that are verified"),
    (f"{TREE} --speculative-num-draft-tokens 3", "is 3, expected 4 to 11: a tree of 3 steps of 2 branches"),
    (f"{TREE} --speculative-num-draft-tokens 99", "is 99, expected 4 to 11: a tree of 3 steps of 2 branches"),
    (f"{FLAGS} --speculative-num-draft-tokens 4", "--speculative-num-steps is missing, expected the number of"),
    (f"{FLAGS} --speculative-num-steps 3 --tp 0", "--tp is 0, expected a whole number from 1 to 1024"),
]


@pytest.mark.parametrize(("other", "expected"), ODD_CONFIGS)
def test_odd_settings_of_vllm_are_refused_in_one_line(run, other: dict[str, Any], expected: str) -> None:
    refused(run("simulate", *ON_LLAMA, "--speculative-config", json.dumps(GOOD | other)), expected)


@pytest.mark.parametrize(("flags", "expected"), ODD_FLAGS)
def test_odd_flags_of_sglang_are_refused_in_one_line(run, flags: str, expected: str) -> None:
    refused(run("simulate", *ON_LLAMA, "--from-sglang", flags), expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--speculative-config", "[1]"),
            "'[1]' is not allowed, expected a JSON object such as vLLM takes, or its file",
        ),
        (("--speculative-config", ""), "'' is not allowed, expected a JSON object"),
        (("--speculative-config", f"null{json.dumps(GOOD)}\n"), "' is not allowed, expected a JSON object"),
        (("--speculative-config", "{"), "--speculative-config: not JSON (line 1: "),
        (("--speculative-config", "@none.json"), "none.json: "),
        (("--speculative-config", '{"a": ' * 200), "--speculative-config: "),
        (("--speculative-config", json.dumps(GOOD), "--method", "eagle"), "--method: eagle beside method eagle3 of"),
        (("--speculative-config", json.dumps(GOOD), "--method", "eagle,mtp"), "--method: eagle,mtp beside method"),
        (("--speculative-config", json.dumps(GOOD), "--draftN", 3), "--draftN: 3 beside num_speculative_tokens 4 of"),
        (("--speculative-config", json.dumps(GOOD), "--from-sglang", FLAGS), "--from-sglang: beside --speculative-"),
        (("--from-sglang", f"{TREE} --speculative-num-draft-tokens 5", "--nodes", 6), "--nodes: 6 beside --specul"),
    ],
)
def test_what_is_at_odds_is_refused_in_one_line(run, words: tuple[object, ...], expected: str) -> None:
    refused(run("simulate", *ON_LLAMA, *words), expected)


def test_an_engine_needs_models(run) -> None:
    refused(run("simulate", "--engine", "vllm"), "--engine: vllm without models, expected --profile and --target-model")
    config = json.dumps(GOOD)
    refused(run("simulate", "--speculative-config", config), "method eagle3 without a device, expected --profile")


def test_agreeing_options_may_stand_beside_settings(run) -> None:
    config = ("--speculative-config", json.dumps(GOOD | {"draft_tensor_parallel_size": 2, "quantization": "fp8"}))
    beside = ("--method", "Eagle3", "--draftN", 4, "--tp", 2, "--draft-tp", 2, "--draft-dtype", "FP8")
    found = result(run, *ON_LLAMA, *config, *beside)
    assert figures(found) == figures(result(run, *ON_LLAMA, *beside))


def test_longer_texts_than_settings_are_refused() -> None:
    for read in (vllm.read, sglang.read):
        with pytest.raises(UserError, match="expected at most"):
            read("{" + " " * (1 << 18) + "}")


def refused(done: Any, expected: str) -> None:
    """A call ended with one short line, which says this."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert expected in done.stderr
    assert len(done.stderr) < 330
