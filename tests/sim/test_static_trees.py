"""Static trees (`--branching`): passes by level, what they accept by rates and along a text, and what is none."""

from pathlib import Path

import numpy as np
import pytest

from simulator.ground.histogram import load_histogram
from simulator.ground.ranks import parse_ranks
from simulator.rounds.priors import further_choices
from simulator.rounds.trees import paths_of, static_depths, walk

from .builders import result

HIST = Path(__file__).parents[2] / "examples/accept_hist_k4.json"


def test_a_static_tree_takes_a_pass_a_level_and_accepts_as_its_paths(run) -> None:
    """Rates of all paths by hand; levels of one child are a chain."""
    models = ("--profile", "h200", "--target-model", "qwen3-8b", "--method", "eagle3", "--replications", 2)
    found = result(run, *models, "--branching", "3,2", "--alpha", 0.6)
    passes = {name: (one["tokens"], one["times"]) for name, one in found["models"]["passes"].items()}
    assert passes == {"plain step": (1, 1), "first draft": (3, 1), "level 2": (3, 1), "verification": (10, 1)}
    rates = np.array([0.6, *(0.4 * further_choices().rates[:2])])
    expected = 1 + rates.sum() * (1 + rates[:2].sum())
    assert found["closed_form_tokens_per_round"] == pytest.approx(expected, rel=1e-9)
    assert found["parameters"]["branching"] == "3,2"
    chain, alone = (result(run, *models, *more, "--alpha", 0.6) for more in (("--branching", "1,1,1"), ("--draftN", 3)))
    for key in ("closed_form_tokens_per_round", "closed_form_speedup"):
        assert chain[key] == pytest.approx(alone[key], rel=1e-12)


def test_a_static_tree_along_a_text_is_walked_exactly(run) -> None:
    models = ("--profile", "h200", "--target-model", "qwen3-8b", "--method", "eagle3", "--hist", HIST)
    found = result(run, *models, "--branching", "2,2,1", "--replications", 2)
    text = parse_ranks(load_histogram(HIST).ranks)
    counts = walk(static_depths(text, paths_of((2, 2, 1))), text.starts, 3)
    assert found["closed_form_tokens_per_round"] == pytest.approx(1 + counts @ np.arange(4) / counts.sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--branching", "4,x"), "--branching: '4,x' is not allowed, expected children by level, such as 4,2,1"),
        (("--branching", "0"), "--branching: '0' is not allowed"),
        (("--branching", "64,64,2"), "--branching: 64,64,2 makes 12,353 tokens to verify, expected at most 4,096"),
        (("--branching", "2,2", "--topk", 2, "--nodes", 4), "--branching: 2,2 beside --topk or --nodes"),
        (("--branching", "2,2", "--draftN", 3, "--alpha", 0.5), "--draftN: 3 is above 2"),
    ],
)
def test_what_is_no_static_tree_is_one_line(run, arguments: tuple[object, ...], message: str) -> None:
    done = run("simulate", "--profile", "h200", "--target-model", "qwen3-8b", "--method", "eagle3", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
