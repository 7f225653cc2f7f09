"""Medusa's and EAGLE's heads: exact whatever the heads say, their state the committed text's alone, bundled ones good.

Oracles are decoding without heads, enumeration of tiny models, and an EAGLE head that reads everything anew for every
token, without a cache. Long because both kinds of heads stand the same tests, as chains and as trees.
"""

import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product, zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import acceptance
from acceptance.decoders import baseline, eagle, heads, medusa
from acceptance.decoders.batch import Decoded, Task, start
from acceptance.decoders.chain import Chain, FixedLength
from acceptance.decoders.decoder import run
from acceptance.decoders.method import Models, Options
from acceptance.decoders.tree import TreeDecoder
from acceptance.models import laws
from acceptance.models import load as models
from acceptance.models.context import Context, padded
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from simulator.ground.artefacts import UserError

from .oracles import FREE, GREEDY, Say, Text, branches, enumerate_texts
from .test_exactness import FIRST, LEVEL, OWN_LAWS, POWER, beginning, g_test, plan_of, tally
from .tiny_models import random_model

METHODS = {method.name: method for method in (*medusa.METHODS, *eagle.METHODS)}
Prompts = Sequence[Sequence[int]]
CHAINS, TREES = {"medusa": medusa.MedusaDraft, "eagle": eagle.EagleDraft}, ("medusa-tree", "eagle-tree")
ROOT = Path(acceptance.__file__).parents[1]
PAIR = ROOT / "acceptance" / "tiny_pair"
CARD = heads.BUNDLED / "README.md"
SHAPES = {
    "medusa": {"heads": 4, "blocks": 2},
    "eagle": {"heads": 2, "kv_heads": 1, "mlp_size": 24, "rope_theta": 10_000.0},
}
TREE = [[0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0, 0]]


def random_heads(kind: str, target: Model, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    module = heads.KINDS[kind](hidden_size=heads.hidden_size_of(target), **SHAPES[kind])
    for weight in module.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.4)
    return module.eval().requires_grad_(False)


def save_heads(folder: Path, target: Model, modules: dict[str, torch.nn.Module], shapes: dict, tree: list) -> Models:
    """Heads of either kind as files, and what methods take."""
    for kind, module in modules.items():
        what = {"shape": shapes[kind], "weights_sha256": "", "training": {}}
        heads.save(folder / kind, kind, module, target=target, more={"tree": tree} if kind == "medusa" else {}, **what)
    return Models(target=target, medusa=folder / "medusa", eagle=folder / "eagle")


def save_random(folder: Path, target: Model) -> Models:
    return save_heads(folder, target, {kind: random_heads(kind, target, 1) for kind in SHAPES}, SHAPES, TREE)


def task_of(prompts: int, budget: int, rule: SamplingRule = GREEDY, first: int = 0) -> Task:
    return Task(rule=rule, max_new_tokens=budget, rngs=laws.streams(7, range(first, first + prompts)))


def decode(
    name: str, parts: Models, prompts: Prompts, budget: int, rule: SamplingRule = GREEDY, **knobs: int
) -> list[Decoded]:
    """Decode prompts as one batch, or one by one where the method asks for it."""
    if METHODS[name].batched:
        begin = METHODS[name].begin(parts, Options(draft_rule=rule, **knobs))
        return run(begin(prompts, task_of(len(prompts), budget, rule)))
    return decode_alone(name, parts, prompts, budget, rule, **knobs)


def decode_alone(
    name: str, parts: Models, prompts: Prompts, budget: int, rule: SamplingRule = GREEDY, **knobs: int
) -> list[Decoded]:
    begin = METHODS[name].begin(parts, Options(draft_rule=rule, **knobs))
    return [run(begin([p], task_of(1, budget, rule, i)))[0] for i, p in enumerate(prompts)]


def plain(target: Model, prompts: Prompts, budget: int, rule: SamplingRule = GREEDY) -> list[list[int]]:
    task = task_of(len(prompts), budget, rule)
    return baseline.decode(target, prompts, rule=rule, max_new_tokens=budget, rngs=task.rngs)


