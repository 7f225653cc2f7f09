"""What trees accept, from rates and along a text: against enumeration, a search node by node, and chains."""

import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.costs.drafters.plan import Tree
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.histogram import AcceptanceHistogram, alpha_iid, load_histogram
from simulator.ground.ranks import CLASSES, LAST_PLACE, RankTrace, parse_ranks
from simulator.rounds.acceptance_law import HistogramAcceptance
from simulator.rounds.priors import believed, further_choices
from simulator.rounds.tree_law import tree_acceptance, tree_of_alpha
from simulator.rounds.trees import (
    WIDE,
    best_of,
    check_tree,
    grown_text_depths,
    paths_of,
    rate_laws,
    static_depths,
    static_law,
    walk,
)
from simulator.rounds.trees import (
    Path as Node,
)

from .builders import result

MODELS = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "eagle3", "--replications", 2)
ROOT = Path(__file__).parents[2]
OTHER = ("--method", "draft_model", "--draft-model", "llama-3.2-1b", "--placement", "separate")


def goes(paths: set[Node], places: tuple[int, ...]) -> int:
    """How deep these places go in a tree, by looking."""
    return max(n for n in range(len(places) + 1) if n == 0 or places[:n] in paths)


def falling(rng: np.random.Generator, depth: int, places: int) -> np.ndarray:
    """Rates of places by depth, falling, and some for none of them."""
    return -np.sort(-rng.dirichlet(np.ones(places + 1), depth)[:, :places], axis=1)


def some_text(seed: int, tokens: int = 60, outputs: int = 4, alike: bool = False) -> RankTrace:
    rng = np.random.default_rng(seed)
    q = np.tile(falling(rng, 1, LAST_PLACE), (CLASSES, 1)) if alike else falling(rng, CLASSES, LAST_PLACE)
    inner = np.sort(rng.choice(np.arange(1, tokens), outputs - 1, replace=False))
    place = np.minimum(rng.geometric(0.5, tokens) - 1, LAST_PLACE)
    return RankTrace(place, rng.integers(CLASSES, size=tokens), np.array([0, *inner, tokens]), q)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12))
def test_the_law_of_a_tree_is_that_of_all_texts(seed: int, depth: int, places: int, nodes: int) -> None:
    rates = falling(np.random.default_rng(seed), depth, places)
    paths = paths_of((places,) * depth)[:nodes]
    law, with_none = np.zeros(depth + 1), np.column_stack((rates, 1 - rates.sum(1)))
    for text in product(range(places + 1), repeat=depth):
        law[goes(set(paths), text)] += np.prod(with_none[range(depth), list(text)])
    found = static_law(rates, paths)
    assert found == pytest.approx(law, abs=1e-12)
    expected = sum(np.prod([rates[d, r] for d, r in enumerate(path)]) for path in paths)
    assert found @ np.arange(depth + 1) == pytest.approx(expected)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_no_tree_of_as_many_nodes_accepts_more_than_the_best(seed: int, nodes: int) -> None:
    rates = falling(np.random.default_rng(seed), 3, 2)
    every = paths_of((2,) * 3)

    def mean(paths: tuple[Node, ...]) -> float:
        return float(static_law(rates, paths) @ np.arange(4))

    best = max((c for c in combinations(every, nodes) if all(p[:-1] in {(), *c} for p in c)), key=mean)
    check_tree(best)
    assert mean(best) >= mean(every[:nodes]) - 1e-12
    # Grown with as many children as nodes, it is the same one.
    assert rate_laws(rates, 2 if nodes < 3 else 6, nodes)[-1] == pytest.approx(static_law(rates, best))


