"""Mining, the judge and the method that asks it: against brute force, the exact loop and what a decoder really sees.

Long because mining, training and decoding share one pair and its oracles without a cache.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from acceptance.decoders import speculative
from acceptance.decoders.batch import Decoded, Task
from acceptance.decoders.chain import Chain, Proposal, Seen, verify
from acceptance.decoders.decoder import run
from acceptance.decoders.judge import autojudge, judge, mining, training
from acceptance.decoders.judge.judge import Judge
from acceptance.decoders.judge.mining import Mined, Number, Rejoin
from acceptance.decoders.method import Models, Options
from acceptance.models.inflate import inflate
from acceptance.models.load import load_pair
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from simulator.ground.artefacts import UserError

from .oracles import FREE, GREEDY, Floats, greedy_without_cache, instead_of, logits_without_cache, task_of
from .tiny_models import Pair, bundled_pair, bundled_prompts, prompts_of, random_model, related_model, related_pair

VOCABULARY = 11
EXAMPLES = Path(__file__).parents[2] / "examples"
LOOKAHEAD = 8
SHORT = Rejoin(window=LOOKAHEAD, least=3, shift=1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A target, one token of which ends a text, and a narrower draft."""
    target, draft = related_pair("llama", 31, VOCABULARY)
    return replace(target, ends=(3,)), draft


RAGGED = prompts_of(1, [1, 12, 3, 7, 2, 9], VOCABULARY)


def some_judge(pair: Pair) -> Judge:
    """Random weights: a judge that says now this, now that."""
    rng = np.random.default_rng(3)
    draft, target = (rng.normal(size=judge.hidden_size_of(model)) for model in pair[::-1])
    return Judge(draft_weights=draft, target_weights=target, bias=0.1, threshold=0.5)


@torch.inference_mode()
def state_without_cache(model: Model, tokens: Sequence[int]) -> Floats:
    """The last hidden state at the last of these tokens, read at once and alone."""
    found = model.module(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True)
    return found.hidden_states[-1][0, -1].double().numpy()


def features_without_cache(pair: Pair, tokens: Sequence[int]) -> Floats:
    return np.concatenate([state_without_cache(model, tokens) for model in pair[::-1]])


def first_choice(model: Model, tokens: Sequence[int]) -> int:
    return int(logits_without_cache(model, tokens).argmax())


# Mining.


def mine_without_cache(
    pair: Pair, prompts: Sequence[list[int]], same: mining.SameAnswer, walked: int, lookahead: int
) -> list[tuple[int, int, int, bool]]:
    """The paper's walk, one prompt and one token at a time: prompt, position, token and label of each mismatch."""
    target, draft = pair
    found = []
    for i, prompt in enumerate(prompts):
        answer = greedy_without_cache(target, prompt, walked + lookahead)
        position = 0
        while position < min(walked, len(answer)):
            token = first_choice(draft, prompt + answer[:position])
            if token != answer[position]:
                other = [*answer[:position], token]
                if token not in target.ends:
                    other += greedy_without_cache(target, prompt + other, walked + lookahead - len(other))
                important = not same(answer, other)
                found.append((i, position, token, important))
                answer = answer if important else other
            position += 1
    return found


def test_mining_is_the_papers_walk_token_by_token(pair: Pair) -> None:
    options = {"max_new_tokens": 12, "lookahead": LOOKAHEAD}
    expected = mine_without_cache(pair, RAGGED, SHORT, 12, LOOKAHEAD)
    for batch_size in (1, 4, 6):
        mined = mining.mine(*pair, RAGGED, SHORT, batch_size=batch_size, **options)
        assert list(zip(mined.prompt, mined.position, mined.token, mined.important, strict=True)) == expected
    assert 0 < mined.important.sum() < len(expected), "one label alone proves little"
    assert 3 in mined.token.tolist(), "no draft ended a text"
    blind = mining.mine(*pair, RAGGED, lambda one, other: False, **options)
    assert len(blind.important) != len(expected), "the walk goes on along the new text, or it would find the same"
    assert mining.mine(pair[0], pair[0], RAGGED, SHORT, **options).features.shape == (0, 32)  # no mismatch


