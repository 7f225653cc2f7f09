"""Decisions that others' measurements answer: read and refused, and what advice gives up of the best of them."""

import json

import pytest

from calibration.cli.decisions import chosen
from calibration.published.decisions import PLAIN, decisions, parse
from calibration.validate.regret import LITTLE, Chosen, decisions_json, decisions_text, holds
from simulator.ground.artefacts import UserError
from simulator.ground.fields import read_toml

ONE = """
[one]
source = "s"
at = "https://example.org"
setting = "t"
assumed = "nothing"
advise = "--profile h100-sxm --target-model llama-3.1-8b --concurrency 2 --isl 9 --osl 60 --requests 6 --method eagle3"
unit = "tokens_per_s"
measured = { plain = 100, eagle3 = { 1 = 150, 4 = 200 } }
accepted.eagle3 = { lengths = [1, 4], tokens = [1.01, 1.02] }
"""


def made(folder, text: str = ONE):
    """Return the decisions of a text."""
    path = folder / "decisions.toml"
    path.write_text(text)
    return parse(read_toml(path))


def test_regret_is_the_share_of_the_best_speed_that_is_given_up(tmp_path) -> None:
    (one,) = made(tmp_path)
    assert (one.best, one.lengths) == (("eagle3", 4), {"eagle3": (1, 4)})
    assert [one.regret(way) for way in (PLAIN, ("eagle3", 1), ("eagle3", 4), ("eagle3", 2))] == [0.5, 0.25, 0.0, None]
    (slow,) = made(tmp_path, ONE.replace("tokens_per_s", "latency_s"))
    assert (slow.best, slow.regret(("eagle3", 4))) == (PLAIN, 0.5)
    (any_length,) = made(tmp_path, ONE.replace("{ 1 = 150, 4 = 200 }", "{ any = 200 }"))
    assert (any_length.regret(("eagle3", 7)), any_length.lengths) == (0.0, {"eagle3": ()})


@pytest.mark.parametrize(
    ("wrong", "right", "line"),
    [
        ("plain = 100, eagle3 = { 1 = 150, 4 = 200 }", "plain = 100", "at least two ways"),
        ("4 = 200", "some = 200", "a draft length up to"),
        ("tokens_per_s", "miles", "one.unit"),
        ("[1.01, 1.02]", "[1.01, 9]", "at most K + 1"),
        ("setting", "settting", "settting is not a key"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, wrong: str, right: str, line: str) -> None:
    with pytest.raises(UserError, match=line.replace("+", r"\+")):
        made(tmp_path, ONE.replace(wrong, right))


def test_advice_takes_one_of_the_measured_ways_and_hears_what_is_accepted(tmp_path) -> None:
    (one,) = made(tmp_path)
    found = chosen(one)
    assert found.alone[0] == "eagle3"
    assert found.alone[1] in (1, 4)
    # The negative control: what hardly accepts anything is not taken, though the source measured it as the best.
    assert found.told == PLAIN
    assert not is_told_well(found)
    assert "1 of 1 decisions" in decisions_text([found], 0.25)


def is_told_well(found: Chosen) -> bool:
    """Whether what was told leads to little regret."""
    return (found.decision.regret(found.told) or 0) <= 0.03


def test_what_was_looked_at_counts_for_nothing(tmp_path) -> None:
    good, bad = made(tmp_path, ONE + ONE.replace("[one]", '[two]\nseen = "a mend"'))
    taken = [Chosen(good, ("eagle3", 4), PLAIN), Chosen(bad, PLAIN, PLAIN)]
    assert holds(taken)
    assert not holds([taken[0]._replace(alone=PLAIN)])
    assert "in 1 of the 1 whose results changed nothing in advise" in " ".join(decisions_text(taken).split())


@pytest.mark.parametrize(
    ("most", "taken", "right"), [(LITTLE, 1, False), (0.3, 1, True), (0.2, 1, False), (0.0, 4, True)]
)
def test_the_bound_that_is_stated_decides_in_text_and_json_alike(
    tmp_path, most: float, taken: int, right: bool
) -> None:
    found = [Chosen(made(tmp_path)[0], ("eagle3", taken), PLAIN)]
    told = decisions_json(found, most, {})
    assert (told["holds"], holds(found, most)) == (right, right)
    assert f"within {most:.0%} of the best" in told["headline"]
    assert " ".join(decisions_text(found, most).split()).startswith(told["headline"])


def test_the_file_that_comes_along_names_where_each_is_from() -> None:
    there = decisions()
    assert len(there) >= 16
    assert sum(not one.seen for one in there) >= 12
    assert all(one.at.startswith("https://") for one in there)


@pytest.mark.whole
def test_ten_of_twelve_are_taken_well(run_real) -> None:
    done = run_real("validate", "--decisions", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["holds"] is True