def tokens_per_round(outputs: Sequence[Decoded]) -> float:
    rounds = [r for output in outputs for r in output.rounds]
    return sum(r.committed for r in rounds) / len(rounds)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Models:
    target = replace(random_model("llama", 51, 11), ends=(10,))
    return save_random(tmp_path_factory.mktemp("heads"), target)


@pytest.fixture(scope="module")
def bundled() -> Models:
    target, draft = str(PAIR / "target"), str(PAIR / "draft")
    pair = models.load_pair(target, draft, device="cpu", dtype="float32")
    return Models(target=pair.target, medusa=heads.BUNDLED / "medusa", eagle=heads.BUNDLED / "eagle")


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer) -> list[list[int]]:  # type: ignore[no-untyped-def]
    lines = (PAIR / "prompts.jsonl").read_text().splitlines()
    return [tiny_tokenizer(json.loads(line)["prompt"]).input_ids for line in lines]


RAGGED = [[1], [3, 1, 4, 1, 5], [2, 7], [9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]]


@pytest.mark.parametrize("name", METHODS)
def test_greedy_output_is_the_targets_whatever_the_heads_say(
    tiny: Models, bundled: Models, prompts: list[list[int]], name: str
) -> None:
    some = [prompts[0][:1], *prompts[3:9]]
    for parts, texts, budget, k in ((tiny, RAGGED, 20, 1), (tiny, RAGGED, 20, 4), (bundled, some, 32, 4)):
        outputs = decode(name, parts, texts, budget, k=k)
        assert [d.tokens for d in outputs] == plain(parts.target, texts, budget)
        assert max(r.accepted for d in outputs for r in d.rounds) > 0


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("rule", [FREE, SamplingRule(temperature=0.7, top_k=4)], ids=["free", "top-k"])
def test_sampled_trees_are_plain_decoding_token_by_token(tiny: Models, name: str, rule: SamplingRule) -> None:
    outputs = decode(name, tiny, RAGGED, 20, rule)
    assert [d.tokens for d in outputs] == plain(tiny.target, RAGGED, 20, rule)
    assert max(r.accepted for d in outputs for r in d.rounds) > 1


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("rule", [GREEDY, FREE], ids=["greedy", "free"])
def test_a_rows_output_depends_on_no_other_row(tiny: Models, name: str, rule: SamplingRule) -> None:
    assert decode(name, tiny, RAGGED, 20, rule) == decode_alone(name, tiny, RAGGED, 20, rule)


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_chains_take_targets_of_other_families(tmp_path: Path, kind: str) -> None:
    parts = save_random(tmp_path, random_model(kind, 52, 11))
    for name in CHAINS:
        outputs = decode(name, parts, RAGGED, 12)
        assert [d.tokens for d in outputs] == plain(parts.target, RAGGED, 12)


TARGET = replace(random_model("llama", 1, 4, initializer_range=0.4), ends=(2,))
SAMPLED = [(name, draft_rule) for name in CHAINS for draft_rule in (FREE, GREEDY)]
HOT = SamplingRule(temperature=1.5)


@cache
def hot_law() -> tuple[dict[int, dict[Text, float]], int]:
    """The law of what chains of random heads begin with, and how many outputs a test of it takes."""
    law = {i: enumerate_texts(Say(TARGET, HOT, p), TARGET.ends, FIRST) for i, p in enumerate(OWN_LAWS)}
    return law, next(n for n in range(24_000, 160_000, 4_000) if plan_of(law, n).power >= POWER)


def fit(name: str, draft_rule: SamplingRule) -> float:
    """The p-value of such outputs under the target's law."""
    law, outputs = hot_law()
    rng, which = np.random.default_rng(3), np.arange(outputs) % len(OWN_LAWS)
    task = Task(rule=HOT, max_new_tokens=5, rngs=[rng] * outputs)
    draft = CHAINS[name](TARGET, random_heads(name, TARGET, 2), draft_rule)
    texts = [OWN_LAWS[i] for i in which]
    decoded = run(Chain(TARGET, draft, texts, task, lengths=FixedLength(3), keep_hidden=True))
    return g_test(tally(list(zip(which.tolist(), decoded, strict=True)), beginning), law)


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "draft_rule"), SAMPLED)
def test_sampled_chains_follow_the_targets_law_jointly(name: str, draft_rule: SamplingRule) -> None:
    assert fit(name, draft_rule) > LEVEL / len(SAMPLED)


