"""The registry of published acceptance: its schema, the arithmetic of every entry, and what forecasts take from it."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from simulator.costs.drafters.methods import methods
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.schema import breaches, checker, load_schema
from simulator.rounds.pairs import FILE, ROUNDING, Curve, curves, parse, published, survivals
from simulator.rounds.tail import Weibull

MODELS = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b")
PAIR = "eagle3-llama-3.1-8b:mtbench"
BLOCK = "dflash-qwen3-8b-block7"
SOUND = {
    "method": "eagle3",
    "target": "a target",
    "draft": "a head",
    "source": "a table, somewhere",
    "at": "https://example.org",
    "licence": "MIT",
}


def entry(task: dict, **more) -> Field:
    return Field({"pair": {**SOUND, "tasks": {"task": task}, **more}}, "pairs.toml")


def test_the_registry_is_of_its_schema_and_large_enough() -> None:
    schema = checker(load_schema(FILE.with_name("pairs.schema.json")))
    assert list(breaches(schema, tomllib.loads(FILE.read_text()))) == []
    assert list(breaches(schema, {"pair": {**SOUND, "tasks": {"task": {"tokens": [2]}}}}))
    assert len(curves()) >= 60
    assert {c.method for c in curves()} <= set(methods())
    assert all(c.source and c.licence and c.at.startswith("https://") for c in curves())
    assert len({(c.pair, c.task) for c in curves()}) == len(curves())


def test_what_entries_accept_is_what_was_published() -> None:
    for curve in curves():
        check_figures(curve)


def check_figures(curve: Curve) -> None:
    acceptance = curve.acceptance
    assert acceptance.longest == curve.longest
    told = dict(zip(curve.lengths, curve.tokens, strict=True))
    for k in curve.known:
        expected = curve.tokens_at(k)
        assert acceptance.tokens_per_round(np.array([k]))[0] == pytest.approx(expected, abs=2e-6)
        assert abs(told.get(k, expected) - expected) <= ROUNDING
        assert 1 <= expected <= k + 1
    for h in acceptance.histograms:
        assert (np.diff(np.concatenate(([1.0], h.survival))) <= 1e-12).all()


def test_tokens_of_a_weibull_law_give_it_back() -> None:
    law = Weibull(np.array(0.8), np.array(1.2)).survival(np.arange(1, 8))
    for lengths in ((3, 5, 7), (1, 2, 3, 4, 5, 6, 7), (2, 7)):
        found = survivals(lengths, [1 + law[:k].sum() for k in lengths])
        assert found[-1] == pytest.approx(law, abs=2e-3)
    assert survivals((3,), (1 + 0.5 + 0.25 + 0.125,))[0] == pytest.approx([0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"survival": [0.8, 0.5], "tokens": [2.5]}, "tokens is [2.5], expected 2.30, 1 and the sum of survival"),
        ({"survival": [0.5, 0.8]}, "survival is [0.5, 0.8], expected shares that fall"),
        ({"lengths": [3], "tokens": [4.5]}, "expected at most K + 1 at each draft length"),
        ({"lengths": [3, 5], "tokens": [2.5]}, "expected as many as lengths"),
        ({"lengths": [5, 3], "tokens": [3, 2]}, "expected draft lengths that rise"),
        ({"lengths": [3], "tokens": [2.5], "taus": [1]}, "pair.tasks.task.taus is not a key"),
        ({"alpha": 1.2, "lengths": [3]}, "alpha is 1.2, expected a number from 0 to 1"),
    ],
)
def test_an_entry_that_is_wrong_is_refused(task, words) -> None:
    with pytest.raises(UserError) as error:
        parse(entry(task))
    assert words in str(error.value)
    assert str(error.value).startswith("pairs.toml: pair.tasks.task")


def test_a_forecast_by_a_pair_says_whose_it_is(run) -> None:
    found = json.loads(run("simulate", *MODELS, "--method", "eagle3", "--acceptance", PAIR, "--json").stdout)
    label = "EAGLE-3 for Llama-3.1-8B-Instruct, mtbench (SpecBundle)"
    assert (found["basis"]["acceptance"], found["basis"]["condition"]) == ("published", f"if it accepts as {label}")
    assert found["basis"]["acceptance_text"] == f"published, {label}: measure yours (--hist FILE)"
    assert found["parameters"]["acceptance_published"] == label
    assert not found["parameters"]["measured"]
    swept = run("sweep", *MODELS, "--method", "eagle3", "--acceptance", PAIR, "--draftN", "1:7", "--replications", "0")
    assert f"\nIf it accepts as {label}" in swept.stdout


def test_one_method_takes_what_several_do(run) -> None:
    alpha = [run("simulate", *words).stdout for words in (("--acceptance", "70%"), ("--alpha", "0.7"))]
    assert alpha[0] == alpha[1] != ""
    file = str(Path(__file__).parents[2] / "examples/accept_hist_k4.json")
    assert run("simulate", "--acceptance", file).stdout == run("simulate", "--hist", file).stdout != ""
    swept = [
        run("sweep", *words, "--replications", "0").stdout for words in (("--acceptance", "0.7"), ("--alpha", "0.7"))
    ]
    assert swept[0] == swept[1] != ""
    several = ("--method", "eagle3,ngram", "--acceptance", f"eagle3={PAIR}", "--acceptance", "ngram=0.3")
    told = json.loads(run("simulate", *MODELS, *several, "--compare", "--json", "--extrapolate").stdout)
    sources = {m["method"]: m["acceptance"] for m in told["methods"]}
    assert sources["eagle3"] == "published, EAGLE-3 for Llama-3.1-8B-Instruct, mtbench (SpecBundle)"


def test_a_method_is_as_uncertain_as_its_pairs_lie_apart() -> None:
    one = published(PAIR, "--acceptance").acceptance.nearest(7)
    # The same head on the same prompts, by another engine, lies in the interval.
    other = published("eagle3-llama-3.1-8b-yuhuili:mtbench", "--acceptance").acceptance.tokens_per_round(np.array([7]))
    lmsys = published("eagle3-llama-3.1-8b-lmsys:mtbench", "--acceptance").acceptance
    drawn = lmsys.sample_tokens_per_round(np.array([7]), np.random.default_rng(0), 500)
    assert np.quantile(drawn, 0.025) < other < np.quantile(drawn, 0.975)
    assert abs(other / lmsys.tokens_per_round(np.array([7])) - 1) > 0.05
    whole = published("eagle3-llama-3.1-8b", "--acceptance").acceptance.nearest(7)
    of_method = published("EAGLE3:mt-bench", "--acceptance").acceptance
    assert one.samples > 2 * whole.samples
    assert (one.pair, of_method.pair) == (("meta-llama/Llama-3.1-8B-Instruct", one.pair[1]), None)
    taus = [c.tokens_at(7) for c in curves() if (c.method, c.task) == ("eagle3", "mtbench") and 7 in c.known]
    assert of_method.assumed_as == f"a prior, EAGLE-3 of {len(taus)} pairs, mtbench (published)"
    assert min(taus) < of_method.tokens_per_round(np.array([7]))[0] < max(taus)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("eagle3-lama",), "--acceptance: 'eagle3-lama' is no number, file or published pair, expected one of"),
        (("eagle3-kimi-k2:mbench",), "--acceptance: eagle3-kimi-k2 was not measured on 'mbench', expected one of"),
        (("nowhere/hist.json",), "nowhere/hist.json"),
        (("",), "--acceptance: '' has no value, expected ALPHA, FILE or PAIR"),
        (("eagle3=",), "--acceptance: 'eagle3=' has no value, expected eagle3=ALPHA, eagle3=FILE or eagle3=PAIR"),
        (("1.5",), "--acceptance: 1.5 is not allowed, expected 0 to 1"),
        ((PAIR, "--alpha", "0.5"), f"--acceptance: {PAIR} beside --alpha, expected one of them"),
        ((PAIR, "--draftN", "8"), f"--draftN: 8 is above k = 7 of {PAIR}, expected 1 to 7, or --extrapolate"),
        ((f"{BLOCK}:gsm8k", "--draftN", "9"), f"--draftN: 9 is above k = 7 of {BLOCK}:gsm8k, expected 1 to 7\n"),
        ((BLOCK, "--draftN", "9", "--extrapolate"), "--extrapolate: dflash drafts all tokens in one pass, nothing is"),
        ((f"mtp={PAIR}", *MODELS, "--method", "eagle3"), "beside --method eagle3, expected the same method"),
        (("mtp", *MODELS, "--method", "eagle3"), "--acceptance: mtp drafts as mtp, not as eagle3, expected a pair"),
        ((PAIR, "--acceptance", "0.5"), "--acceptance: 2 of one method, expected one"),
        (("foo=0.7",), "--acceptance: 'foo' is not known, expected one of "),
    ],
)
def test_what_is_no_acceptance_is_refused_in_one_line(run, words, line) -> None:
    result = run("simulate", "--acceptance", *words)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert line in result.stderr
    assert len(result.stderr) < 250


def test_the_registry_is_listed_and_shown(run) -> None:
    listed = run("pairs", "list", "--method", "mtp").stdout
    assert "mtp-glm-5.2" in listed
    assert "dspark" not in listed
    every = json.loads(run("pairs", "list", "--json").stdout)["curves"]
    assert len(every) == len(curves())
    shown = run("pairs", "show", "eagle3-kimi-k2.5:coding").stdout
    assert all(word in shown for word in ("InferenceX", "Apache-2.0", "K = 8", "3.51", "0.6"))
    assert run("pairs", "show", "eagle3-kimi").returncode == 2
    # As far as curves go, and at which temperature: nobody states it of all.
    (longest,) = (c for c in curves() if (c.pair, c.task) == ("dflash-qwen3-8b-10k", "qa"))
    shown = run("pairs", "show", "dflash-qwen3-8b-10k:qa").stdout
    assert [f"K = {k}" in shown for k in (1, 8, 9, longest.longest)] == [True] * 4
    assert f"{longest.tokens_at(longest.longest):.2f}\n" in shown
    assert "not stated" in shown
    assert "temperature of dflash-qwen3-8b-10k: not stated" in run("simulate", "--acceptance", longest.pair).stdout
    assert max(map(len, run("pairs", "list").stdout.splitlines())) <= 100
    assert Path(FILE).read_text().startswith("# Published acceptance")
