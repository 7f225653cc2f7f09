"""`measure-acceptance` as a user meets it: a real pair, and bad input."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from acceptance.estimate.estimators import expected_rounds
from acceptance.trace.trace import load_trace
from simulator.ground.histogram import load_histogram
from tests.conftest import instead

from .tool_files import Round, log_line, vllm_response, write

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(20)))
    return path


@pytest.fixture
def measure(run, random_pair: tuple[Path, Path], prompts: Path):
    def call(*arguments: object):
        target, draft = random_pair
        usual = ("--target", target, "--draft", draft, "--prompts", prompts, "--max-new-tokens", 16)
        return run("measure-acceptance", *instead(usual, arguments))

    return call


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def test_a_range_of_k_from_one_trace_and_simulate_takes_the_file(measure, run, tmp_path: Path) -> None:
    done = succeeded(measure("--k", "1:4", "--out-dir", "out"))
    assert done.stderr == ""
    trace, _ = load_trace(tmp_path / "out" / "trace.json")
    assert trace.size == 20 * 16
    for k in range(1, 5):
        histogram = load_histogram(tmp_path / "out" / f"accept_hist_k{k}.json")
        assert histogram.counts == expected_rounds(trace, k, "sampled").histogram.counts
        assert f"{histogram.tokens_per_round:.3f}" in done.stdout
        assert f"wrote out/accept_hist_k{k}.json" in done.stdout
    succeeded(run("simulate", "--draftN", 4, "--hist", "out/accept_hist_k4.json"))


def test_the_same_seed_gives_the_same_bytes_which_name_their_origin(
    measure, tmp_path: Path, random_pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    outputs = [measure("--temperature", 0.8, "--seed", 5, "--json", "--out-dir", name) for name in "ab"]
    first, second = (json.loads(o.stdout) for o in outputs)
    assert first["metrics"] == second["metrics"]
    written, again = ((tmp_path / name / "accept_hist_k4.json").read_bytes() for name in "ab")
    assert written == again
    record = json.loads(written)
    options = {"target": str(random_pair[0]), "draft": str(random_pair[1]), "temperature": 0.8, "seed": 5}
    assert record["parameters"].items() >= (options | {"q_kind": "sampled", "k": 4}).items()
    assert record["metrics"]["tokens_per_round"] > 1
    assert sum(record["hist"].values()) == pytest.approx(record["samples"])


BAD_OPTIONS = [
    (("--k", "0"), "--k: 0 is not allowed, expected whole numbers from 1 to 1024"),
    (("--k", "1.5"), "--k: 1.5"),
    (("--k", "x"), "--k: 'x'"),
    (("--k", "17"), "--k: 17 is above --max-new-tokens, expected 1 to 16"),
    (("--temperature", "-1"), "--temperature"),
    (("--temperature", "nan"), "--temperature"),
    (("--temperature", "1e-40"), "--temperature: 1e-40 is not allowed, expected 0 or 0.01 to 100"),
    (("--dtype", "int3"), "--dtype"),
    (("--max-new-tokens", "0"), "--max-new-tokens"),
    (("--target", "./absent"), "--target ./absent: no such folder"),
    (("--prompts", "absent.jsonl"), "absent.jsonl: no such file"),
    (("--texts", "absent.jsonl"), "not used with --texts, which the target has written already"),
    (("--trace", "absent.json"), "not used with --trace"),
    (("--turns", "0"), "--turns: '0' is not allowed, expected a whole number from 1, or all"),
    (("--turns", "some"), "--turns: 'some'"),
    (("--format", "c4"), "--format: 'c4' is not allowed, expected one of 12, nearest: csv, "),
    (("--dataset", "c4"), "--dataset: c4 beside --prompts, expected one of them"),
    (("--dataset", "mt-bench"), "holds nothing to read (line 1:"),
    (("--top-k", "-1"), "--top-k: -1 is not allowed"),
    (("--top-p", "0"), "--top-p: 0 is not allowed"),
    (("--top-p", "nan"), "--top-p: nan is not allowed"),
    (("--draft-temperature", "-1"), "--draft-temperature: -1 is not allowed, expected 0 or 0.01 to 100"),
    (("--batch-size", "0"), "--batch-size"),
    (("--quantization", "4bit"), "--quantization 4bit: needs a CUDA device, but --device is cpu"),
    (("--system-prompt", "x"), "--system-prompt: has no place in plain text"),
    (("--use-chat-template",), "--use-chat-template: the tokenizer of --target has no chat template"),
    (("--plot", "x.pdf"), "--plot x.pdf"),
    (("--cross-tokenizer", "text", "--check-loop", "2"), "--check-loop: the loop needs one vocabulary"),
    (("--draft-cost", "-1"), "--draft-cost"),
    (("--draft-cost", "nan"), "--draft-cost: nan is not allowed, expected a number from 0 to 1000"),
    (("--q-kind", "sampled"), "--q-kind: sampled, but the draft is greedy"),
    (("nonsense",), "nonsense: no such command, nearest: replay, import"),
    (("import", "x", "--from", "sglang"), "not used with import: give options behind it"),
]


def test_a_bad_option_is_one_line(measure, user_error, other_vocabulary: Path) -> None:
    for arguments, message in BAD_OPTIONS:
        user_error(measure(*arguments), message)
    user_error(measure("--draft", other_vocabulary), "vocabulary differs", "expected the same tokenizer")


def test_the_old_name_of_an_option_means_what_it_did(run, user_error, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text('{"prompt": "hi"}\nho\n')
    own = ("--max-new-tokens", 4, "--k", 2, "--force", "--json")
    for given, expected in (
        (("--prompts", "p.txt", "--dataset", "text"), ("text", 2)),
        (("--dataset", "p.txt"), ("auto", 1)),
        (("--dataset", "p.txt", "--dataset-format", "text"), ("text", 2)),
    ):
        parameters = json.loads(succeeded(run("measure-acceptance", *given, *own)).stdout)["parameters"]
        assert (parameters["dataset"], parameters["prompt_count"]) == expected
    user_error(run("measure-acceptance", "--format", "text", "--dataset", "auto"), "--dataset: auto beside --format")


def test_prompts_that_cannot_be_used_are_counted_and_named(measure, user_error, prompts: Path) -> None:
    long = json.dumps({"prompt": "w1 " * 120, "id": "long"}).encode()
    prompts.write_bytes(b'{"prompt": "w1"}\n{"words": "w2"}\n{\n{"prompt": "\xff\xfe"}\n' + long)
    said = " ".join(succeeded(measure()).stdout.split())
    assert f"{prompts}: skipped 3 of 5 records, line 2 (" in said
    assert "3 (not JSON), 4 (not UTF-8 text)" in said
    assert "left out: long: 136 tokens with its output, but the models' context is 128" in said
    prompts.write_text("{\n")
    user_error(measure("--force"), f"{prompts}: holds nothing to read (line 1: not JSON)")


def test_existing_results_are_kept_unless_forced(measure, user_error, tmp_path: Path) -> None:
    kept = tmp_path / "accept_hist_k4.json"
    kept.write_text("precious")
    user_error(measure(), "accept_hist_k4.json: exists already (--force overwrites it)")
    assert kept.read_text() == "precious"
    assert not (tmp_path / "trace.npz").exists()
    succeeded(measure("--force"))
    assert load_histogram(kept).draft_length == 4
    user_error(measure("--out-dir", "prompts.jsonl"), "--out-dir", "not a writable folder")


def test_an_input_is_never_an_output(run, user_error, random_pair, tmp_path: Path) -> None:
    precious = '{"prompt": "w1", "output": "w2"}\n'
    (tmp_path / "trace.json").write_text(precious)
    (tmp_path / "accept_hist_k4.json").write_text(precious)
    pair = ("--target", random_pair[0], "--draft", random_pair[1])
    for option, name, models in (
        ("--prompts", "trace.json", pair),
        ("--texts", "trace.json", pair),
        ("--trace", "accept_hist_k4.json", ()),
    ):
        user_error(run("measure-acceptance", *models, option, name, "--force"), f"is the file of {option} too")
        assert (tmp_path / name).read_text() == precious


def test_an_import_counts_and_names_what_it_skips(run, tmp_path: Path) -> None:
    good = json.dumps({"question_id": 1, "choices": [{"turns": ["a"], "accept_lengths": [1, 3, 2]}]})
    (tmp_path / "s.jsonl").write_bytes(f"{good}\ngarbage{{\n".encode() + b"\xff\n" + good.encode() + b"\n")
    done = succeeded(run("measure-acceptance", "import", "--from", "spec-bench", "s.jsonl"))
    assert "skipped 2 records, line 2 (not JSON), 3 (not UTF-8 text)" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 100
    record = json.loads((tmp_path / "accept_hist_k2.json").read_text())
    assert record["hist"] == {"0": 2, "1": 2, "2": 2}
    assert record["metrics"]["tokens_per_round"] == 2
    assert "tokens that each step emitted" in record["definition"]
    succeeded(run("simulate", "--hist", "accept_hist_k2.json", "--draftN", 2))


def test_a_draft_length_that_changed_gives_a_histogram_of_each(run, user_error, tmp_path: Path) -> None:
    longer, shorter = [Round(3, 3)] * 6 + [Round(3, 0)] * 4, [Round(1, 1)] * 60 + [Round(1, 0)] * 30
    write(tmp_path / "r.jsonl", vllm_response(longer + shorter, 3))
    write(tmp_path / "server.log", log_line(longer, k=3), log_line(shorter, k=1))
    for file in ("r.jsonl", "server.log"):
        done = succeeded(run("measure-acceptance", "import", file, "--out-dir", file[:1]))
        assert done.stdout.count("one of several draft lengths of the file") == 2
        for k, counts in ((1, {"0": 30, "1": 60}), (3, {"0": 4, "1": 0, "2": 0, "3": 6})):
            assert json.loads((tmp_path / file[:1] / f"accept_hist_k{k}.json").read_text())["hist"] == counts
        assert json.loads(run("simulate", "--hist", file[:1], "--draftN", 1, "--json").stdout)["tokens_per_round"] > 1
        user_error(run("measure-acceptance", "import", file, "--out-dir", file[:1]), "--out", "exists")
        found = json.loads(run("measure-acceptance", "import", file, "--out-dir", "other" + file[:1], "--json").stdout)
        assert [one["k"] for one in found["imports"]] == [1, 3]
        assert len(found["files"]) == 2
        # One file holds one of them.
        user_error(run("measure-acceptance", "import", file, "--out", "one.json"), "expected --k 1 or --k 3")
        assert not (tmp_path / "one.json").exists()
    # As a kill between the two leaves it.
    (tmp_path / "r/accept_hist_k3.json").unlink()
    user_error(run("simulate", "--hist", "r", "--draftN", 1), "accept_hist_k3.json of this measurement is missing")


def test_rates_by_hand_become_a_histogram_whose_answer_has_no_interval(run, user_error, tmp_path: Path) -> None:
    for where in (("--out-dir", "new/folder"), ("--out", ".", "--json")):
        done = succeeded(run("measure-acceptance", "import", "--rates", "0.72,0.55,0.42,0.33", *where))
    assert json.loads(done.stdout)["tokens_per_round"] == pytest.approx(3.02)
    for path in ("new/folder/accept_hist_k4.json", "accept_hist_k4.json"):
        assert load_histogram(tmp_path / path).is_law
        said = succeeded(run("simulate", "--hist", path, "--draftN", 4, "--draft-cost", 0.1)).stdout
        assert said.splitlines()[0] == "If these rates hold: 2.15x as fast at K = 4, 54% less time a token."
        assert "probabilities, of an unknown number of rounds: no interval follows" in said
    for options, message in (
        ((), "FILE: nothing to import, expected a file of another tool, or --rates"),
        (("x", "--rates", "0.5"), "FILE: not used with --rates"),
        (("nowhere.txt",), "FILE nowhere.txt: no such file"),
        (("",), "FILE: the name is empty"),
        (("--rates", "0.5", "--out", "a.json", "--out-dir", "b"), "--out-dir: not used with --out"),
        (("--rates", "0.72,0.55,0.42,0.33"), "accept_hist_k4.json: exists already"),
    ):
        user_error(run("measure-acceptance", "import", *options), message)


def test_decode_steps_without_a_draft_follow_the_histogram_into_a_forecast(run, tmp_path: Path) -> None:
    counted = {"num_drafts": 20, "num_draft_tokens": 20, "num_accepted_tokens": 15}
    lines = [f"vllm:spec_decode_{name}_total {n}" for name, n in counted.items()]
    lines += ['vllm:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 15']
    lines += ["vllm:generation_tokens_total 67", "vllm:request_success_total 2"]
    (tmp_path / "metrics.txt").write_text("\n".join(lines) + "\n")
    said = succeeded(run("measure-acceptance", "import", "metrics.txt")).stdout
    assert "taken for vllm-metrics by its content" in said
    assert "at least 30 decode steps (60.0% of all)" in said
    record = json.loads((tmp_path / "accept_hist_k1.json").read_text())
    assert record["metrics"]["steps_without_draft"] == 30
    said = succeeded(run("simulate", "--hist", "accept_hist_k1.json", "--draftN", 1)).stdout
    assert "(at least 30 decode steps without a draft are not in it)" in said
    assert said.startswith("If every step had a draft (60% had none), at draft cost 0.1: 1.")


def test_json_holds_every_metric_with_its_interval_and_the_loop_of_the_draft_that_was_asked_for(measure) -> None:
    options = ("--temperature", 1, "--k", "1,2", "--check-loop", 20, "--json", "--force")
    loops, speedups = [], []
    for kind, cost in (("sampled", 0), ("greedy", 0), ("greedy", 1)):
        found = json.loads(measure(*options, "--q-kind", kind, "--draft-cost", cost).stdout)
        assert found["metrics"].keys() == {"1", "2"}
        metrics = found["metrics"]["2"]
        low, high = metrics["ci95"]["tokens_per_round"]
        assert low <= metrics["tokens_per_round"] <= high
        assert len(metrics["ci95"]["survival"]) == 2
        loop, trace = (found["loop_check"][f"{which}_tokens_per_round"] for which in ("loop", "trace"))
        width = trace["ci95"][1] - trace["ci95"][0]
        assert abs(loop["value"] - trace["value"]) < 2 * width
        assert trace["value"] == pytest.approx(metrics["tokens_per_round"], abs=width)
        loops.append(loop)
        rates = found["synthetic_acceptance"]["2"]["vllm"]["synthetic_acceptance_rates"]
        assert 1 + sum(rates) == pytest.approx(metrics["tokens_per_round"])
        assert found["alpha"].keys() == {"sampled", "greedy"}
        assert found["loop_check"]["prompts"] == 20
        speedups.append(found["policies"]["fixed 2"]["speedup"][0])
    assert loops[0] != loops[1]
    assert speedups[1] > speedups[2] > 0  # what a draft costs reaches the policies


def block(tmp_path: Path, library: str) -> str:
    """Return a folder that keeps a process from importing a library."""
    (tmp_path / "blocked" / library).mkdir(parents=True)
    why = f"raise ModuleNotFoundError('No module named {library}', name='{library}')"
    (tmp_path / "blocked" / library / "__init__.py").write_text(why)
    return str(tmp_path / "blocked")


def test_without_its_libraries_it_says_how_to_get_them(
    run, run_real, user_error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 'is not installed; running the models of measure-acceptance needs it: pip install "specsim[measure]"'
    user_error(run_real("measure-acceptance", PYTHONPATH=block(tmp_path, "torch")), f"torch {told}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    user_error(run("measure-acceptance"), f"transformers {told}")


def test_the_report_and_the_picture_say_everything(measure, tmp_path: Path, prompts: Path) -> None:
    records = [{"prompt": f"w{i} w{i + 1}", "category": "ab"[i % 2]} for i in range(20)]
    prompts.write_text("".join(json.dumps(r) + "\n" for r in records))
    done = succeeded(measure("--k", "1:3", "--temperature", 1, "--report", "--plot", "a.png", "--check-loop", 4))
    for text in (
        *("from a sampled draft", "from a greedy one", "By position in the draft, K = 3", "By category, K = 3"),
        *("along the output", "by context length", "Hugging Face heuristic, from 20", "oracle  "),
        *("mean acceptance length (vLLM", "synthetic_acceptance_rates", "SGLANG_SIMULATE_ACC_LEN="),
        *("Checked against the speculative loop, K = 3, 4 prompts", "wrote a.png"),
    ):
        assert text in done.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_trace_answers_more_questions_without_models(
    measure, run, run_real, user_error, tmp_path: Path
) -> None:
    succeeded(measure("--temperature", 1, "--out-dir", "a"))
    options = ("--trace", "a/trace.json", "--k", "1:6", "--q-kind", "greedy", "--out-dir", "b", "--report")
    done = succeeded(run_real("measure-acceptance", *options, PYTHONPATH=block(tmp_path, "torch")))
    assert "greedy draft" in done.stdout
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [f"accept_hist_k{k}.json" for k in range(1, 7)]
    trace, parameters = load_trace(tmp_path / "a/trace.json")
    path = tmp_path / "b/accept_hist_k6.json"
    assert load_histogram(path).counts == expected_rounds(trace, 6, "greedy").histogram.counts
    assert json.loads(path.read_text())["parameters"]["target"] == parameters["target"]
    user_error(run("measure-acceptance", "--trace", "a/trace.json", "--k", 17), "--k: 17 is above the longest output")
    user_error(run("measure-acceptance", "--trace", "a/trace.npz"), "a/trace.npz: a ZIP archive, not text")


def test_logged_texts_are_scored_without_writing(measure, tmp_path: Path, run, random_pair) -> None:
    succeeded(measure("--out-dir", "a"))
    trace, _ = load_trace(tmp_path / "a/trace.json")
    outputs = [trace.token[trace.prompt == i].tolist() for i in range(20)]
    lines = [{"prompt": f"w{i} w{i + 1} w{i % 7}", "output_token_ids": tokens} for i, tokens in enumerate(outputs)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "broken\n")
    options = ("--target", random_pair[0], "--draft", random_pair[1], "--texts", "log.jsonl", "--out-dir")
    done = succeeded(run("measure-acceptance", *options, "b"))
    assert "skipped 1 of 21 records, line 21 (not JSON)" in done.stdout
    first, second = (json.loads((tmp_path / d / "accept_hist_k4.json").read_text())["hist"] for d in "ab")
    assert first == second
    # The same text said to be of temperature 1 is noticed.
    hot = run("measure-acceptance", *options, "c", "--temperature", 1)
    assert "the text surprises the target less than its own would" in hot.stdout


def test_another_tokenizer_is_an_approximation_wherever_it_appears(
    measure, run, tmp_path: Path, other_vocabulary: Path
) -> None:
    label = "approximation: string-level match of different tokenizers"
    options = ("--draft", other_vocabulary, "--cross-tokenizer", "text", "--plot", "a.svg", "--report")
    done = succeeded(measure(*options))
    assert label in done.stdout
    assert "confidence" not in done.stdout
    for name in ("trace.json", "accept_hist_k4.json"):
        assert json.loads((tmp_path / name).read_text())["parameters"]["approximation"] == label
    hist = ("--hist", "accept_hist_k4.json")
    assert label in run("simulate", *hist).stdout
    assert label in run("simulate", *hist, "--no-measured", "--json").stdout
    assert label in run("sweep", *hist, "--draftN", "1:4", "--out", "s.csv").stdout
    assert label in (tmp_path / "s.csv").read_text()
