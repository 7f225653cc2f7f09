"""What is said in pieces of sound, and what of it is known: folders and manifests as data sets of speech have them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, shortened
from simulator.ground.records import BadRecord, Records

from .prompts import FOLDER_KINDS, Prompt, PromptFile, of_folder, open_prompts, read_first, unique_names
from .said import category_of, in_known_case, key_of, name_of, source_of
from .sound import SUFFIXES, Sound, sound_of

# What NeMo, Common Voice, Hugging Face and others call the sound, and what is said in it.
SOUNDS = ("audio", "audio_filepath", "file_name", "path", "audio_path", "wav", "file", "filename")
TRANSCRIPTS = ("text", "transcription", "sentence", "transcript", "reference", "normalized_text", "raw_transcription")
# Beside a manifest: where Common Voice, LJSpeech and others keep the files that it names.
BESIDE = ("", "clips", "wavs", "audio", "wav")
# Characters of a name that is told whole.
LONGEST = 100
LISTS, OWN = "*.trans.txt", (".txt", ".lab")
EXPECTED = 'a folder of sound, or records with "audio_filepath" and "text", "file_name", "path" or "audio"'
FOLDER = "flac, wav, mp3 or ogg with what is said in NAME.txt or *.trans.txt, or a table such as metadata.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance(Prompt):
    """A piece of sound, and what is said in it; None where nobody says. It is a conversation of one turn."""

    sound: Sound
    reference: str | None


def load_speech(
    path: Path,
    dataset: str = "auto",
    *,
    column: str | None = None,
    reference: str | None = None,
    limit: int | None = None,
) -> PromptFile:
    """Read utterances, skipping those that cannot be used.

    Args:
        path: A folder of sound, a manifest in any format of `prompts.load_prompts` but text, or one file of sound.
        dataset: One of prompts.DATASETS that is a kind of file, or "auto".
        column, reference: The key or column of the sound, and of what is said; None: the first of the usual ones.
        limit: The first so many usable ones; None: all.

    Raises:
        UserError: There is nothing to read.
    """

    def manifest(file: Path, left: int | None) -> PromptFile:
        return load_manifest(file, dataset, column, reference, left)

    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        return manifest(path, limit)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir() and (here := tables_in(path)):
        return of_folder(path, manifest, limit) if len(here) > 1 else manifest(here[0], limit)
    tables = {f.parent: f for f in sorted(path.rglob("metadata.*"), reverse=True) if f.suffix in FOLDER_KINDS}
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
    files = [f for f in files if not f.name.startswith(".") and tables.keys().isdisjoint(f.parents)]
    if not files and not tables:
        raise UserError(f"{path}: holds no sound, expected {FOLDER}")
    for option, value in (("--column", column), ("--reference-column", reference)):
        if value is not None and not tables:
            raise UserError(f"{option} {value}: {path} holds no table, expected none")
    if not tables:
        return load_files(path, files, limit)
    # Splits of a data set, each with a table of its own; then what none of them is about.
    parts = [*sorted(tables.values()), *([path] if files else [])]
    return of_folder(path, lambda f, n: load_files(path, files, n) if f == path else manifest(f, n), limit, parts)


def unsaid(rows: Sequence[Prompt]) -> list[str]:
    """Say of how many utterances nobody says what is said in them; nothing where all is known."""
    missing = sum(isinstance(row, Utterance) and row.reference is None for row in rows)
    return (
        [f"word error rate: {missing} of {len(rows)} utterances come without what is said in them"] if missing else []
    )


def tables_in(folder: Path) -> list[Path]:
    """Return the manifests of a folder: that of its files, or all in Parquet.

    Raises:
        UserError: There are several, as of a training and a test set.
    """
    found = sorted(f for f in folder.iterdir() if f.suffix in FOLDER_KINDS and not f.name.startswith("."))
    named = [f for f in found if f.stem == "metadata"]
    if named or len(found) < 2 or all(f.suffix == ".parquet" for f in found):
        return named[:1] or found
    names = ", ".join(f.name for f in found[:4]) + (", ..." if len(found) > 4 else "")
    raise UserError(f"--prompts {folder}: holds {len(found)} tables ({names}), expected one of them")


def load_files(folder: Path, files: list[Path], limit: int | None) -> PromptFile:
    """Read files of sound, each with what is said in it beside it."""
    lists = cache(transcripts_in)
    ways: dict[str, int] = {}

    def read(item: Path, _: str) -> Utterance:
        listed, own = lists(item.parent).get(item.stem), [item.with_suffix(s) for s in OWN]
        text, way = listed, f"in {LISTS}"
        if listed is None:
            beside = next((f for f in own if f.is_file()), None)
            text, way = (None, "nowhere") if beside is None else (said_in(beside), f"in NAME{beside.suffix}")
        sound = sound_of(item)
        ways[way] = ways.get(way, 0) + 1
        return Utterance(turns=("",), source=item.stem, sound=sound, reference=text)

    read_as = f"{len(files)} file{'s' if len(files) > 1 else ''} of sound"
    found = collected(folder, read_first(folder, enumerate(files, 1), read, limit, FOLDER, "file"), read_as)
    told = " and ".join(f"{way} ({count})" if len(ways) > 1 else way for way, count in ways.items())
    return replace(found, read_as=f"{read_as}, what is said {told}")


def transcripts_in(folder: Path) -> dict[str, str]:
    """Return what a folder's lists say of its files, a line each: a name, and what is said in it."""
    lines = [line for file in sorted(folder.glob(LISTS)) for line in said_in(file, whole=True).splitlines()]
    return {name: text for line in lines for name, _, text in [line.strip().partition(" ")] if text}


