"""Published figures of acceptance by method: each entry meets those that it cites, no wider a range, no narrower."""

import numpy as np
import pytest

from simulator.costs.drafters.methods import methods
from simulator.rounds.priors import further_choices, prior, priors_file
from simulator.rounds.trees import rate_laws

# By method: tokens a round by K as published, with Z beside the mean of the least and the most that is published.
FIGURES = {
    "eagle3": ({3: 2.893, 5: 3.548, 7: 3.937}, 1.97, 5.38),
    "peagle": ({7: 3.70}, 3.38, 3.94),
    "dflash": ({1: 1.82, 15: 4.74}, None, None),
    "dspark": ({1: 1.84, 2: 2.51, 3: 3.01, 4: 3.36, 5: 3.61, 6: 3.77, 7: 3.77}, None, None),
    "mtp": ({1: 1.85}, None, None),
    "ngram": ({3: 1.62}, 1.17, 2.04),
    "ngram_gpu": ({3: 1.62}, 1.17, 2.04),
    "eagle": ({2: 2.10, 3: 2.29, 4: 2.39, 5: 2.43, 6: 2.45, 7: 2.47}, 1.70, 2.80),
    "medusa": ({1: 1.60}, 1.865 * 1.22 / 1.44, 1.865 * 1.64 / 1.44),
    "hydra": ({4: 2.34}, 2.34 * 1.48 / 1.80, 2.34 * 2.16 / 1.80),
    "draft_model": ({1: 1.70, 7: (1 - 0.7**8) / 0.3}, (1 - 0.53**9) / 0.47, (1 - 0.89**9) / 0.11),
    "lookahead": ({4: 1.65}, 1.65 * 0.97 / 1.08, 1.65 * 1.29 / 1.08),
    "mlp_speculator": ({3: (2 + 1 + 3 * 0.6391) / 2}, 2.0, 2.92),
    "pard": ({12: (5.6 + 4.7 + 3.2) / 3}, 3.2, 5.6),
    "domino": ({15: 4.70}, 2.29, 6.52),
    "dflash2": ({7: 3.58}, 3.15, 5.46),
    "suffix": ({8: (1 + 1226 / 15767 + 82.39 / 55.50) / 2}, 1.08, 1.48),
}
# Tokens that one interval reaches to either side, in deviations.
Z = 1.96
# Of Medusa's tokens that are not a head's first choice, the shares of its second to tenth; trees of 63 nodes, 4 levels.
MEDUSA = 0.5 * 0.6 ** np.arange(9) / (0.6 ** np.arange(4)).sum()
TREE = {"topk": 10, "nodes": 63}


def test_every_prior_is_of_a_method_and_checked() -> None:
    assert set(FIGURES) <= set(methods())
    assert {name for name, said in priors_file().items() if said["survival"].is_given} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_prior_meets_the_figures_that_it_cites(name: str) -> None:
    found, said = prior(name), priors_file()[name]
    assert found is not None
    assert said["from"].text()
    assert found.assumed == said["as"].text()
    assert len(found.assumed) <= 110
    assert (np.diff(found.survival) <= 0).all()
    by_k, least, most = FIGURES[name]
    tokens = 1 + np.cumsum(found.survival)
    assert [tokens[k - 1] for k in by_k] == pytest.approx(list(by_k.values()), abs=0.012)
    if least is not None:
        places = np.arange(found.draft_length + 1)
        variance = found.law @ places**2 - (found.law @ places) ** 2
        assert 2 * Z * np.sqrt(variance / said["rounds"].number(0)) >= 0.95 * (most - least)


def test_heads_that_were_published_in_trees_meet_those_trees() -> None:
    medusa, hydra = (np.asarray(prior(name).survival) for name in ("medusa", "hydra"))
    falls = (medusa[1] / medusa[0]) / medusa[0]
    heads = np.outer(falls ** np.arange(4), [0.6, *(0.4 * MEDUSA)])
    assert medusa == pytest.approx(np.cumprod(heads[:, 0]), abs=2e-3)
    every = np.tile([hydra[0], *((1 - hydra[0]) * MEDUSA)], (4, 1))
    for rates, published in ((heads, 2.33), (every, 3.26)):
        law = rate_laws(rates, **TREE)[-1]
        assert 1 + law @ np.arange(len(law)) == pytest.approx(published, abs=0.01)


def test_further_choices_are_shares_that_fall() -> None:
    rates = further_choices().rates
    assert (np.diff(rates) <= 0).all()
    assert rates.sum() < 1