def tree_of_search(rates: np.ndarray, topk: int, depth: int, nodes: int) -> set[Node]:
    """The best of all candidates, of levels that expand the topk best of the one before; one by one."""
    level: list[tuple[float, Node]] = [(1.0, ())]
    seen: list[tuple[float, Node]] = []
    for d in range(depth):
        children = [(s * rates[d, r], (*p, r)) for s, p in level for r in range(min(topk, rates.shape[1]))]
        seen += children
        level = sorted(children, key=lambda c: -c[0])[:topk]
    return {p for _, p in sorted(seen, key=lambda c: -c[0])[:nodes]}


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4), st.integers(1, 20))
def test_top_k_trees_are_those_of_a_search_node_by_node(seed: int, topk: int, depth: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    rates, believed = falling(rng, depth, 5), falling(rng, depth, 5)
    for k, law in enumerate(rate_laws(rates, topk, nodes, believed), 1):
        paths = tree_of_search(believed, topk, k, nodes)
        check_tree(sorted(paths, key=len))
        assert law == pytest.approx(static_law(rates[:k], tuple(paths)), abs=1e-12)


def of_published(name: str) -> dict[tuple[str, str], float]:
    """Tokens a round of the rows of a published case, by group and name."""
    cases = json.loads((ROOT / "calibration/published/tables/specbundle.json").read_text())["cases"]
    rows = next(case["rows"] for case in cases if case["name"] == name)
    return {(r["group"], r["name"]): r["tokens_per_round"] for r in rows}


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from((2, 9, 1 << 30)))
def test_the_best_of_many_are_those_of_a_sort_and_of_equals_the_earlier(seed: int, count: int, values: int) -> None:
    scores = np.random.default_rng(seed).integers(0, values, (4, WIDE + 50)).astype(np.float64)
    np.testing.assert_array_equal(best_of(scores, count), np.argsort(-scores, axis=1, kind="stable")[:, :count])


def test_chains_tell_how_many_tokens_a_round_published_trees_have() -> None:
    """EAGLE-3 in SGLang on 5 targets and 7 tasks: 7 % median, 20 % for nine of ten. Negative control: a draft that is
    as sure as it is right would have a fifth more.
    """
    chains, errors = of_published("specbundle-chains"), []
    for (group, name), tokens in of_published("specbundle-trees").items():
        task, is_tree, shape = name.partition(", tree ")
        known = {k: chains.get((group, f"{task}, K = {k}")) for k in (3, 5, 7)}
        if not is_tree or None in known.values():
            continue
        depth, topk, nodes = map(int, shape.split("/"))
        # P(A >= j), in straight lines of its logarithm between what the three chains add: to 7, which trees reach.
        steps = np.maximum(np.diff([known[3], known[5], known[7]]), 0.01)
        alpha = float(alpha_iid(known[3], 3))
        middle = np.interp(np.arange(1, 8), [2, 4.5, 6.5], np.log([alpha**2, steps[0] / 2, steps[1] / 2]))
        survival = np.exp(middle)
        survival[0] = alpha
        rates = survival / np.concatenate(([1.0], survival[:-1]))
        rates = np.column_stack((rates, np.outer(1 - rates, further_choices().rates)))[:depth]
        laws = (rate_laws(rates, topk, nodes - 1, said)[-1] for said in (believed(rates), rates))
        errors.append([np.log((1 + law @ np.arange(len(law))) / tokens) for law in laws])
    flat, sure = np.array(errors).T
    assert len(flat) > 60
    assert np.median(np.abs(flat)) < 0.07
    assert np.quantile(np.abs(flat), 0.9) < 0.2
    assert np.median(sure) > 0.15


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4), st.integers(1, 12))
def test_a_text_is_walked_token_by_token(seed: int, topk: int, depth: int, nodes: int) -> None:
    text, paths = some_text(seed), paths_of((topk,) * depth)[:nodes]
    depths = static_depths(text, paths)
    for a, b in zip(text.starts[:-1], text.starts[1:], strict=True):
        for at in range(a, b):
            assert depths[at] == goes(set(paths), tuple(text.place[at : min(at + depth, b)].tolist()))
    counts, levels = np.zeros(depth + 1), max(map(len, paths))
    for a, b in zip(text.starts[:-1], text.starts[1:], strict=True):
        at = a
        while at + depth <= b:
            counts[depths[at]] += 1
            at += depths[at] + 1
    assert walk(depths, text.starts, depth).tolist() == counts.tolist()
    assert depths.max() <= levels


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4), st.integers(1, 12))
def test_where_the_draft_is_as_sure_everywhere_all_trees_are_one(seed: int, topk: int, depth: int, nodes: int) -> None:
    """Then nothing is drawn, and the tree is that of its probabilities: exact."""
    text = some_text(seed, alike=True)
    found = grown_text_depths(text, topk, nodes, depth, np.random.default_rng(seed))
    for k in range(1, depth + 1):
        paths = tree_of_search(np.tile(text.q[0], (k, 1)), topk, k, nodes)
        assert found[k - 1].tolist() == static_depths(text, tuple(paths)).tolist()