@pytest.mark.statistical
@pytest.mark.parametrize("name", CHAINS)
def test_a_draft_that_only_says_that_it_sampled_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: tokens are first choices, but are judged as if they had been drawn from q."""
    right = CHAINS[name].propose

    def propose(*arguments):  # type: ignore[no-untyped-def]
        proposal = right(*arguments)
        return proposal if proposal.laws is None else replace(proposal, tokens=proposal.laws.argmax(-1))

    monkeypatch.setattr(CHAINS[name], "propose", propose)
    assert fit(name, FREE) < LEVEL / len(SAMPLED)


# Alignment and caches.


@torch.inference_mode()
def hidden_of(target: Model, tokens: Sequence[int]) -> torch.Tensor:
    """f_t of every token, read at once, [n, d]."""
    return target.module(torch.tensor([list(tokens)]), output_hidden_states=True).hidden_states[-1][0]


@torch.inference_mode()
def test_the_output_head_reads_the_next_token_from_what_a_context_keeps() -> None:
    for kind in ("llama", "gpt2", "mistral"):
        context = Context(random_model(kind, 53, 11), 1, keep_hidden=True)
        logits = context.read(*padded([RAGGED[3]], "cpu"), len(RAGGED[3]))
        torch.testing.assert_close(heads.token_logits(context.model, context.hidden), logits)


@torch.inference_mode()
def feature_from_scratch(module: heads.Eagle, target: Model, tokens: Sequence[int], committed: int) -> torch.Tensor:
    """The head's feature behind all tokens; what follows the committed ones it reads from features of its own."""
    features = list(hidden_of(target, tokens[: committed - 1]))
    embedded = target.module.get_input_embeddings()(torch.tensor([tokens[1:]]))
    while True:
        n = len(features)
        state, *parts = module.project(embedded[:, :n], torch.stack(features)[None], torch.arange(n)[None])
        found = module.finish(state, heads.attend(*parts))[0, -1]
        if n == len(tokens) - 1:
            return found
        features.append(found)


@torch.inference_mode()
def chain_from_scratch(module: heads.Eagle, target: Model, committed: Sequence[int], k: int) -> list[int]:
    tokens = list(committed)
    for _ in range(k):
        feature = feature_from_scratch(module, target, tokens, len(committed))
        tokens.append(int(heads.token_logits(target, feature).argmax()))
    return tokens[len(committed) :]


@torch.inference_mode()
def tree_from_scratch(
    module: heads.Eagle, target: Model, committed: Sequence[int], grower: eagle.EagleTree, depth: int
) -> tuple[set[Text], int]:
    """The paths that stay, and how many do not."""
    weights: dict[Text, float] = {(): 0.0}
    frontier: list[Text] = [()]
    for _ in range(min(depth, grower.depth)):
        level = {}
        for path in frontier:
            feature = feature_from_scratch(module, target, [*committed, *path], len(committed))
            logs = heads.token_logits(target, feature).log_softmax(-1)
            for token in logs.topk(min(grower.branches, target.vocabulary)).indices.tolist():
                level[(*path, token)] = weights[path] + float(logs[token])
        weights |= level
        frontier = sorted(level, key=lambda p: -level[p])[: grower.branches]
    del weights[()]
    best = sorted(weights, key=lambda p: -weights[p])
    return set(best[: grower.budget]), len(best[grower.budget :])


def go_on(decoder: Chain | TreeDecoder, rounds: int) -> int:
    """Decode so many rounds or to the end; return the most tokens that a round accepted."""
    most = 0
    for _ in range(rounds):
        proposal = decoder.propose()
        running = decoder.commit(proposal, decoder.verify(proposal))
        most = max(most, *(d.rounds[-1].accepted for d in decoder.batch.outputs))
        decoder.select(running)
        if not len(running):
            break
    return most


def committed_of(decoder: Chain | TreeDecoder) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(decoder.batch.tokens, decoder.batch.lengths, strict=True)]


