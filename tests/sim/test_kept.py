"""A long sweep that is ended goes on behind what is kept of it, to the bytes of one that never was."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.rounds import kept, sweeping
from simulator.rounds.grid import Acceptance, Sweep, grid_over

Run = Callable[..., subprocess.CompletedProcess[str]]
IID = ("sweep", "--draftN", "1:4", "--alpha", "0.5:0.8:0.1", "--overlap")
MODELS = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b", "--profile", "h100-sxm")
OF_MODELS = ("sweep", *MODELS, "--batch", "1:16", "--alpha", "0.7", "--draftN", 2)


@pytest.fixture(autouse=True)
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sweeps in parts of four points, and chunks of eight, kept from the first one on."""
    monkeypatch.setattr(kept, "AFTER_S", 0.0)
    monkeypatch.setattr(sweeping, "RUNS_A_PART", 64)
    monkeypatch.setattr(sweeping, "ROWS_A_CHUNK", 128)


@pytest.fixture
def ended(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that runs a sweep up to its third part, and returns what is kept."""

    def end(*words: object) -> Path:
        save = kept.Kept.save

        def killed(self: kept.Kept, key: int, columns: sweeping.Columns) -> None:
            if key >= 8:
                raise MemoryError
            save(self, key, columns)

        with monkeypatch.context() as patch:
            patch.setattr(kept.Kept, "save", killed)
            assert run(*words).returncode == 2
        return tmp_path / f"{words[-1]}{kept.SUFFIX}"

    return end


def test_a_sweep_is_told_alike_in_every_process() -> None:
    said = set()
    for method in ("eagle", "eagle3", "ngram", "lookahead"):
        pricing = load_pricing(DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method=method))
        sweep = Sweep(grid=grid_over(pricing, {"batch": [1, 2]}), acceptance=Acceptance(), pricing=pricing)
        said.add(json.dumps(kept.told(sweep)))
    # No place in memory, which is another in every process.
    assert len(said) == 4
    assert not any(" at 0x" in one for one in said)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    calls, real = [], getattr(sweeping, name)
    monkeypatch.setattr(sweeping, name, lambda *of: calls.append(1) or real(*of))
    return calls


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("words", [IID, OF_MODELS, ("hist",)], ids=["iid", "models", "hist"])
def test_what_is_kept_is_not_evaluated_again_and_changes_no_byte(
    run: Run, ended, hist_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple, suffix: str
) -> None:
    if words == ("hist",):
        words = ("sweep", "--hist", hist_file, "--draftN", 1, "--draft-cost", "0.01:0.16:0.01")
    plain = run(*words, "--out", f"whole{suffix}")
    assert plain.returncode == 0, plain.stderr
    file = ended(*words, "--out", f"a{suffix}")
    assert not (tmp_path / f"a{suffix}").exists()
    evaluated, drawn = counted(monkeypatch, "evaluate"), counted(monkeypatch, "draw_chunk")
    done = run(*words, "--out", f"a{suffix}")
    # The answers that are printed are sweeps of their own, without draws.
    assert done.stdout.replace(f"a{suffix}", f"whole{suffix}") == plain.stdout
    assert len(drawn) == 1
    again = len(evaluated)
    assert not file.exists()
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    evaluated.clear()
    run(*words, "--out", f"a{suffix}", "--force")
    assert len(evaluated) == again + 2


def test_another_sweep_is_refused_and_what_is_torn_is_evaluated_again(
    run: Run, user_error, ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*IID, "--out", "whole.csv").returncode == 0
    whole, file = (tmp_path / "whole.csv").read_bytes(), ended(*IID, "--out", "a.csv")
    data = file.read_bytes()
    for other in (("--seed", 1), ("--replications", 8), ("--total", 99)):
        user_error(run(*IID, *other, "--out", "a.csv"), "--out a.csv", "a.csv.unfinished is kept of another sweep")
        assert file.read_bytes() == data
    first_line, first_part = data.index(b"\n") + 1, data.index(b"\n", data.index(b"\n") + 1)
    wrong = bytes([data[-1] ^ 1])
    for there in (
        b"",
        data[: first_line - 3],
        data[: first_part - 1],
        data[:-1],
        data[:-1] + wrong,
        data + b'{"x": 1}\n',
        data.replace(b'"first": 4', b'"first": 8'),
        data.replace(b"closed_form_speedup", b"closed_form_speedUp"),
    ):
        assert there != data
        file.write_bytes(there)
        assert run(*IID, "--out", "a.csv").returncode == 0
        assert (tmp_path / "a.csv").read_bytes() == whole
        assert not file.exists()
        (tmp_path / "a.csv").unlink()
    # Ended again, it keeps nothing twice, and what was torn is gone.
    file.write_bytes(data + b"torn")
    assert ended(*IID, "--out", "a.csv").read_bytes() == data
    file.write_text("notes\n")
    user_error(run(*IID, "--out", "a.csv"), "kept of another sweep")
    assert run(*IID, "--out", "a.csv", "--force").returncode == 0
    file.write_bytes(data)
    holder = os.open(file, os.O_RDONLY)
    kept.lock(holder)
    user_error(run(*IID, "--out", "a.csv", "--force"), "another sweep is at work in a.csv.unfinished")
    os.close(holder)


def test_a_short_sweep_keeps_nothing_and_a_full_disk_keeps_no_more(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(handle: int, data: bytes) -> int:
        return write(handle, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(kept.os, "write", full)
        assert run(*IID, "--out", "a.csv").returncode == 0
    monkeypatch.setattr(kept, "AFTER_S", 60.0)
    monkeypatch.setattr(kept.Kept, "hold", lambda *_: pytest.fail("a short sweep keeps nothing"))
    assert run(*IID, "--out", "b.csv").returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == {"a.csv", "b.csv"}
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
