"""`measure-acceptance` as a user meets it: real subprocesses, a real pair, and bad input."""

import json
from pathlib import Path

import pytest

from acceptance.estimators import acceptance_histogram
from acceptance.trace import load_trace
from simulator.histogram import load_histogram


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(20)))
    return path


@pytest.fixture
def measure(run, random_pair: tuple[Path, Path], prompts: Path):
    def call(*arguments: object, **env: str):
        target, draft = random_pair
        told = ("--target", target, "--draft", draft, "--prompts", prompts, "--max-new-tokens", 16)
        return run("measure-acceptance", *told, *arguments, **env)

    return call


def test_a_range_of_k_from_one_trace_and_simulate_takes_the_file(measure, run, tmp_path: Path) -> None:
    done = measure("--k", "1:4", "--out-dir", "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    trace = load_trace(tmp_path / "out" / "trace.json")
    assert len(trace.accept) == 20 * 16
    for k in range(1, 5):
        histogram = load_histogram(tmp_path / "out" / f"accept_hist_k{k}.json")
        assert histogram.counts == acceptance_histogram(trace, k).counts
        assert f"{histogram.tokens_per_round:.3f}" in done.stdout
        assert f"wrote out/accept_hist_k{k}.json" in done.stdout
    assert run("simulate", "--draftN", 4, "--hist", "out/accept_hist_k4.json").returncode == 0


def test_the_file_names_its_origin_and_the_kind_of_draft(measure, tmp_path: Path, random_pair) -> None:
    assert measure("--temperature", 0.8, "--seed", 5).returncode == 0
    found = json.loads((tmp_path / "accept_hist_k4.json").read_text())
    told = found["parameters"]
    assert (told["target"], told["draft"]) == tuple(map(str, random_pair))
    assert (told["temperature"], told["seed"], told["q_kind"], told["k"]) == (0.8, 5, "sampled", 4)
    assert found["metrics"]["tokens_per_round"] > 1
    assert sum(found["hist"].values()) == pytest.approx(found["samples"])


def test_json_and_the_same_seed_the_same_bytes(measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    outputs = [measure("--temperature", 1, "--json", "--out-dir", name) for name in ("a", "b")]
    first, second = (json.loads(o.stdout) for o in outputs)
    assert first["metrics"] == second["metrics"]
    assert (tmp_path / "a/accept_hist_k4.json").read_bytes() == (tmp_path / "b/accept_hist_k4.json").read_bytes()


def test_plain_text_prompts_a_line_each(measure, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("w1 w2\n\nw3\n")
    assert measure("--prompts", "p.txt", "--k", 2).returncode == 0
    assert load_trace(tmp_path / "trace.json").prompts == 2


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
    (("--prompts", "absent.jsonl"), "absent.jsonl: no such file"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_OPTIONS)
def test_a_bad_option_is_one_line(measure, user_error, arguments: tuple, message: str) -> None:
    user_error(measure(*arguments), message)


def test_models_that_do_not_fit_are_one_line(measure, user_error, other_vocabulary: Path) -> None:
    user_error(measure("--draft", other_vocabulary), "vocabulary differs", "expected the same tokenizer")
    user_error(measure("--target", "./absent"), "--target ./absent: no such folder")


def test_a_broken_prompt_line_is_named(measure, user_error, prompts: Path) -> None:
    prompts.write_text('{"prompt": "w1"}\n{"text": "w2"}\n')
    user_error(measure(), f'{prompts}:2: no text under "prompt"')


def test_existing_results_are_kept_unless_forced(measure, user_error, tmp_path: Path) -> None:
    kept = tmp_path / "accept_hist_k4.json"
    kept.write_text("precious")
    user_error(measure(), "accept_hist_k4.json: exists already (--force overwrites it)")
    assert kept.read_text() == "precious"
    assert not (tmp_path / "trace.npz").exists()
    assert measure("--force").returncode == 0
    assert load_histogram(kept).k == 4


def test_an_unwritable_folder_is_refused_before_any_work(measure, user_error, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    user_error(measure("--out-dir", "file"), "--out-dir", "not a writable folder")


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_without_its_libraries_it_says_how_to_get_them(measure, user_error, tmp_path: Path, library: str) -> None:
    blocked = tmp_path / "blocked" / library
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text(f"raise ModuleNotFoundError('No module named {library}', name='{library}')")
    done = measure(PYTHONPATH=str(blocked.parent))
    user_error(done, f"{library} is not installed", 'pip install "specsim[measure]"')
