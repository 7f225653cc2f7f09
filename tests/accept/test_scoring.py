"""Scores of written text against the plain meaning of p(x_t | x_<t) and q(x_t | x_<t): one unpadded prefix a time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import entr

from acceptance.decoders import baseline
from acceptance.measure import scoring
from acceptance.measure.scoring import Output, score
from acceptance.models import context, laws
from acceptance.models.laws import streams
from acceptance.models.load import load_pair
from acceptance.models.model import Pair
from acceptance.models.rule import SamplingRule
from acceptance.trace.trace import LEAST_LOG_Q, PromptInfo

from .oracles import FREE, GREEDY, law_of, logits_without_cache

PROMPTS = ["w1 w2 w3", "w9", "w4 w4 w7 w8 w12 w30 w2", "w21 w22"]
INFOS = tuple(PromptInfo(source=p) for p in PROMPTS)


def write(pair: Pair, rule: SamplingRule, n: int = 12, prompts: list[str] = PROMPTS, seed: int = 0) -> list[Output]:
    """Let the target continue prompts; the outputs end raggedly."""
    before = [pair.tokenizer(p).input_ids for p in prompts]
    rngs = streams(seed, range(len(prompts)))
    written = baseline.decode(pair.target, before, rule=rule, max_new_tokens=n, rngs=rngs)
    return [
        Output(prompt=i, turn=0, before=b, tokens=tokens[: n - i % 3])
        for i, (b, tokens) in enumerate(zip(before, written, strict=True))
    ]


def laws_of(rows: np.ndarray, rule: SamplingRule) -> np.ndarray:
    return np.array([law_of(row, rule) for row in rows])


def rejected(p: np.ndarray, q: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What a rejected draft proposed: drawn from what p leaves of q, by the numbers that `spread` has for the text."""
    left = np.maximum(q - p, 0)
    left = np.where(left.sum(-1, keepdims=True) > 1e-9, left, q)
    below = left.cumsum(-1)
    uniforms = scoring.spread(torch.from_numpy(x), 0).numpy()
    return (below <= uniforms[:, None] * below[:, -1:]).sum(-1)


