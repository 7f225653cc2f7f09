"""Categories and ranges of context: their rounds are those of the walk, told apart by where they start."""

import json
from pathlib import Path

import numpy as np
import pytest

from acceptance.estimate.estimators import expected_rounds
from acceptance.estimate.groups import folder_name, groups_of, places
from acceptance.trace.trace import Trace, save_trace
from simulator.ground.artefacts import UserError

from .traces import make_trace

TOKENS, PROMPT = 40, 50
CATEGORIES = ("code", "prose / tales", "code", "prose / tales", "code")
PARAMETERS = {"target": "t", "draft": "d", "temperature": 1.0, "draft_temperature": 1.0, "prompt_count": 5}


def some_trace(seed: int = 0, *, greedy: bool = False) -> Trace:
    """Return outputs of which code is accepted more often, and the more the longer the context."""
    rng = np.random.default_rng(seed)
    middle = np.linspace(0.2, 0.6, TOKENS)
    outputs = [np.clip(middle + (c == "code") * 0.35 + rng.normal(0, 0.05, TOKENS), 0, 1) for c in CATEGORIES]
    if greedy:
        outputs = [(rng.random(TOKENS) < output).astype(float) for output in outputs]
    lengths = np.concatenate([PROMPT + np.arange(TOKENS)] * len(outputs))
    return make_trace(outputs, categories=CATEGORIES, context_length=lengths)


def test_a_category_accepts_what_its_prompts_alone_do() -> None:
    trace = some_trace()
    groups = {g.name: g for g in groups_of(trace, "category", (1, 4), "sampled")}
    assert set(groups) == set(CATEGORIES)
    accept = trace.accept("sampled").reshape(len(CATEGORIES), TOKENS)
    for name, group in groups.items():
        alone = make_trace([row for row, c in zip(accept, CATEGORIES, strict=True) if c == name])
        for k in (1, 4):
            assert group.rounds[k].counts == pytest.approx(expected_rounds(alone, k, "sampled").counts, abs=1e-6)
            assert group.rounds[k].cut == pytest.approx(expected_rounds(alone, k, "sampled").cut, abs=1e-6)
    taus = [groups[c].metrics[4]["tokens_per_round"] for c in ("code", "prose / tales")]
    assert taus[0] > 1.4 * taus[1]


def walk(accept: np.ndarray, k: int) -> list[tuple[int, int]]:
    """Return (start, accepted) of the rounds of an output that draft all their tokens within it, one by one."""
    found, s = [], 0
    while s + k <= len(accept):
        run = int(np.cumprod(accept[s : s + k]).sum())
        found.append((s, run))
        s += run + 1
    return found


@pytest.mark.parametrize("k", [1, 3])
def test_rounds_are_told_apart_by_the_context_where_they_start(k: int) -> None:
    trace = some_trace(greedy=True)
    groups = groups_of(trace, "context", (k,), "greedy")
    assert [g.name for g in groups] == ["32-63", "64-89"]
    accept = trace.accept("greedy").reshape(len(CATEGORIES), TOKENS)
    counted = [np.zeros(k + 1), np.zeros(k + 1)]
    for row in accept:
        for start, run in walk(row, k):
            counted[int(PROMPT + start >= 64)][run] += 1
    for group, counts in zip(groups, counted, strict=True):
        assert group.rounds[k].counts.sum(0) == pytest.approx(counts)
        assert group.tokens == sum(
            len(CATEGORIES) for t in range(TOKENS) if (PROMPT + t >= 64) == (group.name[0] == "6")
        )
    whole = expected_rounds(trace, k, "greedy").counts.sum(0)
    assert sum(g.rounds[k].counts.sum(0) for g in groups) == pytest.approx(whole)


def test_what_has_no_category_is_told_by_context() -> None:
    trace = make_trace([np.full(8, 0.5)])
    with pytest.raises(UserError, match="--by: category, but no prompt of this trace has one, expected context"):
        places(trace, "category")
    assert list(places(trace, "context")) == ["0-0"]
    assert folder_name("../a b/c") == "a-b-c"
    assert folder_name("..") == "other"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    save_trace(tmp_path, some_trace(), PARAMETERS)
    return tmp_path


def test_a_forecast_takes_one_category(run, here: Path) -> None:
    words = ("measure-acceptance", "--trace", "trace.json", "--by", "category", "--k", "1:4", "--out-dir", "by")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "wrote 8 histograms into 2 folders of by, for --hist by:NAME" in done.stdout
    assert {p.name for p in (here / "by").iterdir()} == {"code", "prose-tales"}
    read = {
        name: json.loads(run("simulate", "--hist", f"by:{name}", "--json").stdout) for name in ("code", "prose-tales")
    }
    taus = {name: answer["closed_form_tokens_per_round"] for name, answer in read.items()}
    told = json.loads(run(*words[:-1], "again", "--json").stdout)
    for group in told["groups"]:
        assert taus[folder_name(group["name"])] == pytest.approx(group["metrics"]["4"]["tokens_per_round"])
    assert (
        run("simulate", "--hist", "by/code", "--json").stdout == run("simulate", "--hist", "by/code", "--json").stdout
    )
    for words_of_by in (
        ("simulate", "--hist", "by"),
        ("simulate", "--acceptance", "by"),
        ("replay-policies", "--hist", "by"),
    ):
        whole = run(*words_of_by)
        assert (whole.returncode, whole.stdout) == (2, "")
        one = "by: holds one folder a group, expected by:NAME, one of code, prose-tales\n"
        assert whole.stderr == f"{words_of_by[0]}: {words_of_by[1]} {one}"
    missed = run("simulate", "--hist", "by:cod")
    assert (missed.returncode, missed.stderr.count("\n")) == (2, 1)
    assert "--hist by:cod: by holds no 'cod', expected one of code, prose-tales" in missed.stderr
    # What is there is kept.
    again = run(*words)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "accept_hist_k1.json" in again.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--by", "category"), "--by: category is told from one trace that is there, expected one --trace beside it"),
        (("--trace", "trace.json", "--by", "context", "--report"), "--by: context has no --plot and no --report"),
    ],
)
def test_what_by_does_not_do_is_one_line(run, here: Path, words, line) -> None:
    result = run("measure-acceptance", *words)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert line in result.stderr