def test_features_are_the_states_of_both_models_at_the_drafts_token(pair: Pair) -> None:
    """Where no swap ever stays, the text before a mismatch is the target's own."""
    mined = mining.mine(*pair, RAGGED, lambda one, other: False, max_new_tokens=10, lookahead=0)
    for features, i, position, token in zip(mined.features, mined.prompt, mined.position, mined.token, strict=True):
        before = RAGGED[i] + greedy_without_cache(pair[0], RAGGED[i], 10)[:position]
        np.testing.assert_allclose(features, features_without_cache(pair, [*before, token]), atol=1e-4)


def chain_with(rule: autojudge.JudgeRule, pair: Pair, options: Options, prompts: list[list[int]], task: Task) -> Chain:
    method = speculative.over_draft("autojudge", "", acceptance=lambda models, options: rule, keep_hidden=True)
    return method.begin(Models(target=pair[0], draft=pair[1]), options)(prompts, task)


def test_training_sees_what_decoding_sees(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rejected draft of the greedy loop is among the mined mismatches, with the same features."""
    pair = replace(pair[0], ends=()), pair[1]  # rounds that an end cuts judge tokens that are no part of the text
    mined = mining.mine(*pair, RAGGED, lambda one, other: False, max_new_tokens=10, lookahead=0)
    known = {(p, t): row for p, t, row in zip(mined.prompt, mined.position, mined.features, strict=True)}
    seen: list[Seen] = []

    @instead_of(monkeypatch, autojudge.JudgeRule, "keeps")
    def keeps(right, rule, now):  # type: ignore[no-untyped-def]
        seen.append(now)
        return right(rule, now)

    rule, task = autojudge.JudgeRule(some_judge(pair), 0.0), task_of(range(len(RAGGED)), 10)
    decoder = chain_with(rule, pair, Options(draft_rule=GREEDY, k=3), RAGGED, task)
    compared = shifted = 0
    while len(decoder.batch.index):
        starts, index = decoder.batch.starts, decoder.batch.index
        proposal = decoder.propose()
        verdict = decoder.verify(proposal)
        draft, target = seen[-1].proposal.hidden, seen[-1].hidden
        for row, accepted in enumerate(verdict.accepted.tolist()):
            if accepted < proposal.lengths[row]:
                expected = known[index[row], starts[row] + accepted]
                found = torch.cat([draft[row, accepted], target[row, 1 + accepted]])
                np.testing.assert_allclose(found, expected, atol=1e-4)
                # The negative control: a state one token earlier, as in the implementation this is modelled on.
                shifted += not np.allclose(target[row, accepted], expected[-16:], atol=0.1)
                compared += 1
        decoder.select(decoder.commit(proposal, verdict))
    assert compared > 10
    assert shifted == compared


# What makes two answers the same.


def test_answers_are_compared_by_their_last_number(tiny_tokenizer: object) -> None:
    assert mining.last_number("so 3 and 4 make 1,234.50.") == 1234.5
    assert mining.last_number("-7 apples") == -7
    assert mining.last_number("none") is None
    same = Number(tokenizer=tiny_tokenizer)
    texts = ("it is 5, so 12", "7 and then 12.0<|endoftext|>", "12 then 5", "x")
    ids = [tiny_tokenizer(text).input_ids for text in texts]
    assert same(ids[0], ids[1])
    assert not same(ids[0], ids[2])
    assert not same(ids[3], ids[3])


TAILS = st.lists(st.integers(0, 2), max_size=14)


@given(TAILS, TAILS, st.integers(0, 3))
@example([0] * 6 + [2] * 3 + [1] * 3, [1] * 6 + [2] * 3 + [0] * 3, 0)  # back for the last three tokens of the window
@example([0] * 7 + [2] * 3 + [1] * 2, [1] * 7 + [2] * 3 + [0] * 2, 0)  # back a token later
@settings(max_examples=200, deadline=None)
def test_rejoining_is_its_definition(tail: list[int], other_tail: list[int], shift: int) -> None:
    window, least = 10, 3
    reference, alternative = [7, 7, 3, *tail], [7, 7, 4, *other_tail]
    pieces = [
        reference[j : j + least] == alternative[i : i + least]
        for i in range(3, 2 + window - least + 1)
        for j in range(2, 2 + window - least + 1)
        if abs(i - j) <= shift and i + least <= len(alternative) and j + least <= len(reference)
    ]
    ended = len(tail) + 1 < window and len(other_tail) + 1 < window
    tails = [reference[j:] == alternative[3:] for j in range(2, 4 + shift) if j < len(reference)]
    expected = any(pieces) or (ended and any(tails))
    assert Rejoin(window=window, least=least, shift=shift)(reference, alternative) == expected


# The classifier.


def labelled(seed: int, rows: int, size: int, slope: float) -> tuple[Floats, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, size))
    return features, rng.logistic(size=rows) < slope * features[:, 0]


def test_a_fit_is_a_minimum_of_the_penalised_loss_of_standardised_features() -> None:
    features, important = labelled(3, 300, 8, 2.0)
    features = 5 + 3 * features
    standard = (features - features.mean(0)) / features.std(0)
    for strength in training.STRENGTHS:
        weights, bias = training.fit(features, important, strength)
        pull = expit(features @ weights + bias) - important
        assert np.abs(weights * features.std(0) / strength + standard.T @ pull).max() / 300 < 1e-5
        assert abs(pull.mean()) < 1e-5
    important = np.arange(40) < 30
    weights, bias = training.fit(np.zeros((40, 2)), important, 1.0)  # without information the bias is the log odds
    assert bias == pytest.approx(np.log(30 / 10), abs=1e-4)
    assert weights == pytest.approx(0)


def test_without_scikit_learn_training_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r'training a judge needs it: pip install "specsim\[judge\]"'):
        training.train(mined_of(4, 2.0), 2, np.random.default_rng(0))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_the_threshold_is_the_largest_of_enough_recall(scores: list[int], recall: float) -> None:
    probabilities = np.array(scores) / 20
    found = training.threshold_for(probabilities, np.ones(len(scores), bool), recall)
    assert (probabilities >= found).mean() >= recall
    for larger in probabilities[probabilities > found]:
        assert (probabilities >= larger).mean() < recall


def mined_of(seed: int, slope: float, prompts: int = 60, each: int = 20) -> Mined:
    """Two features of the draft and one of the target, the first of which tells."""
    features, important = labelled(seed, prompts * each, 3, slope)
    scaled = (50 + 10 * features).astype(np.float32)
    index = np.repeat(np.arange(prompts), each)
    nothing = np.zeros(len(index), np.int64)
    return Mined(features=scaled, important=important, prompt=index, position=nothing, token=nothing)


def test_what_can_be_separated_is() -> None:
    mined = mined_of(4, 1e6)
    found, report = training.train(mined, 2, np.random.default_rng(0))
    assert report.auc > 0.999
    assert report.recall >= training.RECALL
    assert report.wrongly < 0.2
    assert (found.draft_weights.shape, found.target_weights.shape) == ((2,), (1,))
    fresh = mined_of(5, 1e6)
    told = found.probabilities(fresh.features) >= found.threshold
    assert told[fresh.important].mean() > 0.8
    assert told[~fresh.important].mean() < 0.05


def test_recall_holds_and_auc_is_half_where_nothing_tells() -> None:
    """The negative control: from noise nothing is learned, and the threshold still keeps nine in ten."""
    _, report = training.train(mined_of(6, 0.0, prompts=400), 2, np.random.default_rng(0))
    kinds = report.validation_mismatches / 2
    assert abs(report.auc - 0.5) < 4 * np.sqrt((2 * kinds + 1) / (12 * kinds * kinds))
    assert report.recall >= training.RECALL
    assert report.unimportant < 0.2


def test_a_prompt_is_trained_on_or_validated_on_not_both() -> None:
    mined = mined_of(7, 1.0)
    kept = training.validation(mined, np.random.default_rng(1))
    assert not set(mined.prompt[kept]) & set(mined.prompt[~kept])
    assert len(set(mined.prompt[kept])) == 6
    with pytest.raises(UserError, match=r"^judge: 1200 important of 1200 mismatches are too few"):
        training.train(replace(mined, important=np.ones(1200, bool)), 2, np.random.default_rng(0))


# The checkpoint.


@pytest.fixture
def saved(pair: Pair, tmp_path: Path) -> Path:
    _, report = training.train(mined_of(4, 2.0), 2, np.random.default_rng(0))
    judge.save(tmp_path / "judge", some_judge(pair), *pair, asdict(report), {"seed": 1})
    return tmp_path / "judge"


def test_a_judge_comes_back_as_it_was(pair: Pair, saved: Path) -> None:
    """And knows its pair in another precision and inflated."""
    found, expected = judge.load(saved, *pair), some_judge(pair)
    np.testing.assert_allclose(found.draft_weights, expected.draft_weights, rtol=1e-6)
    np.testing.assert_allclose(found.target_weights, expected.target_weights, rtol=1e-6)
    assert (found.bias, found.threshold) == (expected.bias, expected.threshold)
    coarse = [replace(m, module=related_model(m, 0, 0.0).module.to(torch.bfloat16)) for m in pair]
    judge.load(saved, *coarse)
    judge.load(saved, inflate(pair[0], 4.0), pair[1])


def test_a_judge_of_another_pair_or_a_damaged_one_is_refused_in_one_line(pair: Pair, saved: Path) -> None:
    def refused(reason: str, models: Pair = pair) -> None:
        with pytest.raises(UserError, match=reason) as error:
            judge.load(saved, *models)
        assert "\n" not in str(error.value)

    stranger = random_model("llama", 77, VOCABULARY)
    wider = random_model("llama", 77, VOCABULARY, hidden_size=32)
    talker = random_model("llama", 77, VOCABULARY + 1)
    for models, reason in (
        ((stranger, pair[1]), r"its target is another model \(hidden states differ by"),
        ((pair[0], stranger), r"its draft is another model \(hidden states differ by"),
        (pair[::-1], "its draft is another model"),
        ((wider, pair[1]), "its target has hidden_size 16, but this one has 32"),
        ((pair[0], talker), "its draft has vocabulary 11, but this one has 12"),
    ):
        refused(rf"^--judge {saved}: {reason}", models)
    config = (saved / judge.CONFIG).read_text()
    for changes, reason in (
        ({"kind": "trace"}, "kind is 'trace', expected 'judge'"),
        ({"schema_version": 9}, "schema_version is 9, supported: 1"),
        ({"threshold": 1.5}, "threshold is not from 0 to 1"),
        ({"bias": "x"}, "cannot be loaded"),
        ({"models": {}}, "cannot be loaded"),
    ):
        (saved / judge.CONFIG).write_text(json.dumps(json.loads(config) | changes))
        refused(reason)
    (saved / judge.CONFIG).write_text(config)
    (saved / judge.WEIGHTS).write_bytes(b"no zip")
    refused(r"weights\.npz: is not what judge\.json was written with, expected both of one run")
    without = {name: value for name, value in json.loads(config).items() if name != judge.HASH}
    (saved / judge.CONFIG).write_text(json.dumps(without))  # as judges were before they told it
    refused("is no .npz of arrays")
    np.savez(saved / judge.WEIGHTS, draft=np.zeros(16, np.float32), target=np.zeros(15, np.float32))
    refused(r"weights are of shapes \(\(16,\), \(15,\)\)")
    (saved / judge.WEIGHTS).unlink()
    refused("no such file")


# Decoding.


def decode(
    pair: Pair, threshold: float, k: int, budget: int, rule: SamplingRule = GREEDY, prompts=RAGGED, **bias: float
) -> list[Decoded]:
    """Decode prompts with some judge."""
    judge_rule = autojudge.JudgeRule(replace(some_judge(pair), **bias), threshold)
    task = task_of(range(len(RAGGED)), budget, rule)
    return run(chain_with(judge_rule, pair, Options(draft_rule=rule, k=k), prompts, task))


def apart_from_the_judge(decoded: Sequence[Decoded]) -> list[tuple[list[int], list[object]]]:
    """The judge's draft reads its last token as well, and is asked; all else has to be equal."""
    return [(d.tokens, [replace(r, draft_passes=0, judged=0) for r in d.rounds]) for d in decoded]


either_rule = pytest.mark.parametrize("rule", [GREEDY, FREE], ids=["greedy", "sampled"])


@either_rule
@pytest.mark.parametrize("k", [1, 4])
def test_with_threshold_0_it_is_exact_speculation(pair: Pair, rule: SamplingRule, k: int) -> None:
    """Sampled, the exact rule keeps tokens that are not the first choice; none of them is the judge's doing."""
    found = decode(pair, 0.0, k, 20, rule)
    options, task = Options(draft_rule=rule, k=k), task_of(range(len(RAGGED)), 20, rule)
    expected = run(speculative.METHOD.begin(Models(target=pair[0], draft=pair[1]), options)(RAGGED, task))
    judged = [r.judged for d in found for r in d.rounds]
    assert judged == [int(r.accepted < r.drafted) for d in found for r in d.rounds]
    assert max(judged) == 1
    assert apart_from_the_judge(found) == apart_from_the_judge(expected)
    loose = decode(pair, 0.5, k, 20, rule)
    assert [d.tokens for d in loose] != [d.tokens for d in expected]
    rounds = [r for d in loose for r in d.rounds]
    assert all(r.judged - r.overruled == (r.accepted < r.drafted) for r in rounds)
    assert any(r.overruled for r in rounds)


@either_rule
def test_with_threshold_1_everything_is_accepted(pair: Pair, rule: SamplingRule) -> None:
    found = decode(pair, 1.0, 3, 20, rule, bias=1e6)  # sure of everything's importance
    assert all(r.accepted == r.drafted for d in found for r in d.rounds if r.cut_by != "eos")
    assert sum(r.overruled for d in found for r in d.rounds) > 0
    strict = decode(pair, 0.999, 3, 20, rule, bias=1e6)
    assert any(r.accepted < r.drafted for d in strict for r in d.rounds)


def judged_without_cache(
    pair: Pair, prompt: list[int], weights: Judge, threshold: float, k: int, budget: int
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The paper's greedy loop with everything read anew: the output, and what each round committed, asked the judge
    about and kept on its word.
    """
    target, draft = pair
    output: list[int] = []
    rounds: list[tuple[int, int, int]] = []
    while len(output) < budget and (not output or output[-1] not in target.ends):
        begin, drafted, kept = len(output), min(k, budget - len(output) - 1), 0
        judged = overruled = 0
        while kept < drafted:
            token, own = first_choice(draft, prompt + output), first_choice(target, prompt + output)
            chance = weights.probabilities(features_without_cache(pair, [*prompt, *output, token])[None])[0]
            judged += token != own
            if token != own and chance >= threshold:
                break
            overruled += token != own
            output.append(token)
            kept += 1
        output.append(first_choice(target, prompt + output))
        ends = [i for i, t in enumerate(output[begin:], begin) if t in target.ends]
        output = output[: ends[0] + 1] if ends else output
        rounds.append((len(output) - begin, judged, overruled))
    return output, rounds


@pytest.mark.parametrize("k", [1, 2, 5])
def test_greedy_decoding_is_the_papers_loop(pair: Pair, k: int) -> None:
    found = decode(pair, 0.5, k, 16)
    expected = [judged_without_cache(pair, p, some_judge(pair), 0.5, k, 16) for p in RAGGED]
    assert [(d.tokens, [(r.committed, r.judged, r.overruled) for r in d.rounds]) for d in found] == expected
    assert [decode(pair, 0.5, k, 16, prompts=[p])[0] for p in RAGGED] == found
    rounds = [r for d in found for r in d.rounds]
    assert any(r.overruled for r in rounds)
    assert any(r.judged > r.overruled for r in rounds)
    assert k == 1 or any(r.judged > r.overruled > 0 for r in rounds)
    assert any(r.accepted < r.drafted for r in rounds)


# Three drafts: p of each, and the judge's log odds that it matters. The exact rule keeps what is the first choice, or
# sampled, what has a p above the number 0.5.
CASES = [
    ((0.9, 0.9, 0.9), (5, 5, 5), 3, (3, 0, 0)),  # nothing to ask about
    ((0.9, 0.2, 0.2), (5, -5, 5), 3, (2, 1, 2)),  # one kept, then one refused
    ((0.2, 0.2, 0.2), (-5, -5, -5), 3, (3, 3, 3)),  # all kept
    ((0.2, 0.2, 0.9), (5, -5, 5), 3, (0, 0, 1)),  # what stands behind a refusal is not asked about
    ((0.2, 0.9, 0.2), (-5, 5, 5), 3, (2, 1, 2)),  # of what the exact rule keeps the judge is not asked
    ((0.2, 0.2, 0.2), (-5, 5, 5), 1, (1, 1, 1)),  # what is not drafted is not asked about
    ((0.2, 0.2, 0.2), (5, 5, 5), 0, (0, 0, 0)),
    ((0.2, 0.2, 0.2), (0, 5, 5), 3, (0, 0, 1)),  # on the threshold it matters
]


@either_rule
def test_tokens_that_are_judged_and_overruled_by_hand(rule: SamplingRule) -> None:
    """All cases as one batch."""
    p, log_odds, lengths, expected = zip(*CASES, strict=True)
    rows = len(CASES)
    weights = Judge(draft_weights=np.ones(1), target_weights=np.zeros(1), bias=0.0, threshold=0.5)
    logits = torch.tensor([[[chance, 1 - chance] for chance in (*row, 0.5)] for row in p]).log()
    states = torch.tensor(log_odds, dtype=torch.float32)[..., None]
    tokens = torch.zeros((rows, 3), dtype=torch.long)
    proposal = Proposal(tokens=tokens, lengths=np.array(lengths), passes=np.zeros(rows, np.int64), hidden=states)
    numbers, hidden = np.full((rows, 4), 0.5), torch.zeros(rows, 4, 1)
    seen = Seen(logits=logits, proposal=proposal, rule=rule, numbers=numbers, hidden=hidden)
    found = verify(seen, autojudge.JudgeRule(weights))
    assert list(zip(found.accepted, found.overruled, found.judged, strict=True)) == list(expected)


# The bundled judge, and the script that trains it.


def test_the_bundled_judge_keeps_mismatches_of_the_bundled_pair() -> None:
    pair, prompts = bundled_pair(), bundled_prompts()[:8]
    models = Models(target=pair.target, draft=pair.draft, judge=judge.BUNDLED)

    def overruled(threshold: float | None) -> int:
        options = Options(draft_rule=GREEDY, k=4, judge_threshold=threshold)
        decoded = run(autojudge.METHOD.begin(models, options)(prompts, task_of(range(8), 24)))
        return sum(r.overruled for d in decoded for r in d.rounds)

    assert overruled(0.0) == 0
    assert 0 < overruled(None) < overruled(1.0)
    with pytest.raises(UserError, match="its draft"):
        judge.load(judge.BUNDLED, pair.draft, pair.target)


def test_the_bundled_judge_says_how_it_was_trained() -> None:
    config = json.loads((judge.BUNDLED / judge.CONFIG).read_text())
    report = config["training"]
    assert report["mismatches"] > 1000
    assert report["recall"] >= training.RECALL
    assert report["auc"] == max(report["aucs"].values()) > 0.5
    assert config["threshold"] == report["threshold"]


def test_the_script_trains_a_judge(
    random_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"prompt": " ".join(f"w{i}" for i in rng.integers(40, size=6))}) for _ in range(60)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    # The words of a random pair, and models of little contrast, which come back to their own text now and then.
    target = random_model("llama", 31, 41, initializer_range=0.15, max_position_embeddings=128)
    folders = [shutil.copytree(random_pair[0], tmp_path / name) for name in ("target", "draft")]
    for folder, model in zip(folders, (target, related_model(target, 5, 0.3)), strict=True):
        model.module.save_pretrained(folder)
    monkeypatch.syspath_prepend(EXAMPLES)
    command = ["--target", folders[0], "--draft", folders[1], "--prompts", tmp_path / "prompts.jsonl"]
    command += ["--out", tmp_path / "judge", "--max-new-tokens", 12]

    def script() -> Result:
        return CliRunner().invoke(import_module("train_judge").main, list(map(str, command)), catch_exceptions=False)

    done = script()
    assert done.exit_code == 0, done.stderr
    assert "AUC" in done.stdout
    pair = load_pair(*map(str, folders), device="cpu", dtype="float32")
    judge.load(tmp_path / "judge", pair.target, pair.draft)
    again = script()
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "exists already (--force overwrites it)" in again.stderr
