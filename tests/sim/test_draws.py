"""What rounds accept in a simulation: draws that are uniform and independent, laws that are met, everywhere alike."""

from itertools import pairwise

import numpy as np
import pytest

from simulator.costs.step import Floats
from simulator.ground.compiled import compiled
from simulator.serving.draw_tables import Laws, Texts, Walks, acceptance_of
from simulator.serving.draws import Acceptance, accepted, confidence, offered, uniform

SEED = 17
# Chi-square of 99 degrees of freedom is above it once in a million times.
FAR = 178.0
FALLING = np.array([0.8, 0.55, 0.4, 0.1])
WORDS = ("seed", "request", "round", "place")


def cut(survival: Floats) -> Floats:
    """P(A >= j) of rounds of 0 to so many drafts."""
    places = np.arange(len(survival))
    return np.array([np.where(places < d, survival, 0.0) for d in range(len(survival) + 1)])


def chi_square(values: Floats) -> float:
    """Of a hundred bins that are as likely."""
    counts = np.bincount((values * 100).astype(int), minlength=100)
    return float(((counts - len(values) / 100) ** 2).sum() / (len(values) / 100))


def squares(one: Floats, other: Floats) -> Floats:
    """Where pairs of draws lie, of a hundred squares."""
    return (np.floor(one * 10) + np.floor(other * 10) / 10 + 0.05) / 10


@compiled
def drawn_along(which: int, start: int, step: int, into: Floats) -> None:
    for i in range(len(into)):
        word = start + i * step
        if which == 0:
            into[i] = uniform(word, 5, 5, 5)
        elif which == 1:
            into[i] = uniform(5, word, 5, 5)
        elif which == 2:
            into[i] = uniform(5, 5, word, 5)
        else:
            into[i] = uniform(5, 5, 5, word)


def along(which: int, start: int = 0, step: int = 1, count: int = 20_000) -> Floats:
    """Draws of which one word runs, the others stay."""
    into = np.zeros(count)
    drawn_along(which, start, step, into)
    return into


@compiled
def accepted_of(acceptance: Acceptance, seed: int, category: int, drafts: int, requests: int, into: Floats) -> None:
    for i in range(len(into)):
        round_ = i // requests
        into[i] = accepted(acceptance, seed, i % requests, category, round_, 3 * round_, drafts)


def taken(acceptance: Acceptance, category: int, drafts: int, requests: int = 200, rounds: int = 200) -> Floats:
    """Accepted drafts, [rounds, requests]."""
    into = np.zeros(requests * rounds)
    accepted_of(acceptance, SEED, category, drafts, requests, into)
    return into.reshape(rounds, requests)


@pytest.mark.parametrize("which", range(4), ids=WORDS)
def test_draws_are_uniform_along_every_word_and_know_nothing_of_each_other(which: int) -> None:
    drawn = along(which)
    others = [np.roll(drawn, 1), along(which, 1 << 18 if which == 3 else 1 << 40), along((which + 1) % 4, 100)]
    assert chi_square(drawn) < FAR
    for other in others:
        assert chi_square(squares(drawn, other)) < FAR
    assert len(np.unique(drawn)) == len(drawn)
    assert chi_square(along(which, 0, 1 << 5)) < FAR


def test_what_is_not_uniform_or_follows_another_is_told() -> None:
    """The negative control."""
    drawn = along(1)
    assert chi_square(drawn**1.1) > FAR
    assert chi_square(squares(drawn, (drawn + 0.1 * along(2)) % 1)) > FAR


def test_rounds_accept_as_their_law_says_whatever_confidences_tell() -> None:
    laws = Laws(cut(FALLING)[None])
    acceptance = acceptance_of([laws, laws._replace(sharp=0.8), Laws(cut(np.array([0.3]))[None])])
    for category in (0, 1):
        for drafts in (1, 3, 4, 9):
            found = taken(acceptance, category, drafts)
            survival = FALLING[:drafts]
            tokens = survival.sum()
            spread = np.sqrt((survival * (2 * np.arange(len(survival)) + 1)).sum() - tokens**2)
            assert abs(found.mean() - tokens) < 4 * spread / np.sqrt(found.size)
    # Another category's law, longer drafts than which it has no place for.
    assert taken(acceptance, 2, 4).mean() == pytest.approx(0.3, abs=0.01)
    assert abs(taken(acceptance, 2, 4).mean() - taken(acceptance, 0, 4).mean()) > 1


def test_longer_drafts_of_the_same_rounds_accept_no_less() -> None:
    acceptance = acceptance_of([Laws(cut(FALLING)[None]), Laws(cut(FALLING)[None], sharp=1.0)])
    for category in (0, 1):
        found = [taken(acceptance, category, k) for k in (1, 2, 3, 4)]
        assert all((np.minimum(longer, k) == shorter).all() for k, (shorter, longer) in enumerate(pairwise(found), 1))


def test_confidences_are_what_they_say() -> None:
    acceptance = acceptance_of([Laws(cut(FALLING)[None], sharp=0.9)])
    rows = [(accepted(acceptance, SEED, r, 0, i, 0, 4), i, r) for r in range(60) for i in range(60)]
    for place in range(3):
        reached = [(a > place, confidence(acceptance, SEED, r, 0, i, 0, 4, place)) for a, i, r in rows if a >= place]
        was, said = np.array(reached, np.float64).T
        assert abs(was.mean() - said.mean()) < 4 * 0.5 / np.sqrt(len(was))
        high = said > np.median(said)
        assert was[high].mean() > was[~high].mean() + 0.15
        assert abs(was[high].mean() - said[high].mean()) < 4 * 0.5 / np.sqrt(high.sum())


def test_what_is_found_is_drafted() -> None:
    found = np.array([[0.6, 0.5, 0.2, 0.2]])
    acceptance = acceptance_of([Laws(cut(FALLING)[None], found=found), Laws(cut(FALLING)[None])])
    drafted = np.array([[offered(acceptance, SEED, r, 0, i, 3) for r in range(100)] for i in range(100)])
    assert [(drafted > d).mean() for d in range(4)] == pytest.approx([0.6, 0.5, 0.2, 0.0], abs=0.02)
    assert {offered(acceptance, SEED, r, 1, 0, 3) for r in range(20)} == {3}


def test_recorded_rounds_and_texts_are_walked_from_the_front() -> None:
    walks = Walks([[1, 2, 3], [0]], [[2], [4, 0]])
    sure = Texts([[1.0, 1.0, 0.0], [0.0]])
    acceptance = acceptance_of([Laws(cut(FALLING)[None]), walks, sure])
    assert [accepted(acceptance, SEED, 0, 1, i, 0, 2) for i in range(4)] == [1, 2, 2, 1]
    assert [accepted(acceptance, SEED, 3, 1, i, 0, 2) for i in range(2)] == [0, 0]
    assert [offered(acceptance, SEED, 1, 1, i, 3) for i in range(3)] == [3, 0, 3]
    # Of a text the place decides, not the round: two places behind one another, then none.
    assert [accepted(acceptance, SEED, 2, 2, 9, at, 3) for at in range(4)] == [2, 1, 0, 2]
    assert accepted(acceptance, SEED, 2, 2, 0, 0, 1) == 1
    coins = acceptance_of([Texts([[0.7]])])
    runs = np.array([[accepted(coins, SEED, r, 0, 0, at, 8) for at in range(50)] for r in range(50)])
    assert runs.mean() == pytest.approx(sum(0.7**j for j in range(1, 9)), abs=0.25)
    # Whoever begins a place later meets the same coins.
    assert (np.maximum(runs[:, :-1] - 1, 0) <= runs[:, 1:]).all()