def said_in(file: Path, *, whole: bool = False) -> str:
    """Return the text of a file; whole: with its line ends."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise BadRecord(f"{file.name} is no UTF-8 text") from None
    return text if whole else " ".join(text.split())


def load_manifest(path: Path, dataset: str, column: str | None, reference: str | None, limit: int | None) -> PromptFile:
    """Read a table or JSON that names sound or holds it."""
    sounds = SOUNDS if column is None else (column,)
    transcripts = TRANSCRIPTS if reference is None else (reference,)
    opened = open_prompts(path, dataset, sounds, "" if column is None else "--column")
    keys: dict[str, None] = {}

    def read(item: object, where: str) -> Utterance:
        record = in_known_case(in_known_case(opened.parse(item), sounds), transcripts)
        key = key_of(record, sounds, "sound")
        said = next((k for k in transcripts if record[k].is_given), None)
        if reference is not None and said is None:
            raise BadRecord(f"no {reference}")
        sound = named_sound(record, key, path.parent)
        keys.setdefault(key if said is None else f"{key} with {said}")
        return Utterance(
            turns=("",),
            source=source_of(record, name_of(sound.path.stem) or where),
            category=category_of(record),
            sound=sound,
            reference=None if said is None else record[said].text(empty=True),
        )

    records = read_first(path, opened.items, read, limit, EXPECTED, opened.place)
    return collected(path, records, f"{opened.kind}, {' and '.join(keys)}")


def named_sound(record: Field, key: str, folder: Path) -> Sound:
    """Return the sound of a record: a file, or one in the table itself; where NeMo says, a part of it."""
    value = record[key].value
    data, name = (value.get("bytes"), value.get("path") or "") if isinstance(value, dict) else (None, value)
    if not isinstance(name, str) or not (data is None or isinstance(data, bytes)) or not (data or name):
        raise BadRecord(f"{key} is neither the name of a file nor sound")
    path = Path(name)
    if data is None:
        places = [folder / beside / path for beside in BESIDE]
        path = next((p for p in places if is_file(p)), places[0])
        if not is_file(path):
            raise BadRecord(f"no file {name if name.isprintable() and len(name) < LONGEST else shortened(name)}")
    begin_s = record["offset"].number(0) if record["offset"].is_given else 0.0
    is_part = record["offset"].is_given and record["duration"].is_given
    return sound_of(path, data, begin_s=begin_s, length_s=record["duration"].number(0) if is_part else None)


def is_file(path: Path) -> bool:
    """Say whether a file is there; of what no file can be called too, as sound that is written in letters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def collected(path: Path, records: Records[Utterance], read_as: str) -> PromptFile:
    """Return utterances of a file or folder, each of a name of its own."""
    names = unique_names(u.source for u in records.rows)
    rows = tuple(replace(u, source=name) for u, name in zip(records.rows, names, strict=True))
    return PromptFile(path=path, rows=rows, skipped=records.skipped, place=records.place, read_as=read_as)
