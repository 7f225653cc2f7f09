"""Presets: the bundled ones are sound, every mistake is one line, knobs agree with what methods take."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from acceptance.bench.load import arms_of, placed, trained_folders
from acceptance.bench.options import DecodeOptions
from acceptance.bench.presets import BUNDLED_PRESETS, check_given_knobs, check_methods, load_presets
from acceptance.cli.bench_decode import bench_decode
from acceptance.decoders import heads
from acceptance.decoders.batch import Task
from acceptance.decoders.judge import judge
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.models.bundled import TINY_PAIR
from acceptance.models.load import load_pair
from acceptance.models.rule import SamplingRule
from acceptance.results.settings import ALGORITHMS, KNOBS, Arm
from simulator.ground.artefacts import UserError

PARAMETERS = {p.name: p for p in bench_decode.params if p.name}


def load(tmp_path: Path, text: str):
    (tmp_path / "p.toml").write_text(text)
    return load_presets(tmp_path / "p.toml", PARAMETERS)


def check(tmp_path: Path, text: str) -> None:
    check_methods(load(tmp_path, text))


def test_options_of_prompts_go_by_their_names_in_files_too(tmp_path: Path) -> None:
    for prompts, form in (("prompts", "format"), ("dataset", "dataset_format")):
        found = load(tmp_path, f"[experiments.e]\n{prompts} = 'p.csv'\n{form} = 'csv'\ncolumn = 'task'\n")
        assert found.values_of("e") == {"dataset": "p.csv", "dataset_format": "csv", "column": "task"}


def test_knobs_are_the_options_of_methods_and_the_bundled_presets_are_sound() -> None:
    options = Options(draft_rule=SamplingRule(temperature=0.0))
    assert KNOBS.keys() == {f.name for f in fields(Options)} - {"draft_rule", "sampler"} <= PARAMETERS.keys()
    assert all(getattr(options, name) == knob.default for name, knob in KNOBS.items())
    presets = load_presets(BUNDLED_PRESETS, PARAMETERS)
    check_methods(presets)
    assert {"quick", "draft-lengths", "lossy"} <= presets.experiments.keys()


MINE = """
[models.a]
target = "T"
inflate_target = 4
[methods.long]
method = "speculative"
k = 9
[experiments.e]
models = "a"
methods = ["long", "ngram"]
inflate_target = 2
runs = 3
require_headless = true
"""


def test_an_experiment_brings_its_models_and_its_own_options_win(tmp_path: Path) -> None:
    presets = load(tmp_path, MINE)
    found = presets.values_of("e")
    assert found == {"target": "T", "inflate_target": 2.0, "method": "long,ngram", "runs": 3, "require_headless": True}
    assert presets.methods["long"] == Arm(name="long", method="speculative", knobs={"k": 9})
    with pytest.raises(UserError, match=r"--experiment: 'x' is not in .*, expected e"):
        presets.values_of("x")


MISTAKES = [
    ("[model.a]", "'model' is not known"),
    ("models = 1", "models holds no tables"),
    ("[models]\na = 1", "models holds no tables"),
    ("[models.a]\ntarget = ", "not TOML"),
    ("[models.a]\nruns = 3", "models.a.runs: not known"),
    ("[models.a]\ntarget = true", "models.a.target: True is not allowed"),
    ("[models.a]\ndtype = 'int8'", "models.a.dtype: 'int8' is not allowed, expected one of"),
    ("[methods.a]\nk = 3", "methods.a.method: None"),
    ("[methods.a]\nmethod = 'ngram'\nn = 3", "methods.a.n: not known"),
    ("[methods.a]\nmethod = 'ngram'\nk = 0", "methods.a.k: 0 is not allowed, expected a whole number from 1"),
    ("[methods.a]\nmethod = 'ngram'\nk = 4.0", "methods.a.k: 4.0"),
    ("[methods.a]\nmethod = 'ngram'\nk = true", "methods.a.k: True"),
    ("[methods.a]\nmethod = 'ngram'\ntau = nan", "methods.a.tau: nan"),
    ("[methods.a]\nmethod = 'adaptive'\nmin_k = 9", "min-k: 9 is above"),
    ("[methods.'a,b']\nmethod = 'ngram'", "methods: the name 'a,b' is not allowed, expected a plain word"),
    ("[methods.'']\nmethod = 'ngram'", "methods: the name '' is not allowed"),
    ("[methods.' x']\nmethod = 'ngram'", "methods: the name ' x' is not allowed"),
    ('[models."a\\nb"]', r"models: the name 'a\nb' is not allowed"),
    ("[experiments.'a b']", "experiments: the name 'a b' is not allowed"),
    ("version = true", "version is True, expected 1"),
    ("version = 2", "version is 2, expected 1"),
    ("[experiments.e]\nversion = true", "experiments.e.version: not known"),
    ("[methods.all]\nmethod = 'ngram'", "not all"),
    ("[experiments.e]\nmodels = 'b'", "experiments.e.models: 'b'"),
    ("[experiments.e]\nmethods = 'ngram'", "expected a list of names"),
    ("[experiments.e]\nmethods = []", "expected a list of names"),
    ("[experiments.e]\nmethods = ['ngram', 'topk', 'ngram']", "experiments.e.methods: 'ngram' is there twice"),
    ("[experiments.e]\nruns = 0", "experiments.e.runs: 0 is not allowed, expected a whole number from 1 to 10000"),
    ("[experiments.e]\nruns = 2.5", "experiments.e.runs: 2.5 is not allowed, expected a whole number"),
    ("[experiments.e]\nruns = true", "experiments.e.runs: True"),
    ("[experiments.e]\nruns = [1]", "experiments.e.runs: [1]"),
    ("[experiments.e]\ndeterministic = 1", "expected true or false"),
    ("[experiments.e]\ntemperature = nan", "experiments.e.temperature: nan is not allowed"),
    ("[experiments.e]\ntemperature = -1", "experiments.e: --temperature: -1 is not allowed"),
    ("[experiments.e]\ndraft_temperature = -1", "experiments.e: --draft-temperature: -1 is not allowed"),
    ("[experiments.e]\ntop_k = -1", "experiments.e: --top-k: -1 is not allowed"),
    ("[experiments.e]\ntop_p = 7", "experiments.e.top_p: 7 is not allowed"),
    ("[experiments.e]\ntau = nan", "experiments.e.tau: nan is not allowed"),
    ("[experiments.e]\ninflate_target = 0", "experiments.e: --inflate-target: 0 is not allowed"),
    ("[experiments.e]\nplacement = 'foo'", "experiments.e: --placement: 'foo' is not one"),
    ("[experiments.e]\nplacement = 'ratio 0:1'", "experiments.e: --placement: 'ratio 0:1' is not one"),
    ("[experiments.e]\nmin_k = 9\nmax_k = 3", "experiments.e: --min-k: 9 is above --max-k"),
    ("[experiments.e]\ntask = 'bundled'\ndataset = 'x'", "experiments.e: --task: stands in place of --prompts"),
    ("[models.a]\ninflate_target = nan", "models.a.inflate_target: nan is not allowed"),
    ("[models.a]\nplacement = 'foo'", "models.a: --placement: 'foo' is not one"),
    (
        "[methods.m]\nmethod = 'adaptive'\nmin_k = 5\n[experiments.e]\nmethods = ['m']\nmax_k = 3",
        "experiments.e: --min-k: 5 is above",
    ),
    ("[experiments.e]\nout = 'x'", "experiments.e.out: not known"),
    ("[experiments.e]\nforce = true", "experiments.e.force: not known"),
    ("[methods.baseline]\nmethod = 'topk'", "p.toml: methods.baseline: is the name of a built-in method"),
    ("[methods.topk]\nmethod = 'topk'", "p.toml: methods.topk: is the name of a built-in method"),
    ("[models.a]\ninflate_target = 1e9", "models.a.inflate_target: 1e+09 is not allowed, expected 1 to 1000"),
    ("[methods.a]\nmethod = 'guess'", "is not allowed, expected"),
    ("[experiments.e]\nmethods = ['guess']", "is not allowed, expected"),
    ("[experiments.e]\nmethods = ['a,b']", "is not allowed, expected"),
    ("[methods.a]\nmethod = 'topk'\ntau = 0.5", "methods.a.tau: not used by topk, expected k, rank"),
    ("[methods.a]\nmethod = 'baseline'\nk = 2", "methods.a.k: not used by baseline, expected none"),
    ("[methods.a]\nmethod = 'anpd'\nfiller_top_k = 2", "methods.a.filler_top_k: not used by anpd, expected k, ngram"),
]


def test_mistakes_are_named(tmp_path: Path) -> None:
    for text, expected in MISTAKES:
        with pytest.raises(UserError, match=re.escape(expected)) as error:
            check(tmp_path, text)
        assert "\n" not in str(error.value)
        assert "p.toml" in str(error.value)


def test_what_some_machine_takes_is_good(tmp_path: Path) -> None:
    for placement in ("same", "separate", "auto", "ratio 6:2"):
        check(tmp_path, f"[experiments.e]\nplacement = '{placement}'")
    check(tmp_path, "version = 1")
    check(tmp_path, "[experiments.e]\ntask = 'bundled'")
    # An experiment's knob is what its methods make of it.
    check(tmp_path, "[methods.m]\nmethod = 'adaptive'\nmax_k = 16\n[experiments.e]\nmethods = ['m']\nmin_k = 9")


class Heard:
    """Options that note which of them are read."""

    def __init__(self) -> None:
        self.options, self.read = Options(draft_rule=SamplingRule(temperature=0.0)), set()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self.options, name)


@pytest.fixture(scope="module")
def bundled() -> Models:
    pair = load_pair(str(TINY_PAIR / "target"), str(TINY_PAIR / "draft"), device="cpu", dtype="float32")
    folders = {"medusa": heads.BUNDLED / "medusa", "eagle": heads.BUNDLED / "eagle", "judge": judge.BUNDLED}
    return Models(target=pair.target, draft=pair.draft, **folders)


@pytest.mark.parametrize("name", METHODS)
def test_the_knobs_of_a_method_are_those_that_it_reads(bundled: Models, name: str) -> None:
    heard = Heard()
    task = Task(rule=heard.options.draft_rule, max_new_tokens=4, rngs=[np.random.default_rng(0)])
    METHODS[name].begin(bundled, heard)([[1, 2, 3]], task)
    # The draft stops by it in one of the three that choose lengths; the others only check it.
    checked = {"least_confidence"} if name in ("adaptive", "heuristic") else set()
    assert heard.read - {"draft_rule", "sampler"} - checked == set(ALGORITHMS[name].knobs)
    assert "sampler" in heard.read or not ALGORITHMS[name].sampler


@pytest.mark.parametrize("name", ["max_prompts", "max_new_tokens", "runs", "batch_size"])
def test_options_of_a_library_call_are_checked_as_those_of_the_command(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is 0, expected at least 1"):
        DecodeOptions(**{name: 0})


def test_the_command_refuses_a_file_without_experiments_and_a_preset_named_baseline(run, user_error, tmp_path) -> None:
    (tmp_path / "p.toml").write_text("[methods.a]\nmethod = 'ngram'")
    done = run("bench-decode", "validate-config", "p.toml")
    user_error(done, "p.toml: holds no experiments, expected [experiments.NAME]")
    (tmp_path / "p.toml").write_text("[methods.baseline]\nmethod = 'topk'")
    expected = "methods.baseline: is the name of a built-in method"
    user_error(run("bench-decode", "validate-config", "p.toml"), expected)
    user_error(run("bench-decode", "--config", "p.toml", "--method", "baseline", "--device", "cpu"), expected)


def test_knobs_of_the_command_line_are_refused_beside_methods_that_set_them(tmp_path: Path) -> None:
    text = "".join(f"[methods.k{k}]\nmethod = 'speculative'\nk = {k}\n" for k in (1, 4))
    presets = load(tmp_path, f"{text}[methods.far]\nmethod = 'ngram'\nngram = 5")
    with pytest.raises(UserError, match=r"^--k: not used with k1, k4, which set it themselves in a preset$"):
        check_given_knobs(presets, "k1, ngram,k4,far", ["k"])
    check_given_knobs(presets, "far,speculative", ["k", "tau"])
    check_given_knobs(presets, "all", ["k"])
    check_given_knobs(None, "ngram", ["k"])


def test_names_become_arms_each_once_behind_the_baseline() -> None:
    several = [("ngram, baseline,ngram", ["baseline", "ngram"]), ("topk", ["baseline", "topk"]), ("all", [*METHODS])]
    for names, expected in several:
        assert [arm.name for arm in arms_of(DecodeOptions(method=names), None)] == expected
    for names in ("", "speculativ", "baseline,"):
        with pytest.raises(UserError, match=r"^--method: '.*' is not allowed, expected one of 20, nearest: "):
            arms_of(DecodeOptions(method=names), None)


def test_a_device_or_folder_that_is_not_here_is_told_by_its_option(tmp_path: Path) -> None:
    for name in ("target_device", "draft_device", "device"):
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: 'meta' is not here"):
            placed(DecodeOptions(**{"device": "cpu", name: "meta"}))
    for name in ("device", "target_device"):  # the processor is cpu by whatever index
        found = placed(DecodeOptions(**{"device": "cpu", name: "cpu:7"}))
        assert (found.target, found.draft) == (("cpu",), ("cpu",))
    for name in ("medusa", "eagle", "judge"):
        with pytest.raises(UserError, match=rf"^--{name} .*none: no such folder"):
            trained_folders(DecodeOptions(**{name: tmp_path / "none"}))
