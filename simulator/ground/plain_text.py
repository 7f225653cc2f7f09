"""Text as people have it: packed, in UTF-16, or not text at all; what comes out is bytes of UTF-8.

What a file is, its first bytes say, never its name. Binary data is refused by what it is, so that nobody measures it.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from io import BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from .artefacts import UserError, read_bytes, reading
from .dependency import Dependency, require

PYARROW = Dependency(import_name="pyarrow", purpose="reading Parquet and zstd", extra="parquet")
PARQUET = b"PAR1"
# Control characters that no text holds; FF and ESC stand in logs.
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# Where a file's lines that are no UTF-8 text are more than this share, it is no text; else each is a line to skip.
MAX_BAD_LINES = 0.5
# Bytes by which UTF-16 without a byte order mark is told, and the share of them that are NUL: ASCII has 1/2.
LOOKED_AT, MOSTLY = 4096, 0.6
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
OTHER_MARKS = tuple(mark for mark in MARKS if mark != codecs.BOM_UTF8)
# Bytes of a character at most.
UTF8_MOST = 4
BINARY = {
    PARQUET: "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"PK\x03\x04": "a ZIP archive",
    b"SQLite format 3": "an SQLite database",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x93NUMPY": "a NumPy array",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
    b"GGUF": "GGUF",
}
# What is written in letters and is no text that anyone reads, by how it begins.
NO_TEXT = {
    rb"version https://git-lfs": "a Git LFS pointer (git lfs pull brings the file)",
    rb"%PDF": "a PDF",
    rb"%!PS": "PostScript",
    rb"\{\\rtf": "RTF",
    rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]": "SVG",
    rb"\s*(?:<!doctype html|<html)[\s>]": "HTML",
    # Of protocol 0, a container, text or object before the first mark; later ones by their number.
    rb"\(?(?:[ld]p\d+\n|[VS][^\n]*\np\d+\n|c[\w.]+\n\w+\np\d+\n)|\x80[\x02-\x05]": "a pickle",
}


def open_zstd(file: BufferedIOBase) -> Any:
    """Unpack zstd, which Python brings from 3.14 on alone."""
    return require(PYARROW).input_stream(file, compression="zstd")


def opener(module: str) -> Callable[[BufferedIOBase], Any]:
    """Return what unpacks by a module of Python's own: imported when a file needs it, few do."""
    return lambda file: import_module(module).open(file)


def unpacking_errors() -> tuple[type[Exception], ...]:
    """Return what packed data that is damaged raises."""
    import lzma
    import zlib

    return OSError, EOFError, ValueError, zlib.error, lzma.LZMAError


PACKED: dict[bytes, tuple[str, Callable[[BufferedIOBase], Any]]] = {
    rb"\x1f\x8b": ("gzip", opener("gzip")),
    rb"BZh[1-9]1AY&SY": ("bzip2", opener("bz2")),
    rb"\xfd7zXZ\x00": ("xz", opener("lzma")),
    rb"\x28\xb5\x2f\xfd": ("zstd", open_zstd),
}
# Bytes of text that a file may unpack to, and of what is unpacked at a time.
MAX_UNPACKED, PART = 1 << 30, 1 << 20


class Content(NamedTuple):
    """What a file holds: bytes once unpacked and, of text, in UTF-8 without a mark; and what had to be done for it.

    how: such as ("gzip", "UTF-16"); nothing for plain UTF-8.
    """

    data: bytes
    how: tuple[str, ...] = ()


def read_unpacked(path: str | Path) -> Content:
    """Read a file, unpacked where it is packed; text or not.

    Raises:
        UserError: It cannot be read, is damaged, or nothing that is installed unpacks it.
    """
    data = read_bytes(path)
    for start, (name, unpack) in PACKED.items():
        if re.match(start, data):
            try:
                with unpack(BytesIO(data)) as file:
                    return Content(data=bounded(path, file), how=(name,))
            except UserError:
                raise
            except unpacking_errors() as error:
                raise UserError(f"{path}: {name} data that cannot be unpacked ({first_line(error)})") from None
    return Content(data=data)


