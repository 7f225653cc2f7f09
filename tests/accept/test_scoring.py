"""Scores of written text against the plain meaning of p(x_t | x_<t) and q(x_t | x_<t): one unpadded prefix a time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from acceptance.decoders import baseline
from acceptance.measure import scoring
from acceptance.measure.scoring import Output, score
from acceptance.models import context, laws
from acceptance.models.laws import probabilities, streams
from acceptance.models.load import load_pair
from acceptance.models.model import Model, Pair
from acceptance.models.rule import SamplingRule
from acceptance.trace.trace import PromptInfo, Trace

PROMPTS = ["w1 w2 w3", "w9", "w4 w4 w7 w8 w12 w30 w2", "w21 w22"]
INFOS = tuple(PromptInfo(source=p) for p in PROMPTS)
GREEDY, SAMPLED = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)


def write(pair: Pair, rule: SamplingRule, n: int = 12, prompts: list[str] = PROMPTS, seed: int = 0) -> list[Output]:
    """Let the target continue prompts; the outputs end raggedly."""
    before = [pair.tokenizer(p).input_ids for p in prompts]
    rngs = streams(seed, range(len(prompts)))
    written = baseline.decode(pair.target, before, rule=rule, max_new_tokens=n, rngs=rngs)
    return [
        Output(prompt=i, turn=0, before=b, tokens=tokens[: n - i % 3])
        for i, (b, tokens) in enumerate(zip(before, written, strict=True))
    ]


@torch.inference_mode()
def prefix_logits(model: Model, output: Output) -> torch.Tensor:
    """Return the logits that predict each token of an output, without padding or cache, in float64."""
    prefixes = [output.before + output.tokens[:t] for t in range(len(output.tokens))]
    return torch.stack([model.module(torch.tensor([prefix])).logits[0, -1].double() for prefix in prefixes])


def reference(pair: Pair, output: Output, rule: SamplingRule, draft_rule: SamplingRule) -> dict[str, np.ndarray]:
    """Return what a trace should hold, in plain words."""
    x = np.array(output.tokens)
    p_logits, q_logits = (prefix_logits(m, output).numpy() for m in (pair.target, pair.draft))

    def soft(logits: np.ndarray, temperature: float) -> np.ndarray:
        weights = np.exp((logits - logits.max(-1, keepdims=True)) / (temperature or 1.0))
        return weights / weights.sum(-1, keepdims=True)

    def law(logits: np.ndarray, temperature: float) -> np.ndarray:
        one_hot = np.eye(logits.shape[-1])[logits.argmax(-1)]
        return one_hot if temperature == 0 else soft(logits, temperature)

    t, d = rule.temperature, draft_rule.temperature
    p, q, soft_p, soft_q = law(p_logits, t), law(q_logits, d), soft(p_logits, t), soft(q_logits, d)
    at = np.arange(len(x)), x
    first = q_logits.argmax(-1)
    return {
        "accept_sampled": np.minimum(1, q[at] / (p[at] if t else 1)),
        "accept_greedy": first == x,
        "log_p": np.log(soft_p[at]),
        "rank_p": (p_logits > p_logits[at][:, None]).sum(-1),
        "rank_q": (q_logits > q_logits[at][:, None]).sum(-1),
        "max_q": soft_q.max(-1),
        "entropy_p": -(soft_p * np.log(soft_p)).sum(-1),
        "entropy_q": -(soft_q * np.log(soft_q)).sum(-1),
        "overlap": np.minimum(p, q).sum(-1),
        "p_argmax_q": p[np.arange(len(x)), first],
        "token": x,
        "position": np.arange(len(x)),
        "context_length": len(output.before) + np.arange(len(x)),
    }


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("draft_temperature", [0.0, 1.0])
def test_scores_are_those_of_the_unpadded_prefixes(pair: Pair, temperature: float, draft_temperature: float) -> None:
    rule, draft_rule = (SamplingRule(temperature=t) for t in (temperature, draft_temperature))
    outputs = write(pair, rule)
    for output, trace in zip(outputs, score(pair.target, pair.draft, outputs, INFOS, rule, draft_rule), strict=True):
        for name, expected in reference(pair, output, rule, draft_rule).items():
            assert getattr(trace, name) == pytest.approx(expected, abs=2e-4), name


def test_processors_apply_to_both_laws(pair: Pair) -> None:
    rule = SamplingRule(temperature=1.0, top_k=6, top_p=0.9)
    outputs = write(pair, rule)
    traces = score(pair.target, pair.draft, outputs, INFOS, rule, rule)
    for output, trace in zip(outputs, traces, strict=True):
        p, q = (probabilities(prefix_logits(m, output).float(), rule).numpy() for m in (pair.target, pair.draft))
        at = np.arange(len(output.tokens)), np.array(output.tokens)
        assert (p[at] > 0).all()
        assert trace.accept_sampled == pytest.approx(np.minimum(1, q[at] / p[at]), abs=2e-4)
        assert trace.overlap == pytest.approx(np.minimum(p, q).sum(-1), abs=2e-4)
    # With few tokens left in both laws, some drafts are never accepted.
    assert (np.concatenate([t.accept_sampled for t in traces]) == 0).any()


def test_chunks_of_one_column_score_the_same(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = write(pair, SAMPLED)
    whole = score(pair.target, pair.draft, outputs, INFOS, SAMPLED, SAMPLED)
    monkeypatch.setattr(context, "LOGITS_BYTES", 1)
    for a, b in zip(whole, score(pair.target, pair.draft, outputs, INFOS, SAMPLED, SAMPLED), strict=True):
        assert a.accept_sampled == pytest.approx(b.accept_sampled, abs=1e-4)
        assert (a.token == b.token).all()


def test_logits_in_memory_are_bounded_however_long_the_text(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 4 * 41 * 4 * 5
    monkeypatch.setattr(context, "LOGITS_BYTES", bound)
    sizes: list[int] = []
    outputs = write(pair, SAMPLED, n=60)
    hooks = [
        m.module.register_forward_hook(lambda _, __, found: sizes.append(4 * found.logits.numel()))
        for m in (pair.target, pair.draft)
    ]
    score(pair.target, pair.draft, outputs, INFOS, SAMPLED, SAMPLED)
    for hook in hooks:
        hook.remove()
    assert max(sizes) <= bound
    assert len(sizes) >= 2 * 60 // 5


@pytest.mark.parametrize("rule", [GREEDY, SAMPLED])
def test_a_model_accepts_all_of_its_own_text_unless_logits_are_read_one_position_late(
    pair: Pair, rule: SamplingRule
) -> None:
    """The fault of the system this replaces: logits at a token's own column predict the next token."""
    outputs = write(pair, rule, n=24)
    for trace in score(pair.target, pair.target, outputs, INFOS, rule, rule):
        assert trace.accept_sampled == pytest.approx(1, abs=1e-5)
    late = [dataclasses.replace(o, before=o.before + o.tokens[:1], tokens=o.tokens[:-1]) for o in outputs]
    wrong = score(pair.target, pair.target, late, INFOS, GREEDY, GREEDY)
    assert np.mean([t.accept_greedy.mean() for t in wrong]) < 0.5