def test_a_sure_draft_goes_deep_and_one_that_is_not_goes_wide() -> None:
    """Negative control: with the confidence of every token turned round, more is accepted no more."""
    rng = np.random.default_rng(5)
    size = 4000
    confidence = rng.integers(2, size=size) * (CLASSES - 1)
    sure, unsure = np.array([0.97, 0.01, 0.005]), np.array([0.3, 0.28, 0.26])
    rates = np.where(confidence[:, None] > 0, sure, unsure).cumsum(1)
    place = (rng.random(size)[:, None] > rates).sum(1)
    q = np.zeros((CLASSES, LAST_PLACE))
    q[:, :3] = unsure
    q[-1, :3] = sure
    means = []
    for said in (confidence, CLASSES - 1 - confidence):
        text = RankTrace(place, said, np.array([0, size]), q)
        counts = walk(grown_text_depths(text, 3, 6, 4, rng)[-1], text.starts, 4)
        means.append(counts @ np.arange(5) / counts.sum())
    plain = walk(
        static_depths(RankTrace(place, confidence, np.array([0, size]), q), paths_of((3,) * 2)[:6]), text.starts, 4
    )
    assert means[0] > means[1] + 0.3
    assert means[0] > plain @ np.arange(5) / plain.sum() + 0.3


def test_ranks_come_back_from_a_file_as_they_were_written() -> None:
    text = some_text(3)
    again = parse_ranks(Field(json.loads(json.dumps(text.as_json())), "x"))
    for name in ("place", "confidence", "starts"):
        assert getattr(again, name).tolist() == getattr(text, name).tolist()
    assert again.q == pytest.approx(text.q, rel=1e-3)
    assert len(text.some(30).place) < 60
    assert text.some(60) is text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "x: version is 9, expected a whole number from 1 to 1"),
        ({"place": ["0A"]}, "x: place[0] is '0A', expected letters from 0 to z"),
        ({"confidence": ["g"]}, "x: confidence[0] is 'g', expected letters from 0 to f"),
        ({"place": ["00"], "confidence": ["0"]}, "x: confidence[0] is '0', expected as many letters"),
        ({"place": []}, "x: place is [], expected as many lines"),
        ({"q": ["1"]}, f"x: q[0] is '1', expected {LAST_PLACE} probabilities, none above the one before it"),
        ({"q": []}, f"x: q is [], expected {CLASSES} rows"),
    ],
)
def test_wrong_ranks_are_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_ranks(Field(some_text(3).as_json() | change, "x"))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_trees_of_a_chains_histogram_have_its_first_choices() -> None:
    histogram = AcceptanceHistogram((30.0, 20.0, 10.0, 40.0))
    source = HistogramAcceptance((histogram,))
    alone = tree_acceptance(source, Tree(1, 9), 1)
    assert [alone.law(k) for k in (1, 2, 3)] == [pytest.approx(source.law(k)) for k in (1, 2, 3)]
    # Of the 30 % that miss, so many are second choices.
    assert tree_acceptance(source, Tree(2, 3), 1).law(1)[0] == pytest.approx(0.3 * (1 - further_choices().rates[0]))
    assert "bundled pair" in tree_acceptance(source, Tree(2, 3), 1).caveat
    with pytest.raises(UserError, match=r"^--topk: 40 is above 35, "):
        tree_acceptance(source, Tree(40, 50), 1)