def chain_of(target: Model, drafter: Any, prompts: Sequence[Sequence[int]]) -> Chain:
    """A chain of four on prompts within the target's vocabulary."""
    texts = [[token % target.vocabulary for token in prompt] for prompt in prompts]
    task = task_of(len(texts), 40)
    return Chain(target, drafter, texts, task, lengths=FixedLength(4), keep_hidden=True)


@torch.inference_mode()
def agreement_with_scratch(rounds: int) -> tuple[float, int]:
    """How far the features of a chain stand from those made from scratch after so many rounds, and if they all draft
    the same; and the most tokens that were accepted in a round.
    """
    target = random_model("llama", 54, 5)
    module = random_heads("eagle", target, 4)
    decoder = chain_of(target, eagle.EagleDraft(target, module, GREEDY), RAGGED)
    most = go_on(decoder, rounds)
    drafted = decoder.propose().tokens.tolist()
    texts = committed_of(decoder)
    if drafted != [chain_from_scratch(module, target, text, 4) for text in texts]:
        return np.inf, most
    fresh = torch.stack([feature_from_scratch(module, target, text, len(text)) for text in texts])
    return float((decoder.drafter.reader.last - fresh).abs().max()), most


@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
def test_after_some_rounds_a_chain_drafts_as_if_from_scratch(rounds: int) -> None:
    apart, most = agreement_with_scratch(rounds)
    assert apart < 1e-4
    assert rounds < 5 or most >= 2


def test_features_that_are_not_refreshed_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: after a round the head keeps to a feature of its own in place of the target's."""
    right = eagle.Reader.note

    def note(reader, hidden, valid):  # type: ignore[no-untyped-def]
        if hasattr(reader, "last"):
            hidden = torch.cat((reader.last[:, None], hidden[:, 1:]), dim=1)
        right(reader, hidden, valid)

    monkeypatch.setattr(eagle.Reader, "note", note)
    assert agreement_with_scratch(5)[0] > 1e-2


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_a_tree_grows_as_if_from_scratch(rounds: int) -> None:
    target, prompt = random_model("llama", 55, 7), [3, 1, 4]
    module = random_heads("eagle", target, 5)
    grower = eagle.EagleTree(target, module, FREE, depth=4, branches=3, budget=11)
    decoder = TreeDecoder(target, grower, [prompt], task_of(1, 30), keep_hidden=True)
    most = go_on(decoder, rounds)
    assert rounds < 4 or most > 0
    for depth in (3, 4):
        tree = grower.grow(decoder.batch, depth)
        scratch = tree_from_scratch(module, target, committed_of(decoder)[0], grower, depth)
        assert (set(branches(tree)), tree.over_budget) == scratch
        assert tree.over_budget > tree.pruned == 0
        assert tree.depths.max() > 1


@torch.inference_mode()
def test_medusa_drafts_from_the_hidden_state_of_the_last_token_read() -> None:
    target = random_model("llama", 56, 5)
    module = random_heads("medusa", target, 6)
    draft = medusa.MedusaDraft(target, module, GREEDY)
    decoder = chain_of(target, draft, RAGGED[1:])
    assert go_on(decoder, 6) > 0
    drafted = decoder.propose().tokens
    for row, text in enumerate(committed_of(decoder)):
        hidden = hidden_of(target, text)[-2]
        torch.testing.assert_close(draft.hidden[row], hidden, atol=1e-4, rtol=1e-4)
        assert drafted[row].tolist() == heads.token_logits(target, module(hidden, 4)).argmax(-1).tolist()


def test_a_prompt_of_one_token_is_drafted_for_from_the_second_round_on(tiny: Models) -> None:
    for name in METHODS:
        (output,) = decode(name, tiny, [[4]], 12)
        assert [(r.drafted > 0, r.draft_passes > 0) for r in output.rounds[:2]] == [(False, False), (True, True)]