def reference(pair: Pair, output: Output, rule: SamplingRule, draft_rule: SamplingRule) -> dict[str, np.ndarray]:
    """Return what a trace should hold, in plain words."""
    x = np.array(output.tokens)
    prefixes = [output.before + output.tokens[:t] for t in range(len(x))]
    p_logits, q_logits = (
        np.stack([logits_without_cache(model, prefix) for prefix in prefixes]) for model in (pair.target, pair.draft)
    )
    p, q = laws_of(p_logits, rule), laws_of(q_logits, draft_rule)
    # A point mass has no entropy: what describes a greedy model is its softmax.
    soft_p = laws_of(p_logits, FREE if rule.is_greedy else rule)
    soft_q = laws_of(q_logits, FREE if draft_rule.is_greedy else draft_rule)
    at, first = (np.arange(len(x)), x), q_logits.argmax(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        accepted = np.minimum(1, q[at] / (1 if rule.is_greedy else p[at]))
        log_p, log_q = np.log(soft_p[at]), np.log(soft_q)
    return {
        "accept_sampled": np.where(np.isneginf(log_p), 0, accepted),
        "accept_greedy": first == x,
        "log_p": log_p,
        "rank_p": (p_logits > p_logits[at][:, None]).sum(-1),
        "rank_q": (q_logits > q_logits[at][:, None]).sum(-1),
        "max_q": soft_q.max(-1),
        "entropy_p": entr(soft_p).sum(-1),
        "entropy_q": entr(soft_q).sum(-1),
        "overlap": np.minimum(p, q).sum(-1),
        "p_argmax_q": p[np.arange(len(x)), first],
        "margin_q": np.diff(np.sort(q_logits, -1)[:, -2:], axis=-1)[:, 0],
        "log_q": np.maximum(log_q[at], LEAST_LOG_Q),
        "log_q_rejected": np.maximum(log_q[at[0], rejected(p, q, x)], LEAST_LOG_Q),
        "token": x,
        "position": np.arange(len(x)),
        "context_length": len(output.before) + np.arange(len(x)),
    }


CUT, FIRST_ALONE = SamplingRule(temperature=1.0, top_k=6, top_p=0.9), SamplingRule(temperature=1.0, top_k=1)
WARM = [SamplingRule(temperature=t) for t in (0.7, 1.5)]
# Written by, scored as by, and the draft's; the last two put tokens outside of both laws, or of the text's own.
RULES = [(rule, rule, draft_rule) for rule in (GREEDY, *WARM) for draft_rule in (GREEDY, FREE)]
RULES += [(CUT, CUT, CUT), (FREE, FIRST_ALONE, FIRST_ALONE)]


@pytest.mark.parametrize(("written", "rule", "draft_rule"), RULES)
def test_scores_are_those_of_the_unpadded_prefixes(
    pair: Pair, written: SamplingRule, rule: SamplingRule, draft_rule: SamplingRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once and column by column."""
    outputs = write(pair, written)
    expected = [reference(pair, output, rule, draft_rule) for output in outputs]
    for bound in (context.LOGITS_BYTES, 1):
        monkeypatch.setattr(context, "LOGITS_BYTES", bound)
        traces = score(pair.target, pair.draft, outputs, INFOS, rule, draft_rule)
        for values, trace in zip(expected, traces, strict=True):
            for name, value in values.items():
                assert getattr(trace, name) == pytest.approx(value, abs=2e-4), name
    if rule.top_k:
        assert any((values["accept_sampled"] == 0).any() for values in expected)
        assert any(np.isneginf(values["log_p"]).any() for values in expected) == (rule is not written)


def test_logits_in_memory_are_bounded_however_long_the_text(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 4 * 41 * 4 * 5
    monkeypatch.setattr(context, "LOGITS_BYTES", bound)
    sizes: list[int] = []
    outputs = write(pair, FREE, n=60)
    hooks = [
        m.module.register_forward_hook(lambda _, __, found: sizes.append(4 * found.logits.numel()))
        for m in (pair.target, pair.draft)
    ]
    score(pair.target, pair.draft, outputs, INFOS, FREE, FREE)
    for hook in hooks:
        hook.remove()
    assert max(sizes) <= bound
    assert len(sizes) >= 2 * 60 // 5


@pytest.mark.statistical
def test_acceptance_of_sampled_text_is_the_overlap_of_both_laws(pair: Pair) -> None:
    """E over x ~ p of min(1, q/p) is sum min(p, q), and of [x = argmax q] p(argmax q); overlap has less noise."""
    trials = 4000
    outputs = write(pair, FREE, n=1, prompts=["w5 w6"] * trials)
    outputs = [dataclasses.replace(o, prompt=0) for o in outputs if o.tokens]
    traces = score(pair.target, pair.draft, outputs, INFOS, FREE, FREE)
    overlap, first = float(traces[0].overlap[0]), float(traces[0].p_argmax_q[0])
    sampled = np.array([t.accept_sampled[0] for t in traces], float)
    greedy = np.array([t.accept_greedy[0] for t in traces], float)
    for found, expected, other in ((sampled, overlap, first), (greedy, first, overlap)):
        error = found.std(ddof=1) / np.sqrt(len(found))
        assert abs(found.mean() - expected) <= 4 * error
        # Negative control: the other kind of draft is accepted at another rate.
        assert abs(found.mean() - other) > 4 * error
    assert np.ptp([t.overlap[0] for t in traces]) < 1e-4


def test_half_precision_weights_are_scored_in_fp32(random_pair: tuple[Path, Path]) -> None:
    target, draft = random_pair
    half = load_pair(str(target), str(draft), device="cpu", dtype="bfloat16")
    assert half.target.module.dtype is torch.bfloat16
    traces = score(half.target, half.draft, write(half, FREE), INFOS, FREE, FREE)
    log_p = torch.from_numpy(np.concatenate([t.log_p for t in traces]))
    # Computed in fp32, not rounded to it: values off the grid of bfloat16.
    assert (log_p != log_p.bfloat16().float()).float().mean() > 0.5


def test_ranks_break_ties_as_argmax_does() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]] * 4)
    assert laws.rank(logits, torch.arange(4)).tolist() == [3, 0, 1, 2]
    # More tokens than half precision counts to, many of them alike.
    logits = torch.randn((20, 3001), generator=torch.Generator().manual_seed(0)).mul(9).round().bfloat16()
    tokens = torch.arange(20) * 150
    order = np.argsort(-logits.float().numpy(), axis=-1, kind="stable")
    assert (order[np.arange(20), laws.rank(logits, tokens).numpy()] == tokens.numpy()).all()


def test_entropy_is_that_of_the_law_and_what_is_never_said_adds_none() -> None:
    law = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0], [1e-44, 1.0, 0.0, 0.0]])
    assert laws.entropy(law).numpy() == pytest.approx(entr(law.numpy()).sum(-1), abs=1e-7)


def test_what_is_left_of_a_point_mass_is_its_token() -> None:
    """As drawn from the residual, whether the target excludes the token or says nothing else."""
    logits = torch.randn((2, 50, 12), generator=torch.Generator().manual_seed(0)).mul(3)
    logits[0, :9], token = logits[1, :9], torch.zeros(50, dtype=torch.long)
    for rule in (GREEDY, FREE):
        p, q = laws.probabilities(logits[0], rule), laws.probabilities(logits[1], GREEDY)
        drawn = laws.draw(laws.residual(q, p), scoring.spread(token, 0))
        assert (drawn == laws.likeliest(logits[1])).all()


def test_rejected_drafts_are_drawn_from_what_is_left_of_their_law() -> None:
    """Along a text of one law, each token as often as it should be; a wrong law would not pass."""
    n, p = 4000, torch.tensor([0.5, 0.3, 0.2, 0.0])
    q = torch.tensor([0.2, 0.3, 0.1, 0.4])
    token = torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(0))
    scores = scoring.pair_scores(p.log().expand(n, 4), q.log().expand(n, 4), token, 0, FREE, FREE)
    assert (scores["log_q_rejected"] - np.log(0.4)).abs().max() < 1e-5  # all that p leaves of q
    scores = scoring.pair_scores(q.log().expand(n, 4), p.log().expand(n, 4), token, 7, FREE, FREE)
    share = float((scores["log_q_rejected"] - np.log(0.5)).abs().lt(1e-5).float().mean())
    assert abs(share - 0.3 / 0.4) < 4 * np.sqrt(0.75 * 0.25 / n) < abs(share - 0.5 / 0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_likeliest_of_several_is_the_first_as_argmax_has_it(dtype: torch.dtype) -> None:
    logits = torch.randn((64, 301), generator=torch.Generator().manual_seed(0)).mul(2).round().to(dtype)
    logits[0], logits[1] = -torch.inf, 0
    assert (logits == logits.max(-1, keepdim=True).values).sum(-1).max() > 1
    assert (laws.likeliest(logits).numpy() == logits.float().numpy().argmax(-1)).all()
