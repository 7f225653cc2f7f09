"""The one checked reader of arrays: bytes of an .npz file, nothing of which is unpacked before it says what it is."""

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .artefacts import UserError
from .fields import shortened

# Bytes that may be packed into each byte of a file, where they are more than a few: deflate packs zeros 1032 to one.
MOST_A_BYTE, FEW = 200, 1 << 28
SUFFIX = ".npy"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What an array has to be: numbers of one dimension, of a type, from `least` to `most`; NaN where it is `unknown`.

    bottomless: whether minus infinity is a number here, as of logarithms. size: how many; None: any number, the same as
    of others where their reader says so.
    """

    dtype: Any = np.float64
    least: float = -math.inf
    most: float = math.inf
    unknown: bool = False
    bottomless: bool = False
    size: int | None = None

    def check(self, name: str, array: NDArray[Any]) -> None:
        """Refuse other values."""
        known = array[~np.isnan(array)] if self.unknown else array
        if not known.size or known.dtype.kind == "b":
            return
        low, high = float(known.min()), float(known.max())
        # NaN is neither above nor below.
        good_low = self.least <= low and (math.isfinite(low) or (self.bottomless and low == -math.inf))
        if not (good_low and high <= self.most and high < math.inf):
            raise UserError(f"{name} holds {high if good_low else low:g}, expected {self.allowed}")

    @property
    def allowed(self) -> str:
        """What values may be."""
        if math.isfinite(self.most) and not math.isfinite(self.least):
            return f"numbers of at most {self.most:g}"
        if math.isfinite(self.most):
            return f"numbers from {self.least:g} to {self.most:g}"
        return f"numbers of at least {self.least:g}" if math.isfinite(self.least) else "finite numbers"


def read_arrays(where: str | Path, data: bytes, expected: Mapping[str, Numbers] | Numbers) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file that are expected; `Numbers` alone: all that it holds.

    Raises:
        UserError: Begins with `where` they are, and says what is wrong with them.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return unpacked(archive, len(data), expected)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{where}: is no .npz of arrays ({shortened(str(error), 80)})") from None


def unpacked(archive: zipfile.ZipFile, size: int, expected: Mapping[str, Numbers] | Numbers) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive of so many bytes."""
    members = {info.filename.removesuffix(SUFFIX): info for info in archive.infolist()}
    told = dict.fromkeys(members, expected) if isinstance(expected, Numbers) else expected
    if missing := [name for name in told if name not in members]:
        raise UserError(f"has no array {missing[0]!r}")
    total = sum(members[name].file_size for name in told)
    if total > max(FEW, MOST_A_BYTE * size):
        raise UserError(f"unpacks to {total:,} bytes, expected at most {MOST_A_BYTE} times its {size:,}")
    return {name: read_array(archive, members[name], name, numbers) for name, numbers in told.items()}


def read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, numbers: Numbers) -> NDArray[Any]:
    """Read an array, once its header has said that it is what it has to be."""
    name = shortened(name)
    with archive.open(info) as file:
        shape, dtype = header_of(file, name)
        if dtype != np.dtype(numbers.dtype) or len(shape) != 1:
            raise UserError(f"{name} is {dtype} of shape {shape}, expected {np.dtype(numbers.dtype)} in one dimension")
        if numbers.size not in (None, shape[0]):
            raise UserError(f"{name} holds {shape[0]} numbers, expected {numbers.size}")
        size = shape[0] * dtype.itemsize
        content = file.read(size + 1)
    if len(content) != size:
        raise UserError(f"{name} is {'cut short' if len(content) < size else 'longer than it says'}")
    array: NDArray[Any] = np.frombuffer(bytearray(content), dtype)
    if dtype.kind == "b":
        array = array.view(np.uint8) != 0
    numbers.check(name, array)
    return array


def header_of(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the type of an array."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise UserError(f"{name} is of version {version} of its format, expected 1.0 or 2.0")
    shape, _, dtype = HEADERS[version](file)
    return shape, dtype
