"""Presets: the bundled ones are sound, every mistake is one line, knobs agree with what methods take."""

from dataclasses import fields
from pathlib import Path

import pytest

from acceptance.bench.cli import bench_decode
from acceptance.bench.presets import BUNDLED_PRESETS, check_methods, load_presets
from acceptance.bench.settings import KNOBS, Arm
from acceptance.decoders.method import Options
from acceptance.decoders.methods import METHODS
from acceptance.rule import SamplingRule
from simulator.artefacts import UserError

PARAMETERS = {p.name: p for p in bench_decode.params if p.name}


def load(tmp_path: Path, text: str):
    (tmp_path / "p.toml").write_text(text)
    return load_presets(tmp_path / "p.toml", PARAMETERS)


def test_knobs_are_the_options_of_methods_with_their_defaults() -> None:
    told = Options(draft_rule=SamplingRule(temperature=0.0))
    assert KNOBS.keys() == {f.name for f in fields(Options)} - {"draft_rule"}
    for name, knob in KNOBS.items():
        assert getattr(told, name) == knob.default
        assert name in PARAMETERS


def test_the_bundled_presets_are_sound() -> None:
    presets = load_presets(BUNDLED_PRESETS, PARAMETERS)
    check_methods(presets, METHODS)
    assert {"quick", "draft-lengths", "lossy"} <= presets.experiments.keys()


def test_an_experiment_brings_its_models_and_its_own_options_win(tmp_path: Path) -> None:
    presets = load(
        tmp_path,
        """
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
        """,
    )
    found = presets.options("e")
    assert found == {"target": "T", "inflate_target": 2.0, "method": "long,ngram", "runs": 3, "require_headless": True}
    assert presets.methods["long"] == Arm(name="long", method="speculative", knobs={"k": 9})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model.a]", "'model' is not known"),
        ("models = 1", "models holds no tables"),
        ("[models]\na = 1", "models holds no tables"),
        ("[models.a]\ntarget = ", "not TOML"),
        ("[models.a]\nruns = 3", "models.a.runs: not known"),
        ("[models.a]\ntarget = true", "models.a.target: True is not allowed"),
        ("[models.a]\ndtype = 'int8'", "models.a.dtype: 'int8' is not one of"),
        ("[methods.a]\nk = 3", "methods.a.method: None"),
        ("[methods.a]\nmethod = 'ngram'\nn = 3", "methods.a.n: not known"),
        ("[methods.a]\nmethod = 'ngram'\nk = 0", "methods.a.k: 0 is not allowed, expected a whole number from 1"),
        ("[methods.a]\nmethod = 'ngram'\nk = 2.5", "methods.a.k: 2.5"),
        ("[methods.a]\nmethod = 'ngram'\nk = 4.0", "methods.a.k: 4.0"),
        ("[methods.a]\nmethod = 'ngram'\nk = true", "methods.a.k: True"),
        ("[methods.a]\nmethod = 'ngram'\ntau = nan", "methods.a.tau: nan"),
        ("[methods.a]\nmethod = 'adaptive'\nmin_k = 9", "min-k: 9 is above"),
        ("[methods.'a,b']\nmethod = 'ngram'", "without commas"),
        ("[methods.all]\nmethod = 'ngram'", "not all"),
        ("[experiments.e]\nmodels = 'b'", "experiments.e.models: 'b'"),
        ("[experiments.e]\nmethods = 'ngram'", "expected a list of names"),
        ("[experiments.e]\nmethods = []", "expected a list of names"),
        ("[experiments.e]\nruns = 0", "experiments.e.runs: 0 is not in the range"),
        ("[experiments.e]\nruns = 2.5", "experiments.e.runs: '2.5' is not a valid"),
        ("[experiments.e]\nruns = true", "experiments.e.runs: True"),
        ("[experiments.e]\nruns = [1]", "experiments.e.runs: [1]"),
        ("[experiments.e]\ndeterministic = 1", "expected true or false"),
        ("[experiments.e]\nout = 'x'", "experiments.e.out: not known"),
        ("[experiments.e]\nforce = true", "experiments.e.force: not known"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert "p.toml" in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["[methods.a]\nmethod = 'guess'", "[experiments.e]\nmethods = ['guess']", "[experiments.e]\nmethods = ['a,b']"],
)
def test_methods_that_do_not_exist_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is not allowed, expected"):
        check_methods(load(tmp_path, text), METHODS)


def test_an_experiment_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--experiment: 'x' is not in .*, expected e"):
        load(tmp_path, "[experiments.e]\nruns = 1").options("x")
