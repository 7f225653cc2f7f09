"""`measure-acceptance` of servers: the trace is that of the same models run here, and what goes wrong is said."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceptance.servers.engines import UNKNOWN, Sglang, Vllm
from acceptance.trace.trace import ARRAYS, Trace, load_trace
from tests.calib.made_server import refusal
from tests.conftest import SCRIPTS

from .scoring_server import ScoringServer

# What sums over the vocabulary, which no server gives.
SUMS = {"entropy_p", "entropy_q", "overlap", "p_argmax_q", "log_q_rejected"}
SMALL = ("--max-new-tokens", 12, "--k", "1:3")


@pytest.fixture(scope="module")
def made(random_pair: tuple[Path, Path]) -> Iterator[tuple[ScoringServer, ScoringServer]]:
    with ScoringServer(random_pair[0], name="org/big") as target, ScoringServer(random_pair[1]) as draft:
        yield target, draft


@pytest.fixture
def servers(made: tuple[ScoringServer, ScoringServer]) -> Iterator[tuple[ScoringServer, ScoringServer]]:
    """The pair's servers, as they are without a test's changes."""
    changes = [server.change for server in made]
    for server in made:
        server.sent.clear()
        server.most_at_once = 0
    yield made
    for server, change in zip(made, changes, strict=True):
        server.change = change


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(6)))
    return path


def asks(servers: tuple[ScoringServer, ScoringServer]) -> tuple[object, ...]:
    return ("--target-server", servers[0].url, "--draft-server", servers[1].url + "/v1")


def here(pair: tuple[Path, Path]) -> tuple[object, ...]:
    return ("--target", pair[0], "--draft", pair[1])


def same(one: Trace, other: Trace, unknown: set[str]) -> None:
    """Compare the arrays of a trace from servers with another's; what is named is unknown, in part or everywhere."""
    assert one.prompts == other.prompts
    for name in ARRAYS:
        found, expected = getattr(one, name), getattr(other, name)
        known = ~np.isnan(found)
        assert known.all() or name in unknown, name
        np.testing.assert_allclose(found[known], expected[known], rtol=2e-5, atol=1e-5, err_msg=name)


def test_greedy_text_that_a_server_writes_has_the_trace_of_the_same_models_here(
    run, servers, random_pair, prompts: Path, tmp_path: Path
) -> None:
    done = run("measure-acceptance", *asks(servers), "--prompts", prompts, *SMALL, "--out-dir", "there")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "with org/big and its draft org/m." in done.stdout
    run("measure-acceptance", *here(random_pair), "--prompts", prompts, *SMALL, "--out-dir", "here")
    (one, parameters), (other, _) = (load_trace(tmp_path / name / "trace.json") for name in ("there", "here"))
    same(one, other, {"entropy_p", "entropy_q"})
    hists = [json.loads((tmp_path / at / "accept_hist_k3.json").read_text()) for at in ("there", "here")]
    assert hists[0]["hist"] == hists[1]["hist"]
    assert hists[0]["ranks"]["version"] == hists[1]["ranks"]["version"]
    assert parameters["servers"] == {"target": "vllm", "draft": "vllm"}
    assert "127.0.0.1" not in (tmp_path / "there/trace.json").read_text()
    # What a model's own generation config would change is said.
    writes = [body for path, body in servers[0].sent if body.get("return_token_ids")]
    assert {(body["top_p"], body["top_k"], body["repetition_penalty"]) for body in writes} == {(1.0, -1, 1.0)}