def test_a_tree_of_one_choice_is_a_chain_of_whatever_was_measured(tmp_path: Path) -> None:
    ranked = load_histogram(hist_file(tmp_path, some_text(8)))
    folder = HistogramAcceptance((AcceptanceHistogram((2.0, 8.0)), ranked, AcceptanceHistogram((3.0, 1.0, 1.0, 3.0))))
    for source in (HistogramAcceptance((ranked,)), folder):
        k = np.arange(1, source.longest + 1)
        found = tree_acceptance(source, Tree(1, 9), 1)
        assert found.longest == source.longest
        assert found.tokens_per_round(k) == pytest.approx(source.tokens_per_round(k))
        drawn = [a.sample_tokens_per_round(k, np.random.default_rng(1), 20) for a in (found, source)]
        assert drawn[0] == pytest.approx(drawn[1])
    # Two nodes are a draft of one, whatever is drafted.
    assert tree_acceptance(folder, Tree(1, 2), 1).tokens_per_round(k) == pytest.approx([1.8] * 3)


def test_a_tree_of_rates_grows_by_what_the_draft_believes_and_has_its_root_among_its_nodes() -> None:
    rates = np.column_stack((np.full(3, 0.6), np.outer(np.full(3, 0.4), further_choices().rates)))
    found = tree_of_alpha(0.6, Tree(4, 7), 3)
    for k, law in enumerate(rate_laws(rates, 4, 6, believed(rates)), 1):
        assert found.law(k) == pytest.approx(law)


def test_levels_without_a_node_accept_nothing_in_any_draw() -> None:
    """Or half a round of each would make the deepest tree the best. Negative control: of levels that have some."""
    source = HistogramAcceptance((AcceptanceHistogram((2.0, 1.0, 0.5, 0.3, 0.2, 0.1)),))
    for nodes, same in ((4, True), (40, False)):
        found = tree_acceptance(source, Tree(4, nodes), 8)
        drawn = found.sample_tokens_per_round(np.arange(1, 6), np.random.default_rng(0), 200).mean(0)
        assert bool(np.isclose(drawn[-1], drawn[1])) is same


def test_a_tree_never_accepts_less_with_more_nodes_nor_with_more_alpha() -> None:
    means = [tree_of_alpha(0.6, Tree(3, nodes), 4).tokens_per_round(np.array(4)) for nodes in range(2, 20)]
    assert (np.diff(means) >= -1e-12).all()
    assert tree_of_alpha(0.7, Tree(3, 9), 4).tokens_per_round(np.array(4)) > means[7]


def hist_file(folder: Path, text: RankTrace) -> Path:
    path = folder / "accept_hist_k2.json"
    path.write_text(json.dumps({"k": 2, "hist": {"0": 3, "1": 4, "2": 9}, "samples": 16, "ranks": text.as_json()}))
    return path


def test_a_forecast_of_a_tree_from_the_ranks_of_its_histogram(run, tmp_path: Path) -> None:
    text = some_text(8, 400)
    hist = ("--hist", hist_file(tmp_path, text))
    answer = result(run, *MODELS, *hist, "--topk", 3, "--nodes", 8, "--draftN", 4)
    depths = grown_text_depths(text, 3, 7, 16, np.random.default_rng(0))[3]
    counts = walk(depths, text.starts, 4)
    assert answer["closed_form_tokens_per_round"] == pytest.approx(1 + counts @ np.arange(5) / counts.sum(), rel=1e-2)
    assert answer["tokens_per_round"] == pytest.approx(answer["closed_form_tokens_per_round"], rel=0.1)
    assert answer["models"]["passes"]["verification"]["tokens"] == 8
    assert answer["drafted"] == pytest.approx(7 * answer["rounds"])
    assert "along the text's ranks" in answer["parameters"]["acceptance_caveat"]
    swept = run(
        "sweep", *MODELS[:6], *hist, "--topk", 3, "--nodes", 8, "--draftN", "2,4", "--replications", 3, "--json"
    )
    assert swept.returncode == 0
    assert load_histogram(hist[1]).counts == (3, 4, 9)


