"""One source for two engines: loops that numba compiles where it is there, and Python runs as they are elsewhere."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

# Set to anything: Python runs them, though numba is installed.
PLAIN = "SPECSIM_PLAIN"
IS_COMPILED = not os.environ.get(PLAIN) and find_spec("numba") is not None


def compiled(function: Function) -> Function:
    """Compile a function of arrays, named tuples and numbers at its first call; what was compiled is kept in files.

    It releases the interpreter's lock, so threads run side by side. The results are the same bits either way, as long
    as a function keeps to 64-bit numbers and to one order of its sums.
    """
    return by_numba(function)


def lean(function: Function) -> Function:
    """Compile a function that makes no array; rows of one may have names.

    numba then counts no holders of arrays, which takes 10 ns of each array of a named tuple in each call. It becomes a
    part of its callers, who would copy these named tuples.
    """
    return by_numba(function, _nrt=False, forceinline=True)


def by_numba(function: Function, **options: bool) -> Function:
    """Compile a function where numba is there; a division by zero is infinite or not a number."""
    if not IS_COMPILED:
        return function
    from numba import njit

    options |= {"nogil": True}
    try:
        found: Any = njit(cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # there is no folder to keep it in
        return cast("Function", njit(error_model="numpy", **options)(function))
    keep_apart(found)
    return cast("Function", found)


def keep_apart(dispatcher: Any) -> None:
    """Have what is kept of a function hang on all sources of loops: numba looks at its own alone, not at its calls."""
    from numba.core.caching import IndexDataCacheFile

    cache = dispatcher._cache
    stamp = (cache._impl.locator.get_source_stamp(), stamps())
    base = cache._impl.filename_base
    cache._cache_file = IndexDataCacheFile(cache_path=cache._cache_path, filename_base=base, source_stamp=stamp)


def is_kept(function: Callable[..., object]) -> bool:
    """Whether a function's next call compiles nothing, as something of it was kept."""
    cache: Any = getattr(function, "_cache", None)
    return not IS_COMPILED or (cache is not None and bool(cache._cache_file._load_index()))


@contextmanager
def at_compiling(function: Callable[..., object], then: Callable[[], None]) -> Iterator[None]:
    """Call `then` when a function begins to be compiled within: once, and never where something of it was kept."""
    if not IS_COMPILED:
        yield
        return
    from numba.core.event import Listener, install_listener

    class Told(Listener):  # type: ignore[misc]  # numba has no types
        is_said = False

        def on_start(self, event: Any) -> None:
            if event.data["dispatcher"] is function and not self.is_said:
                self.is_said = True
                then()

        def on_end(self, event: Any) -> None:
            pass

    with install_listener("numba:compile", Told()):
        yield


@lru_cache(maxsize=1)
def stamps() -> tuple[tuple[str, int, int], ...]:
    """Return name, time and size of every file of loops."""
    files = sorted((Path(__file__).parents[1] / "serving").glob("*.py"))
    return tuple((file.name, (told := file.stat()).st_mtime_ns, told.st_size) for file in files)
