"""What nobody foresaw: mistakes of ours, hostile files and arrays, each told in one line."""

import bz2
import errno
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from simulator.ground import arrays, plain_text
from simulator.ground.arrays import Numbers, read_arrays
from simulator.ground.artefacts import UserError, read_bytes
from simulator.ground.command import LONGEST_LINE, command
from simulator.ground.fields import MAX_DEPTH, Field, read_json, read_toml


def raising(error: BaseException, **env: str) -> Result:
    @command("forecast")
    def forecast() -> None:
        raise error

    assert isinstance(forecast, click.Command)
    return CliRunner().invoke(forecast, [], prog_name="forecast", env={"SPECSIM_DEBUG": ""} | env)


def test_a_mistake_of_ours_is_one_line_with_an_exit_code_of_its_own() -> None:
    for error in (
        KeyError("k"),
        ZeroDivisionError(),
        RuntimeError("two\nlines"),
        RecursionError(),
        AssertionError("x"),
    ):
        done = raising(error)
        assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (70, 1, ""), done
        assert done.stderr.startswith("forecast: a mistake in specsim ")
        assert all(word in done.stderr for word in (type(error).__name__, "report", "SPECSIM_DEBUG=1"))
    shown = raising(KeyError("k"), SPECSIM_DEBUG="1")
    assert shown.exit_code == 70
    assert all(word in shown.stderr for word in ("Traceback", "test_unforeseen.py", "forecast: a mistake"))


def test_what_the_machine_lacks_is_called_that() -> None:
    array = np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(float))  # type: ignore[attr-defined]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.json")
    cases = (
        (MemoryError(), "out of memory"),
        (array, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (full, "No space left on device"),
    )
    for error, said in cases:
        done = raising(error)
        assert (done.exit_code, done.stderr.count("\n"), said in done.stderr) == (2, 1, True), done


def test_no_line_is_as_long_as_what_a_user_gave() -> None:
    for message in ("x" * 200_000, "x " * 100_000, "a: " + "\n" * 5000 + "b", "\ud800" * 5000):
        done = raising(UserError(message))
        assert (done.exit_code, done.stderr.count("\n"), len(done.stderr) < LONGEST_LINE + 20) == (2, 1, True)
    assert (
        raising(UserError("out.json: " + "exists " * 20)).stderr == "forecast: out.json: " + "exists " * 19 + "exists\n"
    )


def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    assert read_bytes(pipe) == b""
    cases = (
        ("/dev/zero", "is a device, expected a file"),
        (tmp_path, "Is a directory"),
        (loop, "symbolic links"),
        (tmp_path / "none", "no such file"),
        ("a\0b", "is no name of a file"),
        ("x" * 5000, "cannot be read"),
    )
    for path, said in cases:
        with pytest.raises(UserError, match=said):
            read_bytes(path)


def test_what_is_piped_is_read(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"1, 2")
    os.close(write)
    assert read_bytes(f"/dev/fd/{read}") == b"1, 2"
    os.close(read)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 200 + "1" + "}" * 200, "[[" * MAX_DEPTH + "]]" * MAX_DEPTH])
def test_nests_are_not_followed_for_ever(text: str, tmp_path: Path) -> None:
    path = tmp_path / "deep"
    for content, read in ((text, read_json), ("a = " + text.replace('"a":', "a = "), read_toml)):
        path.write_text(content)
        with pytest.raises(UserError, match="nested too deeply"):
            read(path)


def test_settings_cost_no_more_than_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    refused: tuple[tuple[str, Callable[[Path], Field], str], ...] = (
        (".".join("a" * 50_000) + " = 1", read_toml, "nested too deeply"),
        ("a = " + "9" * 5000, read_toml, "not TOML"),
        ("a = 1\n" * 100_000, read_toml, "characters, expected at most"),
        ("9" * 5000, read_json, "cannot be read"),
    )
    for content, read, said in refused:
        path.write_text(content)
        with pytest.raises(UserError, match=said) as told:
            read(path)
        assert len(str(told.value)) < 300
    path.write_text("x = [" + "0.5, " * 200 + "]\n" + ".".join("a" * 50) + " = 1\n")
    assert len(read_toml(path)["x"].elements()) == 200


def packed(compression: int = zipfile.ZIP_DEFLATED, **members: object) -> bytes:
    """An archive of arrays, or of bytes in their place."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            buffer = io.BytesIO()
            if isinstance(content, np.ndarray):
                np.save(buffer, content, allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue() if isinstance(content, np.ndarray) else bytes(content))
    return file.getvalue()


def test_arrays_are_what_is_expected_or_refused() -> None:
    good = np.array([0.0, 0.25, 1.0])
    share = {"a": Numbers(least=0, most=1, size=3)}
    assert read_arrays("x", packed(a=good), share)["a"].tolist() == good.tolist()
    assert read_arrays("x", packed(a=np.array([True, False])), {"a": Numbers(dtype=np.bool_)})["a"].tolist() == [1, 0]
    unknown = read_arrays("x", packed(a=np.array([np.nan, 1.0])), {"a": Numbers(most=1, unknown=True)})
    assert np.isnan(unknown["a"][0])
    broken = packed(a=good)
    header = np.lib.format.magic(1, 0) + b"v\0"
    cases = {
        "holds nan, expected numbers from 0 to 1": packed(a=np.array([0, np.nan, 1])),
        "holds inf": packed(a=np.array([0, np.inf, 1])),
        "holds -1": packed(a=np.array([0, -1.0, 1])),
        "holds 2 numbers, expected 3": packed(a=good[:2]),
        r"is float32 of shape \(3,\)": packed(a=good.astype(np.float32)),
        r"is float64 of shape \(1, 3\)": packed(a=good[None]),
        "is object": packed(a=np.array([{}, None, 1])),
        "is <U1": packed(a=np.array(["a", "b", "c"])),
        "has no array 'a'": packed(b=good),
        "is cut short": packed(
            a=header + b"{'descr':'<f8','fortran_order':False,'shape':(3,),}".ljust(118) + bytes(16)
        ),
        "is no .npz of arrays": broken[: len(broken) // 2],
        "is no .npz": packed(a=header + b"{'descr':__import__('os').getpid(),'shape':(3,)}".ljust(118)),
        "is no .npz of": b"",
    }
    for said, data in cases.items():
        with pytest.raises(UserError, match=f"^trace.npz: .*{said}"):
            read_arrays("trace.npz", data, share)


def test_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "FEW", 1 << 20)
    member = zipfile.ZipInfo("a.npy")
    member.compress_type = zipfile.ZIP_DEFLATED
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open(member, "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|b1", "fortran_order": False, "shape": (1 << 23,)})
        for _ in range(1 << 3):
            stream.write(bytes(1 << 20))
    with pytest.raises(UserError, match="unpacks to 8,388,736 bytes"):
        read_arrays("x", file.getvalue(), {"a": Numbers(dtype=np.bool_)})
    other = packed(**{"../../a": np.zeros(2)})
    assert list(read_arrays("x", other, Numbers())) == ["../../a"]  # names are words: nothing is written by them


def test_packed_text_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plain_text, "MAX_UNPACKED", 1 << 20)
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "text").write_bytes(pack(b"a" * (1 << 20)))
        assert len(plain_text.read_text_bytes(tmp_path / "text")) == 1 << 20
        (tmp_path / "text").write_bytes(pack(b"a" * (1 << 20) + b"\n"))
        with pytest.raises(UserError, match="unpacks to more than 1,048,576 bytes"):
            plain_text.read_text_bytes(tmp_path / "text")