def test_without_a_word_on_acceptance_a_method_has_its_prior(run) -> None:
    answer = result(run, *MODELS)
    assert answer["basis"]["acceptance"] == "prior"
    assert answer["verdict"]["condition"].startswith("if it accepts as EAGLE-3 in SpecBundle")
    assert answer["parameters"]["acceptance_prior"].startswith("EAGLE-3 in SpecBundle")
    assert answer["parameters"]["measured"] is False
    assert "alpha" not in answer["parameters"]
    assert answer["closed_form_tokens_per_round"] == pytest.approx(1 + 0.793 + 0.619 + 0.48 + 0.371)
    assert answer["verdict"]["speedup_ci95"][0] < answer["verdict"]["speedup"] < answer["verdict"]["speedup_ci95"][1]
    stated = result(run, *MODELS, "--alpha", 0.5)
    assert (stated["basis"]["acceptance"], stated["parameters"]["alpha"]) == ("stated", 0.5)
    draft = result(run, *MODELS[:4], "--draft-model", "llama-3.2-1b", "--replications", 2)
    assert (draft["basis"]["acceptance"], "alpha" in draft["parameters"]) == ("default", True)
    of_alpha = result(run, *MODELS, "--alpha", 0.5, "--topk", 2, "--nodes", 4)
    assert of_alpha["basis"]["acceptance"] == "stated"
    assert of_alpha["verdict"]["condition"].startswith("if it accepts with alpha 0.5 for first choices")
    tree = result(run, *MODELS, "--topk", 4, "--nodes", 16)
    assert tree["closed_form_tokens_per_round"] > answer["closed_form_tokens_per_round"]


def test_rates_may_rise_and_a_block_goes_no_further(run, tmp_path: Path) -> None:
    """A law of positions: 80 %, then half, then all of those, to K = 12; DSpark's block has 7 of them."""
    survival = [0.8, 0.4, 0.4, *(0.4 * 0.9**j for j in range(1, 10))]
    path = tmp_path / "accept_hist_k12.json"
    path.write_text(json.dumps({"k": 12, "hist": survival, "as": "rates"}))
    block = (*MODELS[:4], "--method", "dspark", "--hist", path, "--replications", 2)
    answer = result(run, *block, "--draftN", 3)
    assert answer["closed_form_tokens_per_round"] == pytest.approx(1 + sum(survival[:3]))
    assert answer["verdict"]["searched_to"] == 7
    longer = run("simulate", *block, "--draftN", 8)
    assert (longer.returncode, longer.stderr.count("\n")) == (2, 1)
    assert "--draftN: 8 is above 7, a block of " in longer.stderr
    assert result(run, *MODELS, "--hist", path, "--draftN", 8)["verdict"]["searched_to"] == 12


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((*OTHER, "--topk", 2, "--nodes", 5, "--overlap"), "--overlap: the next draft of a tree is not known ahead"),
        (("--topk", 2, "--nodes", 5, "--hist", "HIST", "--no-measured"), "--no-measured: trees take more than one"),
        (("--method", "ngram", "--topk", 2, "--nodes", 5), "--topk: drafts of n-gram do not branch, expected no such"),
        (("--method", "lookahead", "--topk", 2, "--nodes", 5), "--topk: drafts of lookahead do not branch"),
        (("--method", "dflash", "--topk", 2, "--nodes", 5), "--topk: drafts of DFlash do not branch"),
        (("--topk", 40, "--nodes", 50), "--topk: 40 is above 35"),
        (("--draftN", 17), "--draftN: 17 is above k = 16 of EAGLE-3 in SpecBundle"),
        (("--draftN", 17, "--topk", 2, "--nodes", 40), "in SpecBundle, expected 1 to 16\n"),
        (("--method", "dflash", "--draftN", 16), "--draftN: 16 is above k = 15 of DFlash"),
    ],
)
def test_what_does_not_go_together_is_one_line(run, tmp_path: Path, more: tuple[object, ...], message: str) -> None:
    hist = hist_file(tmp_path, some_text(1))
    named = (*MODELS[:4], *(() if "--method" in more else MODELS[4:]))
    done = run("simulate", *named, *(hist if m == "HIST" else m for m in more))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