def test_an_output_scores_the_same_alone_and_in_a_ragged_batch(pair: Pair) -> None:
    outputs = write(pair, SAMPLED)
    together = score(pair.target, pair.draft, outputs, INFOS, SAMPLED, SAMPLED)
    for output, trace in zip(outputs, together, strict=True):
        (alone,) = score(pair.target, pair.draft, [output], INFOS, SAMPLED, SAMPLED)
        assert trace.accept_sampled == pytest.approx(alone.accept_sampled, abs=1e-4)
        assert trace.context_length.tolist() == alone.context_length.tolist()


@pytest.mark.statistical
def test_acceptance_of_sampled_text_is_the_overlap_of_both_laws(pair: Pair) -> None:
    """E over x ~ p of min(1, q/p) is sum min(p, q), and of [x = argmax q] p(argmax q); overlap has less noise."""
    trials = 4000
    outputs = write(pair, SAMPLED, n=1, prompts=["w5 w6"] * trials)
    outputs = [dataclasses.replace(o, prompt=0) for o in outputs if o.tokens]
    traces = score(pair.target, pair.draft, outputs, INFOS, SAMPLED, SAMPLED)
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
    traces = score(half.target, half.draft, write(half, SAMPLED), INFOS, SAMPLED, SAMPLED)
    log_p = torch.from_numpy(np.concatenate([t.log_p for t in traces]))
    # Computed in fp32, not rounded to it: values off the grid of bfloat16.
    assert (log_p != log_p.bfloat16().float()).float().mean() > 0.5


def test_a_token_that_its_own_law_excludes_is_never_accepted_and_shows(pair: Pair) -> None:
    """Logged text that was not written under these processors."""
    rule = SamplingRule(temperature=1.0, top_k=1)
    outputs = write(pair, SAMPLED, n=20)
    (trace, *_) = score(pair.target, pair.draft, outputs, INFOS, rule, rule)
    outside = trace.rank_p > 0
    assert outside.any()
    assert (trace.accept_sampled[outside] == 0).all()
    assert np.isneginf(trace.log_p[outside]).all()


def test_ranks_break_ties_as_argmax_does() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]] * 4)
    assert laws.rank(logits, torch.arange(4)).tolist() == [3, 0, 1, 2]


def test_unknown_scores_are_marked(pair: Pair) -> None:
    output = Output(prompt=0, turn=1, before=[1, 2], tokens=[3, 4])
    known = {"accept_sampled": torch.tensor([1.0, 0.0]), "accept_greedy": torch.tensor([True, False])}
    trace: Trace = scoring.trace_of(output, known, INFOS)
    assert np.isnan(trace.max_q).all()
    assert trace.rank_q.tolist() == [-1, -1]
    assert trace.turn.tolist() == [1, 1]
