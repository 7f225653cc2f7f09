"""The releases that the tests have seen of libraries whose interfaces have broken ours, and a word on any other.

The one table; a test holds it together with pyproject.toml and constraints.txt. Of torch, whose other releases come as
gigabytes, CI runs the one in constraints.txt alone; the oldest was run by hand, under Python 3.12.
"""

import re
import sys
from functools import cache

TESTED = {"torch": ("2.11.0", "2.13.0"), "transformers": ("5.0.0", "5.24.0")}


def numbers(release: str) -> tuple[int, ...]:
    """Return what releases are ordered by: major, minor and patch; of `2.13.0+cpu` as of `2.13.0`."""
    whole = [int(n) for n in re.findall(r"\d+", release.partition("+")[0])[:3]]
    return (*whole, 0, 0)[:3]


def untested(name: str, release: str) -> str:
    """Say in a line that a release lies outside what was tested; nothing of one within."""
    oldest, newest = TESTED[name]
    if numbers(release) > numbers(newest):
        return f"{name} {release} is newer than {newest}, the newest that specsim was tested with"
    if numbers(release) < numbers(oldest):
        return f"{name} {release} is older than {oldest}, the oldest that specsim was tested with"
    return ""


@cache
def warn_untested(name: str) -> None:
    """Say on stderr, once a process, that an installed library is of a release outside what was tested."""
    if name not in TESTED:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        said = untested(name, version(name))
    except PackageNotFoundError:
        return
    if said:
        sys.stderr.write(f"warning: {said}\n")


def changed_interface(name: str, reason: str) -> str:
    """Say that what is not understood is a library's doing: its release, and those that were tested."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version(name)
    except PackageNotFoundError:
        release = "here"
    oldest, newest = TESTED[name]
    return f"{name} {release} changed its interface ({reason}); specsim was tested with {oldest} to {newest}"
