"""Methods side by side: each at its own best K, which to take at which batch size, and what does not apply."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.answers.comparison import Contender, compare, order, taken_over
from simulator.answers.comparison_report import draft_bytes, rounds_text
from simulator.answers.schedule import LARGEST_BATCH
from simulator.costs.parameters import DeviceOptions, Point
from simulator.costs.priced import load_pricing
from simulator.costs.room import largest_batch
from simulator.rounds import priors
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.analytic import speedup

HIST = Path(__file__).parents[2] / "examples/accept_hist_k4.json"
TARGET = {"profile": "h200", "target_model": "qwen3-8b"}
MODELS = ("--profile", "h200", "--target-model", "qwen3-8b")


def contender(method: str, alpha: float, **options: str) -> Contender:
    pair = load_pricing(DeviceOptions(**TARGET, method=method, **options)).costs(Point(context=2048))
    return Contender(pair=pair, acceptance=IidAcceptance(alpha), source="stated")


def test_each_method_is_at_its_best_and_the_best_of_all_is_taken() -> None:
    methods = contender("eagle3", 0.75), contender("dflash", 0.6), contender("draft_model", 0.2)
    found = compare(methods)
    for batch in (1, 40, 300):
        gains = []
        for at, one in enumerate(methods):
            pair = replace(one.pair, batch=batch)
            longest = min(16, pair.longest or 16)
            every = [float(speedup(pair, one.acceptance, k, overlap=False)) for k in range(1, longest + 1)]
            assert found.at(at, batch) == (int(np.argmax(every)) + 1, pytest.approx(max(every)))
            gains.append(max(every))
        taken = next(r for r in found.take if r.first <= batch <= r.last)
        assert (1.0, *gains)[taken.draft_length] * 1.02 >= max(1.0, *gains)
    # What never pays is never taken, and beyond memory there is nothing.
    assert all(r.draft_length != 3 for r in found.take)
    assert found.take[-1].last == len(found.batches)
    assert order(found) == sorted(range(3), key=lambda at: -found.at(at, 1)[1])


def test_a_method_ends_where_its_memory_does_and_all_at_the_largest_batch() -> None:
    methods = contender("eagle3", 0.75), contender("draft_model", 0.6)
    fits = [largest_batch(one.pair) for one in methods]
    found = compare(methods)
    assert len(found.batches) == max(fits) > min(fits)
    for best, fit in zip(found.best, fits, strict=True):
        assert np.isfinite(best.speedup).sum() == np.count_nonzero(best.draft_length) == fit
    few = replace(methods[0], pair=replace(methods[0].pair, context=16))
    assert len(compare((few,), draft_lengths=np.array([2])).batches) == LARGEST_BATCH


def test_another_method_is_taken_where_it_gains_and_what_does_not_fit_is_left() -> None:
    gains = np.ones((3, 8))
    gains[1] = [2.0, 1.9, 1.5, 1.2, 1.1, 0.99, 0.0, 0.0]
    gains[2] = [1.5, 1.6, 1.52, 1.3, 1.1, 0.9, 1.2, 0.98]
    found = [(r.first, r.last, r.draft_length) for r in taken_over(gains)]
    # At 3 the gain is under 2 %, at 5 both are alike; at 6 nothing pays, at 7 the first no longer fits.
    assert found == [(1, 3, 1), (4, 5, 2), (6, 6, 0), (7, 7, 2), (8, 8, 0)]


def test_a_pair_that_is_named_is_the_same_with_and_without_its_method(run) -> None:
    pair = ("--draft-model", "qwen3-0.6b", "--replications", 2, "--json")
    answers = [json.loads(run("simulate", *MODELS, *more, *pair).stdout) for more in ((), ("--method", "draft_model"))]
    assert [a["parameters"]["alpha"] for a in answers] == [0.8, 0.8]
    compared = json.loads(
        run("simulate", *MODELS, "--method", "draft,eagle3", "--draft-model", "qwen3-0.6b", "--json").stdout
    )
    assert compared["methods"][0]["acceptance"].startswith("a prior, ")
    assert compared["parameters"]["context"] == 1024


def test_only_allowed_draft_lengths_are_looked_at_and_blocks_end() -> None:
    found = compare((contender("dspark", 0.9), contender("eagle3", 0.9)), draft_lengths=np.array([3, 9]))
    assert [found.at(0, 1)[0], found.at(1, 1)[0]] == [3, 9]
    nothing = compare((contender("dspark", 0.9),), draft_lengths=np.array([9]))
    assert np.isnan(nothing.best[0].speedup).all()
    assert [r.draft_length for r in nothing.take] == [0]


def test_rounds_are_told_by_their_passes_and_bytes() -> None:
    pair = contender("eagle3", 0.8).pair
    assert rounds_text(pair, 5) == "1 x 6 + 4 x 1"
    assert rounds_text(contender("dflash", 0.8).pair, 5) == "1 x 6"
    # 2.49 G numbers of weights for K = 7, and what tokens move.
    assert draft_bytes(pair, 7) == pytest.approx(2 * 2.49e9, rel=0.03)


def test_one_command_compares_what_applies_and_draws_it(run, tmp_path: Path) -> None:
    done = run("simulate", *MODELS, "--compare", "--method", "eagle3,dflash", "--plot", "methods.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "methods.png").stat().st_size > 20_000
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "take, to 2%: " in done.stdout
    again = run("simulate", *MODELS, "--compare", "--method", "eagle3", "--plot", "methods.png")
    assert (again.returncode, again.stdout) == (2, "")
    everything = json.loads(run("simulate", *MODELS, "--compare", "--json").stdout)
    names = [row["method"] for row in everything["methods"]]
    assert {"eagle3", "dflash", "ngram"} <= set(names)
    assert not set(names) & set(everything["not_compared"])
    stated = ("--acceptance", "medusa=0.6", "--acceptance", "draft=70%")
    told = {
        row["method"]: row
        for row in json.loads(run("simulate", *MODELS, "--compare", *stated, "--json").stdout)["methods"]
    }
    assert [told[name]["acceptance"] for name in ("medusa", "draft_model")] == [
        "stated, alpha 0.6",
        "stated, alpha 0.7",
    ]
    assert told["eagle3"]["acceptance"].startswith("a prior, ")
    swept = run(
        "sweep", *MODELS, "--method", "eagle3,draft", "--alpha", "0.7", "--batch", "1,16", "--draftN", "1:4", "--json"
    )
    rows = {row["method"]: row["best"] for row in json.loads(swept.stdout)["methods"]}
    assert set(rows["eagle3"]) == {"1", "16"}
    assert all(best["draft_length"] <= 4 for row in rows.values() for best in row.values())


def test_methods_that_do_not_branch_are_compared_as_chains(run) -> None:
    tree = ("--compare", "--method", "eagle3,ngram,dflash,lookahead", "--topk", 4, "--nodes", 16, "--json")
    found = json.loads(run("simulate", *MODELS, *tree).stdout)
    verified = {row["method"]: (row["draft_length"], row["verified_tokens"]) for row in found["methods"]}
    assert verified["eagle3"][1] == 16
    assert all(verified[name][1] == verified[name][0] + 1 for name in ("ngram", "dflash"))
    assert "--topk: drafts of ngram, dflash" in found["notes"][-1]


def test_a_method_of_which_nobody_says_what_it_accepts_is_left_out(run, monkeypatch: pytest.MonkeyPatch) -> None:
    known = priors.prior
    monkeypatch.setattr(priors, "prior", lambda name: None if name == "medusa" else known(name))
    told = json.loads(run("simulate", *MODELS, "--compare", "--json").stdout)
    assert told["not_compared"]["medusa"] == "nobody says what it accepts"
    assert "medusa" not in {row["method"] for row in told["methods"]}
    done = run("simulate", *MODELS, "--method", "eagle3,medusa")
    assert done.returncode == 2
    assert "medusa: nobody says what it accepts, expected --acceptance" in done.stderr


def test_a_named_method_that_the_target_cannot_have_is_left_out_and_said(run) -> None:
    done = run("sweep", *MODELS, "--method", "eagle3,mtp,ngram", "--batch", "1,8", "--json")
    found = json.loads(done.stdout)
    assert [row["method"] for row in found["methods"]] == ["eagle3", "ngram"]
    assert found["not_compared"] == {"mtp": "mtp, but qwen3-8b has no module that predicts further tokens"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("simulate", "--compare"),
            "--compare: methods of a target on a device, expected --profile and --target-model",
        ),
        (("simulate", *MODELS, "--method", "eagle3,eagel"), "--method: 'eagel' is not known, expected "),
        (("simulate", *MODELS, "--compare", "--why"), "--why: tells of one forecast, expected no --compare"),
        (("simulate", *MODELS, "--method", "eagle3", "--plot", "x.png"), "--plot x.png: draws a comparison"),
        (("simulate", *MODELS, "--compare", "--overlap", "--placement", "separate"), "--overlap: methods are compared"),
        (
            ("simulate", *MODELS, "--compare", "--acceptance", "eagle3"),
            "--acceptance: 'eagle3' is not allowed, expected",
        ),
        (
            ("simulate", *MODELS, "--compare", "--acceptance", "eagle3=1.5"),
            "--acceptance: eagle3=1.5 is not allowed, expected 0 to 1",
        ),
        (("sweep", *MODELS, "--method", "eagle,eagle3", "--context", "1,2"), "--context: 2 values beside several"),
        (("sweep", *MODELS, "--method", "eagle,eagle3", "--out", "x.csv"), "--out x.csv: has the points of one method"),
        (
            ("simulate", *MODELS, "--method", "eagle,eagle3", "--draft-model", "qwen3-0.6b"),
            "--draft-model: qwen3-0.6b is of draft_model, which --method does not name",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(run, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