def text_parts(path: str | Path) -> Iterator[bytes]:
    """Yield a text file part by part, in UTF-8 and unpacked; of one in UTF-16 its only part, as `read_text_bytes`.

    What the parts behind the first hold is not looked at: bytes that are no text are for their reader to refuse.

    Raises:
        UserError: As `read_text_bytes`.
    """
    with reading(path) as raw:
        file = BufferedReader(raw, PART)
        begins = file.peek(16)[:16]
        name, unpack = next((how for start, how in PACKED.items() if re.match(start, begins)), ("", None))
        try:
            with closing(unpack(file) if unpack else file) as stream:
                part = stream.read(PART)
                if part.startswith(OTHER_MARKS) or guessed_encoding(part) != "utf-8":
                    yield as_text(path, Content(data=part + bounded(path, stream))).data
                    return
                part = part.removeprefix(codecs.BOM_UTF8)
                more = stream.read(PART)
                # A line may go on in the next part, and so may a character.
                check_text(path, part[: part.rfind(b"\n") + 1] or part[:-UTF8_MOST] if more else part)
                while part:
                    yield part
                    part, more = more, stream.read(PART)
        except UserError:
            raise
        except unpacking_errors() as error:
            if not name:
                raise
            raise UserError(f"{path}: {name} data that cannot be unpacked ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """Return the first line of what a library says."""
    return str(error).strip().partition("\n")[0]


def bounded(path: str | Path, file: Any) -> bytes:
    """Read what is unpacked, up to a bound."""
    unpacked = bytearray()
    while part := file.read(PART):
        unpacked += part
        if len(unpacked) > MAX_UNPACKED:
            raise UserError(f"{path}: unpacks to more than {MAX_UNPACKED:,} bytes, expected less")
    return bytes(unpacked)


def as_text(path: str | Path, content: Content) -> Content:
    """Return text in UTF-8; some of its lines may hold other bytes.

    Raises:
        UserError: It is no text; says what it is instead.
    """
    data = content.data
    mark = next((m for m in MARKS if data.startswith(m)), b"")
    encoding = MARKS[mark] if mark else guessed_encoding(data)
    if encoding == "utf-8":
        data = data[len(mark) :]
        check_text(path, data)
        return Content(data=data, how=content.how)
    name = encoding.upper()[:6]
    try:
        data = data[len(mark) :].decode(encoding).encode()
    except UnicodeError as error:
        raise UserError(f"{path}: {name} text that is damaged ({error})") from None
    check_text(path, data)
    return Content(data=data, how=(*content.how, name))


def read_text_bytes(path: str | Path) -> bytes:
    """Read a text file, packed or not, of any Unicode encoding, as UTF-8."""
    return as_text(path, read_unpacked(path)).data


def guessed_encoding(data: bytes) -> str:
    """Return the encoding of text without a mark: UTF-16 where every other byte is NUL, as ASCII has it, else UTF-8."""
    part = data[:LOOKED_AT]
    even, odd = part[0::2].count(0), part[1::2].count(0)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > MOSTLY * len(part) / 2 and not others:
            return encoding
    return "utf-8"


def check_text(path: str | Path, data: bytes) -> None:
    """Refuse what is no text."""
    for start, name in NO_TEXT.items():
        if re.match(start, data[:LOOKED_AT], re.IGNORECASE | re.DOTALL):
            raise UserError(f"{path}: {name}, not text, expected text in UTF-8 or UTF-16")
    found = CONTROL.search(data)
    if found is None and is_utf8(data):
        return
    lines = [line for line in data.split(b"\n") if line.strip()]
    bad = [i for i, line in enumerate(lines, 1) if CONTROL.search(line) or not is_utf8(line)]
    if b"\0" in data or len(bad) > MAX_BAD_LINES * len(lines):
        name = next((BINARY[start] for start in BINARY if data.startswith(start)), "")
        name = name or ("a tar archive" if data[257:262] == b"ustar" else "")
        what = f"{name}, not text" if name else f"binary data (byte {found.start()}), not text" if found else ""
        raise UserError(f"{path}: {what or 'not UTF-8 text'}, expected text in UTF-8 or UTF-16")


def is_utf8(data: bytes) -> bool:
    """Say whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
