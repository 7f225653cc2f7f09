"""One source for two engines: loops that numba compiles where it is there, and Python runs as they are elsewhere."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

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
    """Compile a function that makes no array, nor a view of one.

    numba then counts no holders of arrays, which takes 10 ns of each array of a named tuple in each call.
    """
    return by_numba(function, _nrt=False)


def by_numba(function: Function, **options: bool) -> Function:
    """Compile a function where numba is there; a division by zero is infinite or not a number."""
    if not IS_COMPILED:
        return function
    from numba import njit

    wrapped: Function = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    return wrapped
