"""Pieces of sound in files, or in cells of a table: what they are, and their samples."""

import io
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import file_sha256
from simulator.ground.dependency import Dependency, require
from simulator.ground.records import BadRecord

SOUNDFILE = Dependency(import_name="soundfile", purpose="reading sound", extra="speech")
SOXR = Dependency(import_name="soxr", purpose="reading sound of another sampling rate", extra="speech")
# Files of a folder that are taken for sound; what soundfile reads besides, a manifest can name.
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au", ".w64", ".caf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A piece of sound.

    path: Where it lies, or what a table calls it. data: the file itself, where a table holds it. sha256: of the file.
    seconds: how long it is. begin_s, is_part: where it begins in its file, and whether it ends before that does.
    """

    path: Path = field(repr=False)
    data: bytes | None = field(repr=False)
    sha256: str
    seconds: float
    begin_s: float
    is_part: bool

    def samples(self, rate: int) -> NDArray[np.float32]:
        """Return its samples at this rate, of several channels their mean.

        Raises:
            BadRecord: It cannot be read to its end, or holds numbers that are none.
        """
        with opened(self.path, self.data) as file:
            own = int(file.samplerate)
            try:
                file.seek(round(self.begin_s * own))
                count = round(self.seconds * own) if self.is_part else -1
                found = file.read(count, dtype="float32", always_2d=True).mean(1)
            except RuntimeError as error:
                raise BadRecord(f"{self.path.name} cannot be read to its end ({reason_of(error)})") from None
        if not np.isfinite(found).all():
            raise BadRecord(f"{self.path.name} holds NaN or infinity")
        samples: NDArray[np.float32] = found if own == rate else require(SOXR, "--task asr").resample(found, own, rate)
        if not len(samples):
            raise BadRecord(f"{self.path.name} holds no sound")
        return samples


def opened(path: Path, data: bytes | None) -> Any:
    """Open sound; data: in place of the file.

    Raises:
        BadRecord: It is no sound that can be read.
    """
    soundfile = require(SOUNDFILE, "--task asr")
    try:
        return soundfile.SoundFile(path if data is None else io.BytesIO(data))
    except (RuntimeError, TypeError, OSError) as error:
        # Of an MP3 that is none the library says that it is not there.
        reason = "Format not recognised" if "not exist" in str(error) and path.is_file() else reason_of(error)
        raise BadRecord(f"{path.name} is no sound that can be read ({reason})") from None


def reason_of(error: Exception) -> str:
    """Say what a library of sound says, without the name of the file."""
    return str(error).rpartition(": ")[2].strip(" .") or type(error).__name__


@lru_cache(maxsize=64)
def hash_of(path: Path, changed_ns: int) -> str:
    """Return the hash of a file, read once for all its pieces; changed_ns: when it was changed."""
    return file_sha256(path)


def sound_of(path: Path, data: bytes | None = None, *, begin_s: float = 0.0, length_s: float | None = None) -> Sound:
    """Return a piece of sound that can be opened.

    Args:
        path: Of the file, or what it is called.
        data: The file itself, where it is at hand.
        begin_s: Where the piece begins in it.
        length_s: How long it is; None: to the end.

    Raises:
        BadRecord: It is not there, is no sound, or there is nothing in it.
    """
    with opened(path, data) as file:
        whole_s, rate = file.frames / file.samplerate, file.samplerate
    if begin_s and begin_s >= whole_s:
        raise BadRecord(f"offset {begin_s:g} s is behind the end of {path.name}, {whole_s:.1f} s")
    rest_s = whole_s - begin_s
    seconds = rest_s if length_s is None else min(length_s, rest_s)
    if round(seconds * rate) < 1:
        piece = f" in a piece of {seconds:g} s" if length_s is not None else ""
        raise BadRecord(f"{path.name} holds no sound{piece}")
    digest = hash_of(path, path.stat().st_mtime_ns) if data is None else sha256(data).hexdigest()
    return Sound(path=path, data=data, sha256=digest, seconds=seconds, begin_s=begin_s, is_part=length_s is not None)
