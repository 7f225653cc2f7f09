"""What a reader of recorded traffic is: a name, the columns by which a file is known, and a function."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .columns import Workload
from .rows import Source


class Options(NamedTuple):
    """What is said of a file beside it; tokenizer: folder of one that counts the tokens of texts."""

    tokenizer: Path | None = None


class Format(NamedTuple):
    """A format; `needs`: columns or keys that a file has to have, in small letters."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[Source, Options], Workload]