@pytest.mark.parametrize("name", ["eagle", "eagle-tree"])
def test_every_pass_of_an_eagle_head_is_counted(tiny: Models, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch a step takes the passes of its longest row; the prompts' own passes are no round's."""
    calls: list[int] = []
    right = eagle.Reader.step

    def step(reader, tokens, *more):  # type: ignore[no-untyped-def]
        calls.append(tokens.shape[1])
        return right(reader, tokens, *more)

    monkeypatch.setattr(eagle.Reader, "step", step)
    outputs = [] if name in TREES else [decode(name, tiny, RAGGED, 12)]
    outputs += [decode(name, tiny, [p], 12) for p in RAGGED[1:]]
    steps = [zip_longest(*([r.draft_passes for r in d.rounds] for d in found), fillvalue=0) for found in outputs]
    assert sum(max(passes) for found in steps for passes in found) == len(calls) - len(outputs)


@pytest.mark.parametrize("name", METHODS)
def test_budget_depth_and_branches_bound_what_is_drafted(tiny: Models, name: str) -> None:
    outputs = decode(name, tiny, RAGGED[1:], 9, k=3, tree_budget=6, parallel_branches=2)
    rounds = [r for d in outputs for r in d.rounds]
    assert max(r.depth for r in rounds) == 3
    assert max(r.drafted for r in rounds) == (6 if name in TREES else 3)
    assert all((r.leaves > 1) == (name in TREES) or r.drafted < 3 for r in rounds)
    assert any(r.over_budget for r in rounds) == (name == "eagle-tree")  # the heads' tree has one shape
    assert not any(r.pruned for r in rounds)
    for r in rounds:
        assert r.cut_by == ("max" if 9 - r.start - 1 < 3 else "")
        assert r.depth <= 9 - r.start - 1


def test_the_chosen_tree_is_the_best_of_all() -> None:
    accuracy = np.array([[0.5, 0.2, 0.1], [0.4, 0.15, 0.05], [0.3, 0.1, 0.02]])
    weights = {
        path: float(np.prod([accuracy[i, rank] for i, rank in enumerate(path)]))
        for depth in (1, 2, 3)
        for path in product(range(3), repeat=depth)
    }
    for nodes in (1, 4, 9):
        chosen = [tuple(path) for path in medusa.choose_tree(accuracy, nodes)]
        best = sorted(weights.values(), reverse=True)[:nodes]
        assert [weights[path] for path in chosen] == pytest.approx(best)
        assert all(path[:-1] in chosen[:i] for i, path in enumerate(chosen) if len(path) > 1)


# Files.


@pytest.mark.parametrize("kind", heads.KINDS)
def test_saved_heads_say_the_same_in_fp16(tiny: Models, kind: str) -> None:
    module, _ = heads.load(kind, getattr(tiny, kind), tiny.target)
    for found, expected in zip(module.parameters(), random_heads(kind, tiny.target, 1).parameters(), strict=True):
        assert (found == expected.half().float()).all()


def refused(kind: str, folder: Path, target: Model, message: str) -> None:
    with pytest.raises(UserError, match=rf"^--{kind} {folder}: {message}") as error:
        heads.load(kind, folder, target)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", heads.KINDS)
def test_heads_of_another_target_are_refused_in_one_line(tiny: Models, kind: str) -> None:
    others = {
        "hidden size 16 and 11 tokens, but --target has 32 and 11": random_model("llama", 51, 11, hidden_size=32),
        "hidden size 16 and 11 tokens, but --target has 16 and 12": random_model("llama", 51, 12),
        "made for another target": random_model("llama", 57, 11),
    }
    for words, other in others.items():
        refused(kind, getattr(tiny, kind), other, f".*{words}")


@pytest.mark.parametrize("kind", heads.KINDS)
def test_bundled_heads_know_their_target_in_every_precision(bundled: Models, kind: str) -> None:
    module = models.transformers.AutoModelForCausalLM.from_pretrained(PAIR / "target", dtype=torch.bfloat16).eval()
    found, _ = heads.load(kind, getattr(bundled, kind), replace(bundled.target, module=module))
    assert {w.dtype for w in found.parameters()} == {torch.bfloat16}


def test_what_cannot_be_loaded_is_named(tiny: Models, tmp_path: Path) -> None:
    target, parts = tiny.target, save_random(tmp_path, tiny.target)
    refused("medusa", parts.eagle, target, "holds eagle heads of format 1, expected medusa of 1")
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        heads.load("medusa", tmp_path / "nowhere", target)
    path = parts.medusa / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tree": [[0], [1, 0]]}))
    with pytest.raises(UserError, match=r"tree holds \[1, 0\], expected its parent before it"):
        METHODS["medusa-tree"].begin(parts, Options(draft_rule=GREEDY))
    path = parts.eagle / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"norm.weight": weights["norm.weight"] * torch.nan}, path)
    refused("eagle", parts.eagle, target, "its weights hold NaN or infinity")
    del weights["norm.weight"]
    save_file(weights, path)
    refused("eagle", parts.eagle, target, r"cannot be loaded \(Error.* loading state_dict")
    (parts.medusa / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"--medusa .*: cannot be loaded"):
        METHODS["medusa"].begin(parts, Options(draft_rule=GREEDY))


# The bundled heads.


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory, bundled: Models) -> Models:
    """Heads of the bundled shapes that learned nothing: Medusa's say the next token again."""
    configs = {kind: json.loads((getattr(bundled, kind) / "config.json").read_text()) for kind in heads.KINDS}
    modules = {}
    for kind, config in configs.items():
        torch.manual_seed(0)
        modules[kind] = heads.KINDS[kind](hidden_size=config["hidden_size"], **config["shape"])
    shapes, folder = {kind: config["shape"] for kind, config in configs.items()}, tmp_path_factory.mktemp("untrained")
    return save_heads(folder, bundled.target, modules, shapes, configs["medusa"]["tree"])


@pytest.mark.parametrize("kind", heads.KINDS)
def test_the_card_says_what_the_training_record_says(kind: str) -> None:
    record = json.loads((heads.BUNDLED / kind / "training.json").read_text())
    weights = load_file(heads.BUNDLED / kind / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == record["parameters"]
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert sum(p.stat().st_size for p in heads.BUNDLED.rglob("*") if p.is_file()) < 4e6
    for stated in (f"{record['parameters']:,}", *(f"{a:.3f}" for a in record["held_out_accuracy_by_depth"])):
        assert stated in CARD.read_text()


# At least so many tokens a round more than untrained heads, at temperature 0 and depth 4.
MARGINS = {"medusa": 0.2, "medusa-tree": 0.5, "eagle": 1.2, "eagle-tree": 2.0}


def pace_of(name: str, parts: Models, prompts: list[list[int]]) -> float:
    """Tokens a round; on fewer prompts for trees, which take them one by one."""
    return tokens_per_round(decode(name, parts, prompts[:: 10 if name in TREES else 4], 32))


@pytest.mark.parametrize("name", METHODS)
def test_bundled_heads_accept_clearly_more_than_untrained_ones(
    bundled: Models, untrained: Models, prompts: list[list[int]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = pace_of(name, bundled, prompts)
    assert trained > pace_of(name, untrained, prompts) + MARGINS[name]
    if name == "eagle":  # the negative control of the offset: f_t is read beside token t instead of token t + 1
        right = eagle.Reader.catch_up

        def shifted(reader, batch):  # type: ignore[no-untyped-def]
            return right(reader, replace(batch, tokens=np.roll(batch.tokens, 1, axis=1)))

        monkeypatch.setattr(eagle.Reader, "catch_up", shifted)
        assert pace_of(name, bundled, prompts) < trained - 0.4


@pytest.mark.parametrize("name", CHAINS)
def test_the_cards_tokens_per_round_are_found_again(bundled: Models, prompts: list[list[int]], name: str) -> None:
    stated = float(re.search(rf"\| `{name}` \|[^|]*pass[^|]*\| ([0-9.]+) \|", CARD.read_text()).group(1))
    # Another processor may break a near tie otherwise and turn an output; not more.
    assert tokens_per_round(decode(name, bundled, prompts, 64)) == pytest.approx(stated, abs=0.05)


def test_medusa_heads_one_place_off_accept_less(bundled: Models, prompts: list[list[int]]) -> None:
    """The negative control of the offset: head i + 1 in the place of head i."""
    module, _ = heads.load("medusa", heads.BUNDLED / "medusa", bundled.target)
    found = {}
    for off in (0, 1):
        other = heads.Medusa(hidden_size=256, heads=3, blocks=len(module.heads[0])).requires_grad_(False)
        other.heads = module.heads[off : off + 3]
        draft = medusa.MedusaDraft(bundled.target, other, GREEDY)
        some = prompts[::4]
        chain = Chain(bundled.target, draft, some, task_of(len(some), 32), lengths=FixedLength(3), keep_hidden=True)
        found[off] = tokens_per_round(run(chain))
    assert found[1] < found[0] - 0.2


# The training script.


SCRIPT = ROOT / "examples" / "train_heads.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("train_heads")


@pytest.fixture
def train(random_pair: tuple[Path, Path], tmp_path: Path, script: ModuleType) -> Callable[..., Result]:
    """Return a function that trains heads of a random target on some text."""
    command = ["--target", str(random_pair[0]), "--out", str(tmp_path / "heads"), "--text"]
    return lambda text, *more: CliRunner().invoke(script.main, [*command, str(text), *more])


def write_texts(folder: Path, files: int, words: int) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    for i in range(files):
        (folder / f"{i}.txt").write_text(" ".join(f"w{n}" for n in rng.integers(40, size=words)))
    return folder


def test_the_script_trains_heads_of_any_target(
    random_pair: tuple[Path, Path], tmp_path: Path, train: Callable[..., Result]
) -> None:
    text, out = write_texts(tmp_path / "text", 60, 80), tmp_path / "heads"
    small = ["--steps", "4", "--batch-size", "2", "--seq-len", "24", "--medusa-heads", "3"]
    found = train(text, *small)
    assert found.exit_code == 0, found.stderr
    assert re.search(r"medusa .* held-out accuracy by depth  1: 0\.\d+  2: 0\.\d+  3: 0\.\d+\n", found.stdout)
    assert re.search(r"eagle .* held-out accuracy by depth  1: 0\.\d+ ", found.stdout)
    pair = models.load_pair(str(random_pair[0]), str(random_pair[1]), device="cpu", dtype="float32")
    parts = Models(target=pair.target, medusa=out / "medusa", eagle=out / "eagle")
    for name in METHODS:
        assert [d.tokens for d in decode(name, parts, RAGGED, 8)] == plain(pair.target, RAGGED, 8)
    # What is there stays: a second run trains nothing and says the same.
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.*")}
    again = train(text, *small)
    assert (again.exit_code, again.stdout) == (0, found.stdout)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.*")}


def test_the_script_names_a_text_that_is_too_short(tmp_path: Path, train: Callable[..., Result]) -> None:
    for files, words in ((1, "1 files are too few"), (30, "tokens are too few, expected more than --seq-len 512")):
        text = write_texts(tmp_path / str(files), files, 3)
        found = train(text)
        assert found.exit_code == 1
        assert f"--text {text}: " in found.stderr
        assert words in found.stderr
        assert not (tmp_path / "heads").exists()


def test_training_unrolls_as_drafting_does(script: ModuleType) -> None:
    """After j steps of its own, what stands at t is what a chain begun at t - j says."""
    target, text, steps = random_model("llama", 58, 11), [3, 1, 4, 1, 5, 9, 2, 6], 3
    module = random_heads("eagle", target, 8)
    hidden = hidden_of(target, text)[None]
    with torch.inference_mode():
        unrolled = list(script.unroll(module, target, torch.tensor([text]), hidden, steps))
    for step, features in enumerate(unrolled):
        for t in range(step, len(text) - 1):
            committed = t + 2 - step
            expected = feature_from_scratch(module, target, text[: t + 2], committed)
            torch.testing.assert_close(features[0, t], expected, atol=1e-4, rtol=1e-4)


def test_padding_of_prompts_does_not_reach_the_head() -> None:
    """Rows read their prompts at once, padded on the left, and each as it would alone."""
    target = random_model("llama", 59, 11)
    module = random_heads("eagle", target, 9)
    reader = eagle.Reader(target, module, start(target, RAGGED, 4, keep_hidden=True))
    for row, prompt in list(enumerate(RAGGED))[1:]:
        expected = feature_from_scratch(module, target, prompt, len(prompt))
        torch.testing.assert_close(reader.last[row], expected, atol=1e-4, rtol=1e-4)