@pytest.mark.parametrize(("temperature", "of_draft"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_text_that_was_written_has_the_trace_of_the_same_models_here(
    run, servers, random_pair, tmp_path: Path, temperature: int, of_draft: int
) -> None:
    rng = np.random.default_rng(3)
    texts = [
        {"prompt_token_ids": rng.integers(41, size=5).tolist(), "output_token_ids": rng.integers(41, size=9).tolist()}
        for _ in range(4)
    ]
    texts.append({"prompt": "w1 w2", "output": "w3 w4 w5 w6"})
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    usual = ("--texts", "texts.jsonl", "--temperature", temperature, "--draft-temperature", of_draft, "--k", 2)
    for name, pair in (("there", asks(servers)), ("here", here(random_pair))):
        done = run("measure-acceptance", *pair, *usual, "--out-dir", name)
        assert (done.returncode, done.stderr) == (0, ""), done
    one, other = (load_trace(tmp_path / name / "trace.json")[0] for name in ("there", "here"))
    same(one, other, SUMS)
    # Of greedy text first choices tell what a greedy draft proposes; sums are known where they have one term.
    assert np.isnan(one.p_argmax_q).all() == (temperature == 1)
    assert np.isnan(one.overlap).all() == (temperature == 1)


def test_text_of_temperature_1_has_the_law_of_the_target_and_the_draft_s_acceptance(run, servers, tmp_path) -> None:
    """Leviathan's alpha by enumeration of what was read: mean a[t] is within four standard errors of sum min(p, q)."""
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": f"w{i} w{i % 7}"}) + "\n" for i in range(16)))
    words = ("--prompts", "p.jsonl", "--temperature", 1, "--max-new-tokens", 12, "--k", 2, "--out-dir", "t")
    assert run("measure-acceptance", *asks(servers), *words).returncode == 0
    trace, _ = load_trace(tmp_path / "t/trace.json")
    law, rows = [], np.flatnonzero(trace.position == 0)
    writes = [body for path, body in servers[0].sent if "prompt_logprobs" in body]
    by_text = {tuple(body["prompt"][-12:]): body["prompt"] for body in writes}
    for first in rows:
        text = by_text[tuple(trace.token[first : first + 12].tolist())]
        p, q = (server.logs(text)[len(text) - 13 : -1].exp().numpy() for server in servers)
        law += np.minimum(p, q).sum(1).tolist()
    gap = trace.accept_sampled - np.array(law)
    error = gap.std() / np.sqrt(len(gap))
    assert abs(gap.mean()) < 4 * error
    # Negative control: of a greedy draft it is another number.
    assert abs((trace.accept_greedy - np.array(law)).mean()) > 4 * error
    # Its variance is no more than that of coins of the same mean.
    alpha = trace.accept_sampled.mean()
    assert trace.accept_sampled.var() <= alpha * (1 - alpha)


def test_sglang_gives_the_same_but_ranks_beyond_those_that_it_lists(
    run, servers, random_pair, prompts: Path, tmp_path: Path
) -> None:
    usual = ("--prompts", prompts, *SMALL)
    assert run("measure-acceptance", *asks(servers), *usual, "--out-dir", "v").returncode == 0
    with ScoringServer(random_pair[0], "sglang") as target, ScoringServer(random_pair[1], "sglang") as draft:
        done = run("measure-acceptance", *asks((target, draft)), *usual, "--out-dir", "s")
        assert (done.returncode, done.stderr) == (0, ""), done
    one, other = (load_trace(tmp_path / name / "trace.json")[0] for name in "sv")
    for name in ARRAYS.keys() - {"rank_q"}:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=2e-5, atol=1e-5, err_msg=name)
    assert np.array_equal(one.rank_q, np.where(other.rank_q < 2, other.rank_q, UNKNOWN))


def test_mixed_engines_need_tokenizers_that_tell(run, user_error, servers, random_pair, prompts: Path) -> None:
    words = ("--prompts", prompts, "--max-prompts", 1, *SMALL)
    with ScoringServer(random_pair[1], "sglang") as draft:
        assert run("measure-acceptance", *asks((servers[0], draft)), *words, "--out-dir", "m").returncode == 0
        draft.change = lambda path, body, answer: refusal(404, b"{}") if path == "/tokenize" else answer
        user_error(run("measure-acceptance", *asks((servers[0], draft)), *words), "has no /tokenize")


def test_other_tokenizers_are_refused_by_what_they_make_of_text_or_by_what_tokens_stand_for(
    run, user_error, servers, other_vocabulary: Path, prompts: Path
) -> None:
    words = ("--prompts", prompts, *SMALL)
    with ScoringServer(other_vocabulary) as draft:
        user_error(
            run("measure-acceptance", *asks((servers[0], draft)), *words), "--draft-server: its token ", "vocabulary"
        )
        draft.change = lambda path, body, answer: answer | {"tokens": [1, 2, 3]} if path == "/tokenize" else answer
        user_error(run("measure-acceptance", *asks((servers[0], draft)), *words), "its tokenizer is not the target's")


def test_conversations_go_on_with_what_the_server_said_and_end_where_they_no_longer_fit(
    run, servers, random_pair, tmp_path: Path
) -> None:
    turns = [{"turns": ["w1 w2", "w3", "w4 " * 110]}, {"turns": ["w5"]}, {"turns": ["w6 " * 120]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(t) + "\n" for t in turns))
    usual = ("--prompts", "t.jsonl", "--turns", "all", *SMALL)
    for name, pair in (("there", asks(servers)), ("here", here(random_pair))):
        done = run("measure-acceptance", *pair, *usual, "--out-dir", name)
        said = " ".join(done.stdout.split())
        assert "left out: t.jsonl:3: 13" in said
        assert "left out: 1 of 4 turns, whose conversations no longer fit the models' context" in said
    one, other = (load_trace(tmp_path / name / "trace.json")[0] for name in ("there", "here"))
    assert (one.turn.max(), one.measured_prompts) == (1, 2)
    assert np.array_equal(one.token, other.token)


def test_what_fails_is_counted_asked_but_once_and_left_out(run, servers, prompts: Path, tmp_path: Path) -> None:
    def change(path, body, answer):
        third = "prompt_logprobs" in body and body["prompt"][:3] == [3, 4, 3]
        return refusal(500, b'{"error": {"message": "out of luck"}}') if third else answer

    servers[1].change = change
    done = run("measure-acceptance", *asks(servers), "--prompts", prompts, *SMALL, "--batch-size", 2, "--out-dir", "o")
    assert done.returncode == 0, done
    said = " ".join(done.stdout.split())
    assert "left out: 1 of 6 prompts, whose requests failed (http 500 1): out of luck" in said
    assert load_trace(tmp_path / "o/trace.json")[0].measured_prompts == 5
    assert sum("prompt_logprobs" in body for _, body in servers[1].sent) == 1 + 6
    assert 1 <= servers[0].most_at_once <= 2


def test_a_server_that_is_gone_ends_it_and_the_same_command_goes_on(
    run, user_error, servers, random_pair, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    words = ("--prompts", prompts, *SMALL, "--batch-size", 1)
    assert run("measure-acceptance", *asks(servers), *words, "--out-dir", "whole").returncode == 0
    first = len([body for _, body in servers[0].sent if body.get("return_token_ids")])
    with ScoringServer(random_pair[1]) as draft:
        pair = servers[0], draft

        def change(path, body, answer):
            if sum("prompt_logprobs" in b for _, b in draft.sent) > 3:
                draft.server.close()
                return None
            return answer

        draft.change = change
        gone = run("measure-acceptance", *asks(pair), *words, "--out-dir", "cut")
    user_error(gone, "--target-server, --draft-server: ", "2 of 6 prompts are kept in cut/unfinished.jsonl")
    done = run("measure-acceptance", *asks(servers), *words, "--out-dir", "cut")
    assert (done.returncode, done.stderr) == (0, "cut/unfinished.jsonl: going on, 2 of 6 prompts are done\n")
    assert (tmp_path / "cut/trace.npz").read_bytes() == (tmp_path / "whole/trace.npz").read_bytes()
    assert (tmp_path / "cut/trace.json").read_text() == (tmp_path / "whole/trace.json").read_text().replace(
        "whole", "cut"
    )
    again = [body for _, body in servers[0].sent if body.get("return_token_ids")]
    assert len(again) == first + 4 + 4


@pytest.mark.whole
def test_an_interrupted_process_keeps_what_is_done_and_goes_on_to_the_same_bytes(
    run, servers, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    words = [*map(str, (*asks(servers), "--prompts", prompts, *SMALL)), "--batch-size", "1", "--out-dir"]
    monkeypatch.setattr(servers[1], "wait_s", 0.3)
    command = [str(SCRIPTS / "measure-acceptance"), *words, "cut"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        until, path = time.monotonic() + 60, tmp_path / "cut/unfinished.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < until, f"{path} never came"
            time.sleep(0.02)
        process.terminate()
        said = process.communicate()[1]
    kept = "what is done is kept in cut/unfinished.jsonl, the same command goes on"
    assert (process.returncode, said) == (143, f"measure-acceptance: interrupted; {kept}\n")
    monkeypatch.setattr(servers[1], "wait_s", 0.001)
    assert "going on, " in run("measure-acceptance", *words, "cut").stderr
    assert run("measure-acceptance", *words, "whole").returncode == 0
    assert (tmp_path / "cut/trace.npz").read_bytes() == (tmp_path / "whole/trace.npz").read_bytes()


def test_parts_on_servers_are_the_whole(run, servers, prompts: Path, tmp_path: Path) -> None:
    for name, own in {"whole": (), "a": ("--shard", "1/2"), "b": ("--shard", "2/2")}.items():
        done = run("measure-acceptance", *asks(servers), "--prompts", prompts, *SMALL, *own, "--out-dir", name)
        assert done.returncode == 0, done
    assert run("measure-acceptance", "--trace", "a", "--trace", "b", "--k", 2, "--out-dir", "ab").returncode == 0
    assert (tmp_path / "ab/trace.npz").read_bytes() == (tmp_path / "whole/trace.npz").read_bytes()


def scores(path: str, body: dict[str, Any]) -> bool:
    return "prompt_logprobs" in body


def spoiled(**members: Any):
    """A change of what every scored token is told."""

    def change(path, body, answer):
        if scores(path, body):
            for at in answer["choices"][0]["prompt_logprobs"][1:]:
                for entry in at.values():
                    entry.update(members)
        return answer

    return change


HOSTILE = {
    "no scores": (
        lambda p, b, a: refusal(400, b'{"error": {"message": "no such field"}}') if scores(p, b) else a,
        "scores no text that it is given (vllm: http 400: no such field; sglang: http 404",
    ),
    "logits": (spoiled(logprob=3.5), "scores are no log probabilities, expected a server without --logprobs-mode"),
    "all one": (spoiled(logprob=0.0), "scores are no log probabilities"),
    "not a number": (spoiled(logprob=float("nan")), "scores are no log probabilities"),
    "a word": (spoiled(logprob="high"), "the answer is of another form (ValueError"),
    "rank 0": (spoiled(rank=-5), "rank"),
    "too few": (
        lambda p, b, a: a["choices"][0].update(prompt_logprobs=[None, {}]) or a if scores(p, b) else a,
        "of another form",
    ),
    "a list": (lambda p, b, a: refusal(200, b"[]") if scores(p, b) else a, "of another form"),
    "no JSON": (lambda p, b, a: refusal(200, b"<html>") if scores(p, b) else a, "is no JSON"),
    "no models": (lambda p, b, a: refusal(404, b"{}") if p == "/v1/models" else a, "lists no models at /v1/models"),
    "no ids": (
        lambda p, b, a: a["choices"][0].update(token_ids=None) or a if "return_token_ids" in b else a,
        "has no token_ids, as those of vLLM have since 0.10.2",
    ),
    "too many ids": (
        lambda p, b, a: a["choices"][0].update(token_ids=[1] * 99) or a if "return_token_ids" in b else a,
        "its tokens are none",
    ),
    "no tokens": (lambda p, b, a: a["choices"][0].update(token_ids=[]) or a if "return_token_ids" in b else a, "empty"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_server_makes_up_is_one_line_and_nothing_is_written(
    run, user_error, servers, prompts: Path, tmp_path: Path, what: str
) -> None:
    servers[0].change, expected = HOSTILE[what]
    done = run("measure-acceptance", *asks(servers), "--prompts", prompts, *SMALL, "--out-dir", "o")
    user_error(done, expected)
    assert len(done.stderr) < 420
    assert not (tmp_path / "o/trace.json").exists()


BAD = [
    (("--temperature", "0.7"), "--temperature: 0.7 is not measured with servers, expected 0 or 1"),
    (("--draft-temperature", "0.7"), "--draft-temperature: 0.7"),
    (("--top-k", "5"), "--top-k: not used with --target-server"),
    (("--top-p", "0.5"), "--top-p: not used"),
    (("--device", "cpu"), "--device: not used"),
    (("--check-loop", "2"), "--check-loop: not used"),
    (("--target", "other"), "--target: 'other' is not served by "),
    (("--trace", "t"), "--target-server: not used with --trace"),
]


@pytest.mark.parametrize(("words", "expected"), BAD)
def test_what_servers_do_not_give_is_refused(run, user_error, servers, words: tuple[str, ...], expected: str) -> None:
    user_error(run("measure-acceptance", *asks(servers), *words), expected)


def test_one_server_alone_an_address_that_is_none_and_nobody_there(run, user_error, servers) -> None:
    one, url = servers[0].url, "http://127.0.0.1:9"
    user_error(run("measure-acceptance", "--target-server", one), "--draft-server: is missing, expected both models on")
    user_error(run("measure-acceptance", "--draft-server", one), "--target-server: is missing")
    user_error(
        run("measure-acceptance", "--target-server", "x y", "--draft-server", one), "--target-server: 'x y' is no"
    )
    user_error(run("measure-acceptance", "--target-server", url, "--draft-server", one), url, "lists no models")


def test_the_key_of_the_environment_is_sent_and_never_told(run, servers, prompts: Path, tmp_path: Path) -> None:
    words = ("--prompts", prompts, "--max-prompts", 1, *SMALL, "--out-dir", "o")
    done = run("measure-acceptance", *asks(servers), *words, OPENAI_API_KEY="sk-very-secret")
    assert done.returncode == 0, done
    assert b"Bearer sk-very-secret" in servers[0].headers[-1]
    assert "sk-very-secret" not in done.stdout + "".join(f.read_text() for f in (tmp_path / "o").glob("*.json"))


def test_what_vllm_0_32_itself_answered_is_read() -> None:
    told = json.loads((Path(__file__).parent / "vllm_scores.json").read_text())
    found = Vllm().scores(told["scored"], [9, 300, 17])
    assert (found.rank.tolist(), found.first.tolist()) == ([27, 13, 409], [83, 262, 280])
    np.testing.assert_allclose(found.log, [-6.075969, -4.047172, -8.878607], rtol=1e-6)
    np.testing.assert_allclose(found.log_first - found.log_second, [2.283714, 0.579633, 0.059204], rtol=1e-4)
    assert found.names == (")", "',", "1")
    assert Vllm().written(told["written"]) == ([9, 262, 275, 14], ")\n        self.")


def test_of_tied_tokens_the_lowest_is_first_as_in_argmax() -> None:
    def told(**entries: tuple[float, int]) -> dict[str, Any]:
        at = {k[1:]: {"logprob": log, "rank": rank, "decoded_token": k} for k, (log, rank) in entries.items()}
        return {"choices": [{"prompt_logprobs": [None, at]}]}

    # vLLM counts both of two tied tokens as second, unless they are listed.
    for token, rank in ((7, 0), (9, 1)):
        found = Vllm().scores(told(t9=(-0.7, 1), t7=(-0.7, 2)), [token])
        assert (found.first[0], found.rank[0], found.log_first[0], found.log_second[0]) == (7, rank, -0.7, -0.7)
    found = Vllm().scores(told(t5=(-3.0, 41), t9=(-0.7, 1), t7=(-0.8, 2)), [5])
    assert (found.first[0], found.rank[0], found.log_second[0]) == (9, 40, -0.8)
    # Minus infinity, as it is written there.
    assert Vllm().scores(told(t5=(-9999.0, 41), t9=(-0.7, 1), t7=(-0.8, 2)), [5]).log[0] == -np.inf
    about = {"input_token_logprobs": [[-3.0, 5, "e"]], "input_top_logprobs": [[[-0.7, 9, "i"], [-0.8, 7, "g"]]]}
    assert Sglang().scores({"meta_info": about}, [5]).rank[0] == UNKNOWN
