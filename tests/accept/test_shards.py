"""Parts of a measurement, measured apart: together they are the whole, and of what is no part nothing is made."""

import json
from pathlib import Path

import numpy as np
import pytest

from acceptance.results.shards import Shard, merged, shard_of
from acceptance.trace.trace import load_trace
from simulator.ground.artefacts import UserError

from .traces import make_trace

SAME = {"temperature": 1.0, "draft_temperature": 1.0}


@pytest.fixture(scope="module")
def folder(run_in, random_pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole measurement of 20 prompts in batches of 4, and its three parts."""
    root = tmp_path_factory.mktemp("shards")
    (root / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(20))
    )
    pair = ("--target", random_pair[0], "--draft", random_pair[1], "--prompts", root / "prompts.jsonl")
    usual = (*pair, "--batch-size", 4, "--max-new-tokens", 8, "--temperature", 1, "--k", 2)
    for name, own in {"whole": (), **{f"part{i}": ("--shard", f"{i}/3") for i in (1, 2, 3)}}.items():
        done = run_in(root, "measure-acceptance", *usual, *own, "--out-dir", name)
        assert done.returncode == 0, done
    return root


def words(folder: Path, *numbers: int) -> list[object]:
    return [word for i in numbers for word in ("--trace", folder / f"part{i}")]


def test_all_parts_in_any_order_are_the_whole_to_the_last_bit(run, folder: Path, tmp_path: Path) -> None:
    done = run("measure-acceptance", *words(folder, 3, 1, 2), "--k", 2, "--out-dir", "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote one/trace.npz" in done.stdout
    assert (tmp_path / "one/trace.npz").read_bytes() == (folder / "whole/trace.npz").read_bytes()
    hists = [json.loads((at / "accept_hist_k2.json").read_text()) for at in (tmp_path / "one", folder / "whole")]
    assert hists[0]["hist"] == hists[1]["hist"]
    assert "shard" not in hists[0]["parameters"]


def test_some_parts_say_so_and_take_the_others_later(run, user_error, folder: Path, tmp_path: Path) -> None:
    done = run("measure-acceptance", *words(folder, 1, 3), "--k", 2, "--out-dir", "some")
    assert "This is part 1+3/3 of the measurement." in done.stdout
    assert load_trace(tmp_path / "some/trace.json")[0].measured_prompts == 12
    run("measure-acceptance", "--trace", "some", *words(folder, 2), "--k", 2, "--out-dir", "all")
    assert (tmp_path / "all/trace.npz").read_bytes() == (folder / "whole/trace.npz").read_bytes()
    user_error(run("measure-acceptance", "--trace", "some", *words(folder, 3), "--out-dir", "x"), "each shard once")
    user_error(run("measure-acceptance", *words(folder, 1, 1), "--out-dir", "x"), "prompts.jsonl:1, as ")
    user_error(run("measure-acceptance", *words(folder, 1, 2), "--out-dir", folder / "part1"), "exists")
    user_error(run("measure-acceptance", *words(folder, 1, 2), "--by", "context"), "--by: context is told from one")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "1/0", "a/b", "1+1/2", "-1/2", "1/99999999", "1/2/3", ""])
def test_what_is_no_shard_is_refused(run, user_error, text: str) -> None:
    user_error(run("measure-acceptance", f"--shard={text}"), "--shard: ", "expected I/N, the I-th of N parts")


def test_a_part_without_prompts_is_refused_before_any_work(run, user_error, folder: Path, random_pair) -> None:
    pair = ("--target", random_pair[0], "--draft", random_pair[1], "--prompts", folder / "prompts.jsonl")
    none = run(
        "measure-acceptance", *pair, "--max-new-tokens", 8, "--shard", "3/3", "--max-prompts", 8, "--batch-size", 4
    )
    user_error(none, "--shard: 3/3 has no prompts, as all make 2 batches")
    user_error(run("measure-acceptance", "--trace", "x", "--shard", "1/2"), "--shard: not used with --trace")
    user_error(run("measure-acceptance", "--check-loop", 1, "--shard", "1/2"), "--check-loop")


def test_parts_take_every_batch_once() -> None:
    shards = [shard_of(text) for text in ("1/4", "4+2/4", "3/4")]
    assert str(shards[1]) == "2+4/4"
    assert [sum(s.takes(batch) for s in shards) for batch in range(11)] == [1] * 11
    assert not shards[1].is_whole
    assert Shard((1, 2), 2).is_whole


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"temperature": 0.7}, "temperature is 0.7, but 1.0 there"),
        ({"seed": 1}, "seed is 1, but None there"),
        ({"shard": "2/5"}, "shards 1/2 and 2/5 are of different sizes"),
    ],
)
def test_parts_of_other_measurements_are_refused(change: dict[str, object], expected: str) -> None:
    trace = make_trace([[0.5] * 3, [0.25] * 4])
    first, second = (trace.select(np.asarray(trace.prompt == i)) for i in (0, 1))
    parts = [(Path("a"), first, SAME | {"shard": "1/2"}), (Path("b"), second, SAME | {"shard": "2/2"} | change)]
    with pytest.raises(UserError, match=expected):
        merged(parts)
    whole, parameters = merged([parts[0], (Path("b"), second, SAME | {"shard": "2/2", "device": "cuda:1"})])
    assert parameters == SAME | {"merged_sha256": [None, None]}
    assert np.array_equal(whole.accept_sampled, trace.accept_sampled)
