"""The law of what is committed: exactly the target's, whatever the draft; and mistakes that the test must see."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from cuda_probe.sampling import Sampled, reference, speculative_sample
from cuda_probe.sampling.random import Purpose, race_uniforms

from .sampling_cases import draw_ids

pytestmark = pytest.mark.statistical
SEQUENCES, DRAFTS, VOCABULARY, TEMPERATURE = 12_000, 2, 7, 0.8
FEW = 3000  # are enough to see a mutant
# A right sampler fails one of the nine comparisons of its run by chance once in 10^5 runs; the mutants are far beyond.
ALARM = 1e-6
Sampler = Callable[..., Sampled]


def logits() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    target = rng.normal(scale=1.2, size=(DRAFTS + 1, VOCABULARY)).astype(np.float32)
    draft = rng.normal(scale=1.2, size=(DRAFTS, VOCABULARY)).astype(np.float32)
    target[0, 3], draft[1, 5] = -np.inf, -np.inf
    return target, draft


def numpy_sampler(*arguments: Any, **named: Any) -> Sampled:
    return speculative_sample(*arguments, **named, backend="numpy")


def torch_sampler(*arguments: Any, **named: Any) -> Sampled:
    return speculative_sample(*arguments, **named, backend="torch")


def many_rounds(sampler: Sampler, sequences: int, seed: int = 1) -> Sampled:
    """Sample so many rounds of the same two models at once."""
    target, draft = (np.broadcast_to(x, (sequences, *x.shape)).copy() for x in logits())
    ids = draw_ids(np.random.default_rng(seed), draft, TEMPERATURE)
    return sampler(target, draft, ids, seed=seed, temperature=TEMPERATURE)


def p_values(found: Sampled) -> list[float]:
    """Compare the token at each position, given that the drafts before it were kept, with the target's law there."""
    law, values = reference.softmax(logits()[0], TEMPERATURE), []
    for position in range(DRAFTS + 1):
        counts = np.bincount(found.out_ids[found.accepted >= position, position], minlength=VOCABULARY)
        possible = law[position] > 0
        expected = law[position][possible] * counts[possible].sum()
        values.append(float(stats.power_divergence(counts[possible], expected, lambda_="log-likelihood").pvalue))
    return values


@pytest.mark.parametrize("sampler", [numpy_sampler, torch_sampler])
def test_committed_tokens_have_the_targets_law_and_acceptance_is_the_overlap_of_both(sampler: Sampler) -> None:
    found = many_rounds(sampler, SEQUENCES)
    assert min(p_values(found)) > ALARM
    assert not (found.out_ids[:, 0] == 3).any()  # which the target cannot emit there
    target, draft = logits()
    p, q = (reference.softmax(x, TEMPERATURE) for x in (target[:DRAFTS], draft))
    for position, wanted in enumerate(np.cumprod(np.minimum(p, q).sum(-1)), start=1):
        error = np.sqrt(wanted * (1 - wanted) / SEQUENCES)
        assert abs((found.accepted >= position).mean() - wanted) < 5 * error


def accept_all(*arguments: Any, **named: Any) -> NDArray[np.float64]:
    return np.ones(arguments[2].shape)


def p_as_residual(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    return p


def p_ratio_alone(p: NDArray[np.float64], q: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.exp2(np.take_along_axis(p, ids[..., None], -1)[..., 0])


@pytest.mark.parametrize(
    ("name", "mutant"), [("ratios", accept_all), ("residual", p_as_residual), ("ratios", p_ratio_alone)]
)
def test_a_wrong_rule_is_caught(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, name, mutant)
    assert min(p_values(many_rounds(numpy_sampler, FEW))) < ALARM


def test_a_bonus_from_the_draft_is_caught() -> None:
    def bonus_from_q(target: Any, draft: Any, ids: Any, **named: Any) -> Sampled:
        target = target.copy()
        target[:, -1] = draft[:, -1]
        return numpy_sampler(target, draft, ids, **named)

    values = p_values(many_rounds(bonus_from_q, FEW))
    assert values[-1] < ALARM
    assert min(values[:-1]) > ALARM


def test_one_number_for_acceptance_and_draw_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(sequence: int, begin: int, end: int, *rest: Any) -> NDArray[np.float32]:
        return np.resize(accept[sequence], end - begin).astype(np.float32).clip(1e-9, 1 - 1e-7)

    accept = reference.accept_uniforms(FEW, DRAFTS, 0, 1)
    monkeypatch.setattr(reference, "race_uniforms", shared)
    assert min(p_values(many_rounds(numpy_sampler, FEW))) < ALARM


def test_the_draw_alone_has_the_law_of_its_weights_over_a_large_vocabulary() -> None:
    batch, vocabulary = 4000, 3001
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(0)) * 2
    target = row.expand(batch, 1, vocabulary)
    found = torch_sampler(target, target[:, :0], torch.zeros((batch, 0), dtype=torch.int64), seed=9)
    law = row.double().softmax(0).numpy()
    # Tokens by falling probability, cut into bins of about equal mass.
    order = np.argsort(-law)
    bins = np.minimum((np.cumsum(law[order]) * 40).astype(int), 39)
    of_token = np.empty(vocabulary, int)
    of_token[order] = bins
    counts = np.bincount(of_token[found.token.numpy()], minlength=40)
    expected = np.bincount(of_token, weights=law, minlength=40) * batch
    filled = expected > 0
    assert stats.chisquare(counts[filled], expected[filled]).pvalue > ALARM


GROUPED = np.zeros(700)
GROUPED[[0, 1, 100, 256, 300, 511, 512, 699]] = [0.3, 0.05, 0.1, 0.2, 0.05, 0.1, 0.05, 0.15]


def draw_p_value(draws: int) -> float:
    """Compare draws by the reference from weights in three groups, the last of them short, with those weights."""
    drawn = [reference.race_winner(7 * GROUPED, sequence, 0, 3) for sequence in range(draws)]
    counts, possible = np.bincount(drawn, minlength=len(GROUPED)), GROUPED > 0
    assert counts[~possible].sum() == 0
    return float(stats.chisquare(counts[possible], GROUPED[possible] * draws).pvalue)


def test_groups_first_and_then_their_tokens_is_one_draw_from_all_weights() -> None:
    assert draw_p_value(8000) > ALARM


def test_numbers_shared_by_groups_and_tokens_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_one_purpose(sequence: int, begin: int, end: int, step: int, purpose: Any, seed: int) -> NDArray[np.float32]:
        return race_uniforms(sequence, begin, end, step, Purpose.TOKEN, seed)

    monkeypatch.setattr(reference, "race_uniforms", of_one_purpose)
    assert draw_p_value(FEW) < ALARM


def test_groups_that_race_by_their_largest_weight_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "weights_of_groups", lambda w: np.maximum.reduceat(w, [0, 256, 512]))
    assert draw_p_value(8000) < ALARM
