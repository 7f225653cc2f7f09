"""Sound and what is said in it, as data sets lay them out; what cannot be heard is left out by name, in one line."""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import soundfile

from acceptance.text import sound as pieces
from acceptance.text.prompts import PromptFile
from acceptance.text.speech import Utterance, load_speech, unsaid
from simulator.ground.artefacts import UserError
from simulator.ground.records import BadRecord

from .speech_files import RATE, save_librispeech, save_sound, tone


def said(found: PromptFile) -> list[tuple[str, str | None]]:
    return [(u.source, u.reference) for u in found.rows if isinstance(u, Utterance)]


def sounds(found: PromptFile) -> list[Any]:
    return [u.sound for u in found.rows if isinstance(u, Utterance)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_folders_of_sound_are_read_with_what_lies_beside_it(tmp_path: Path) -> None:
    found = load_speech(save_librispeech(tmp_path / "LibriSpeech", ["MISTER QUILTER", "NOR IS HE"]))
    assert said(found) == [("84-121123-0000", "MISTER QUILTER"), ("84-121123-0001", "NOR IS HE")]
    assert found.notes() == [f"{tmp_path / 'LibriSpeech'}: read as 2 files of sound, what is said in *.trans.txt"]
    for name in ("a.wav", "b.mp3", "deeper/c.ogg"):
        save_sound(tmp_path / "own" / name)
    (tmp_path / "own" / "a.txt").write_text("one\n two\n")
    (tmp_path / "own" / "deeper" / "c.lab").write_text("three")
    found = load_speech(tmp_path / "own")
    assert said(found) == [("a", "one two"), ("b", None), ("c", "three")]
    assert "what is said in NAME.txt (1) and nowhere (1) and in NAME.lab (1)" in found.notes()[0]
    assert unsaid(found.rows) == ["word error rate: 1 of 3 utterances come without what is said in them"]
    assert said(load_speech(tmp_path / "own" / "b.mp3")) == [("b", None)]
    assert len(load_speech(tmp_path / "own", limit=2).rows) == 2


def common_voice(folder: Path) -> Path:
    save_sound(folder / "clips" / "common_voice_en_1.mp3")
    rows = [["client_id", "path", "sentence"], ["x", "common_voice_en_1.mp3", 'He said "no", twice.']]
    with (folder / "test.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    return folder / "test.tsv"


def audiofolder(folder: Path) -> Path:
    save_sound(folder / "data" / "1.wav")
    (folder / "metadata.csv").write_text("file_name,transcription\ndata/1.wav,hello there\n")
    return folder


def nemo(folder: Path) -> Path:
    save_sound(folder / "long.wav", 2.0)
    whole, part = {"audio_filepath": "long.wav", "duration": 2.0, "text": "all"}, {"offset": 0.5, "duration": 0.25}
    return write_lines(folder / "manifest.json", [whole, whole | part | {"text": "part"}])


def hugging_face(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    data = save_sound(folder / "made.flac").read_bytes()
    rows = [{"id": "u1", "audio": {"bytes": data, "path": "gone.flac"}, "text": "in the table"}]
    rows += [{"id": "u2", "audio": {"bytes": None, "path": "made.flac"}, "text": "beside it"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    ("make", "expected", "read_as"),
    [
        (common_voice, [("common_voice_en_1", 'He said "no", twice.', 0.5)], "TSV, path with sentence"),
        (audiofolder, [("1", "hello there", 0.5)], "CSV, file_name with transcription"),
        (nemo, [("long", "all", 2.0), ("long#2", "part", 0.25)], "JSON a line, audio_filepath with text"),
        (hugging_face, [("u1", "in the table", 0.5), ("u2", "beside it", 0.5)], "Parquet, audio with text"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_manifests_are_read_as_data_sets_have_them(
    make: Any, expected: list[Any], read_as: str, tmp_path: Path
) -> None:
    here, moved = tmp_path / "here", tmp_path / "moved"
    path = make(here)
    found = load_speech(path)
    about = [(*each, round(s.seconds, 1) if s.seconds > 0.3 else s.seconds)
             for each, s in zip(said(found), sounds(found), strict=True)]  # fmt: skip
    assert about == expected
    assert found.notes()[0].endswith(f"read as {read_as}")
    for sound in sounds(found):
        assert len(sound.samples(RATE)) == pytest.approx(sound.seconds * RATE, rel=0.1)
    # The same sound elsewhere is the same.
    here.rename(moved)
    assert repr(load_speech(moved / path.relative_to(here)).rows) == repr(found.rows)


def test_splits_keep_what_each_of_their_tables_says(tmp_path: Path) -> None:
    for split in ("test", "train"):
        save_sound(tmp_path / "hf" / split / "0.wav")
        (tmp_path / "hf" / split / "metadata.csv").write_text(f"file_name,text\n0.wav,{split} words\n")
    found = load_speech(tmp_path / "hf", reference="text")
    assert said(found) == [("0", "test words"), ("0#2", "train words")]
    save_sound(tmp_path / "hf" / "other" / "1.wav")
    found = load_speech(tmp_path / "hf")
    assert said(found)[2:] == [("1", None)]
    assert len(found.notes()) == 3
    assert said(load_speech(tmp_path / "hf", limit=1)) == [("0", "test words")]
    with pytest.raises(UserError, match=r"--reference-column text: .*other holds no table, expected none"):
        load_speech(tmp_path / "hf" / "other", reference="text")


def test_names_that_no_file_can_have_are_counted_as_others(tmp_path: Path) -> None:
    save_sound(tmp_path / "good.wav")
    names = ["good.wav", "UklGR" * 99, "a\0b.wav", f"{'deep/' * 999}x.wav", "data:audio/wav;base64," + "A" * 4096]
    found = load_speech(write_lines(tmp_path / "m.jsonl", [{"audio": name} for name in names]))
    assert said(found) == [("good", None)]
    note = found.notes()[1]
    assert "skipped 4 of 5 records, line 2 (no file 'UklGRUklGR" in note
    assert "3 (no file 'a\\x00b.wav')" in note
    assert len(note) < 400
    assert note.isprintable()


def test_samples_are_one_channel_at_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    plain = load_speech(save_sound(tmp_path / "a.wav", 1.0)).rows[0].sound  # type: ignore[attr-defined]
    assert np.abs(plain.samples(RATE) - tone(1.0, 440)).max() < 1e-4
    path = save_sound(tmp_path / "b.flac", 1.0, 440, rate=44_100, channels=2)
    samples = load_speech(path).rows[0].sound.samples(RATE)  # type: ignore[attr-defined]
    assert (samples.shape, samples.dtype) == ((RATE,), np.float32)
    spectrum = np.abs(np.fft.rfft(samples))
    assert int(spectrum.argmax()) == 440
    part = load_speech(nemo(tmp_path)).rows[1].sound.samples(RATE)  # type: ignore[attr-defined]
    assert np.abs(part - tone(2.0, 440)[RATE // 2 : RATE * 3 // 4]).max() < 1e-4


def test_a_file_of_many_pieces_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an hour of sound a manifest names a thousand pieces."""
    hashed: list[Path] = []
    right = pieces.file_sha256
    monkeypatch.setattr(pieces, "file_sha256", lambda path: hashed.append(path) or right(path))
    first = sounds(load_speech(nemo(tmp_path)))
    assert hashed == [tmp_path / "long.wav"]
    save_sound(tmp_path / "long.wav", 2.0, 880)
    os.utime(tmp_path / "long.wav", ns=(1, 1))
    again = sounds(load_speech(tmp_path / "manifest.json"))
    assert len({s.sha256 for s in (*first, *again)}) == len(hashed) == 2


def test_what_cannot_be_heard_is_counted_and_named(tmp_path: Path) -> None:
    save_sound(tmp_path / "good.wav")
    (tmp_path / "noise.wav").write_bytes(b"RIFF nothing of the kind")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    names = ["good.wav", "gone.wav", "noise.wav", "empty.wav"]
    rows: list[dict[str, Any]] = [{"audio_filepath": name, "text": ""} for name in names]
    rows += [{"text": "x"}, {"audio_filepath": 3}, {"audio_filepath": "good.wav", "offset": 9, "duration": 1}]
    found = load_speech(write_lines(tmp_path / "m.jsonl", rows))
    assert said(found) == [("good", "")]
    note = found.notes()[1]
    for reason in (
        "skipped 6 of 7 records, line 2 (no file gone.wav)",
        "3 (noise.wav is no sound that can be read (",
        "4 (empty.wav holds no sound)",
        "6 (audio_filepath is neither the name of a file nor sound)",
    ):
        assert reason in note
    for i in range(7):
        (tmp_path / "s" / f"{i}.mp3").parent.mkdir(exist_ok=True)
        (tmp_path / "s" / f"{i}.mp3").write_bytes(bytes(1000))
    save_sound(tmp_path / "s" / "x.wav")
    note = load_speech(tmp_path / "s").notes()[1]
    assert "file 1 (0.mp3 is no sound that can be read (Format not recognised))" in note
    assert note.endswith(", and 2 more")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 's' / '0.mp3'}: holds nothing to read")):
        load_speech(tmp_path / "s" / "0.mp3")
    cut = {"audio_filepath": "good.wav", "offset": 0.1, "duration": 1e-5}
    with pytest.raises(UserError, match=r"good.wav holds no sound in a piece of 1e-05 s"):
        load_speech(write_lines(tmp_path / "cut.jsonl", [cut]))
    broken = save_sound(tmp_path / "broken.flac", 2.0)
    broken.write_bytes(broken.read_bytes()[:9000])
    with pytest.raises(BadRecord, match=r"broken.flac cannot be read to its end"):
        sounds(load_speech(broken))[0].samples(RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(99, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(BadRecord, match=r"nan.wav holds NaN or infinity"):
        sounds(load_speech(tmp_path / "nan.wav"))[0].samples(RATE)


def test_what_holds_no_speech_is_refused_in_a_line(tmp_path: Path) -> None:
    common_voice(tmp_path / "cv")
    (tmp_path / "cv" / "dev.tsv").write_text("path\tsentence\n")
    (tmp_path / "nothing").mkdir()
    plain = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "hello"}])
    for path, how, reason in (
        (tmp_path / "cv", {}, "holds 2 tables (dev.tsv, test.tsv), expected one of them"),
        (tmp_path / "nothing", {}, "holds no sound, expected flac, wav, mp3 or ogg with"),
        (tmp_path / "not there", {}, "no such file or folder"),
        (plain, {}, "line 1: no sound under its keys"),
        (tmp_path / "cv" / "test.tsv", {"column": "wave"}, "--column 'wave' is no column of this TSV"),
        (tmp_path / "cv" / "test.tsv", {"reference": "words"}, "no words"),
    ):
        with pytest.raises(UserError, match=re.escape(reason)) as raised:
            load_speech(path, **how)
        assert len(str(raised.value)) < 330
