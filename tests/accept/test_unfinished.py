"""A measurement that is stopped: what it keeps, how it goes on, and what of two measurements is never mixed."""

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acceptance.results.unfinished import Unfinished
from simulator.ground.artefacts import UserError

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def words(random_pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., list[object]]:
    """Return a function that returns a command, which measures twenty prompts."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(20)))
    pair = ("--target", random_pair[0], "--draft", random_pair[1], "--prompts", path, "--batch-size", 1, "--k", "1:3")

    def command(folder: str, tokens: int = 24, temperature: float = 1) -> list[object]:
        own = ("--max-new-tokens", tokens, "--temperature", temperature, "--out-dir", folder)
        return ["measure-acceptance", *pair, *own]

    return command


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def stopped(words: list[str], folder: Path) -> tuple[int, str]:
    """Run the command as users do, and end it when some batches are done; its exit code, and what it says."""
    path, deadline = folder / "cut/unfinished.jsonl", time.monotonic() + 120
    command = [str(SCRIPTS / words[0]), *words[1:]]
    single = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # others would round differently
    with subprocess.Popen(command, cwd=folder, env=single, stderr=subprocess.PIPE, text=True) as process:
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < deadline, f"{path} never came"
            time.sleep(0.02)
        process.terminate()
        said = process.communicate()[1]
    return process.returncode, said


def test_a_stopped_measurement_goes_on_to_the_same_bytes(
    run, user_error, words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    succeeded(run(*words("whole")))
    kept = "what is done is kept in cut/unfinished.jsonl, the same command goes on"
    ended = stopped(list(map(str, words("cut"))), tmp_path)
    assert ended == (143, f"measure-acceptance: interrupted; {kept}\n")
    assert not (tmp_path / "cut/trace.json").exists()
    user_error(run(*words("cut"), "--seed", 9), "--out-dir cut/unfinished.jsonl: seed is 9, but 0 there; expected the")
    done = succeeded(run(*words("cut")))
    assert "cut/unfinished.jsonl: going on, " in done.stderr
    whole, cut = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "cut"))
    assert whole == cut
    user_error(run(*words("cut")), "exists already (--force overwrites it)")
    again = succeeded(run(*words("cut"), "--resume"))
    assert (
        again.stderr
        == "nothing unfinished: cut/trace.json is done, and nothing is written (--trace answers more of it)\n"
    )
    assert again.stdout in done.stdout
    user_error(
        run(*words("cut"), "--resume", "--seed", 9), "--resume: cut/trace.json is done, and its seed is 9, but 0"
    )
    sidecar = tmp_path / "cut/trace.json"
    sidecar.write_text(sidecar.read_text().replace('"tool_version": "', '"tool_version": "0.'))
    user_error(run(*words("cut"), "--resume"), "cut/trace.json is done, and its tool_version is", "or --force")
    assert "nothing unfinished in cut: measuring" in succeeded(run(*words("cut"), "--resume", "--force")).stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "cut").iterdir()} == whole
    assert "and nothing is written" in succeeded(run(*words("cut"), "--resume", "--force")).stderr


def test_what_does_not_belong_together_is_refused(run, user_error, words, tmp_path: Path, random_pair) -> None:
    for folder, hot in (("a", 1), ("b", 0)):
        succeeded(run(*words(folder, 8, hot)))
    a, b = (tmp_path / name for name in "ab")
    arrays = (a / "trace.npz").read_bytes()
    (a / "trace.npz").write_bytes((b / "trace.npz").read_bytes())
    user_error(
        run("measure-acceptance", "--trace", "a", "--out-dir", "c"), "trace.npz: is not what trace.json was written"
    )
    (a / "trace.npz").write_bytes(arrays)
    (a / "accept_hist_k2.json").unlink()
    told = "--hist a: accept_hist_k2.json of this measurement is missing, expected all that it was to write"
    user_error(run("simulate", "--hist", "a", "--draftN", 3), told)
    (a / "accept_hist_k2.json").write_bytes((b / "accept_hist_k2.json").read_bytes())
    user_error(run("simulate", "--hist", "a", "--draftN", 3), "expected one measurement in the folder")
    succeeded(run("measure-acceptance", "--trace", "a", "--k", 2, "--out-dir", "a", "--force"))
    succeeded(run("simulate", "--hist", "a", "--draftN", 3))
    # Other weights under the same name are another measurement.
    weights = random_pair[1] / "model.safetensors"
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        done = run(*words("b", 8, 0), "--resume")
        user_error(done, "b/trace.json is done, and its models.draft.sha256 is")
    finally:
        weights.write_bytes(before)


def test_names_that_no_file_can_have_are_nobodys_outputs(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path)
    unfinished.open({"seed": 0}, [tmp_path / "a\0b", tmp_path / "a\ud800", tmp_path / "c"])
    assert unfinished.outputs == {os.path.realpath(tmp_path / "c")}
    unfinished.remove()


def test_two_measurements_cannot_share_a_folder(tmp_path: Path) -> None:
    first, second = (Unfinished(tmp_path) for _ in range(2))
    first.open({"seed": 0})
    for force in (False, True):
        with pytest.raises(UserError, match="another measurement is at work in"):
            second.open({"seed": 0}, force=force)
    first.close()
    second.open({"seed": 0})
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_another_measurement_has_done_is_kept_but_for_force(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path)
    outputs = [tmp_path / "a.json", tmp_path.parent / "p.png"]
    kept.open({"seed": 0, "target": "a", "models": {"target": "b" * 64}}, outputs)
    kept.close()
    assert kept.outputs == set(map(str, outputs))
    before = kept.path.read_bytes()
    for parameters, message in (
        ({"seed": 1, "target": "a"}, f"--out-dir {kept.path}: seed is 1, but 0 there; expected the same measurement"),
        ({"seed": 0, "target": "a", "models": {"target": "c" * 64}}, "models.target is c{12}..., but b{12}... there"),
        ({"seed": 0, "target": "a", "draft": "b"}, "draft is 'b', but None"),
    ):
        with pytest.raises(UserError, match=message):
            kept.open(parameters)
        assert kept.path.read_bytes() == before
    kept.path.write_bytes(before.replace(b'"outputs":[', b'"outputs":1,"was":['))
    assert kept.outputs == set()
    kept.open({"seed": 1, "target": "a"}, force=True)
    assert json.loads(kept.path.read_bytes().splitlines()[0])["parameters"]["seed"] == 1


def test_a_file_that_is_not_ours_is_left_alone_and_nothing_is_left_of_a_refusal(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("in the way")

    kept = Unfinished(tmp_path)
    for content in (None, "precious"):
        if content:
            kept.path.write_text(content)
            with pytest.raises(UserError, match="expected a file of measure-acceptance"):
                kept.open({})
        with pytest.raises(UserError, match="in the way"):
            kept.hold(refuse)
        assert [p.read_text() for p in tmp_path.iterdir()] == [content] * bool(content)
        assert kept.outputs == set()
