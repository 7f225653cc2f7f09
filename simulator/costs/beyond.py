"""Where a forecast lies beyond the rows that a profile was fitted to, and what that adds to its error."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from .profile import Profile
from .step import Floats, Real

# Relative standard errors of a pass for each doubling beyond what a profile was timed over, and in a number format
# whose passes were not timed: assumptions. Of a pass of a data sheet against a plain step, besides what both share:
# rounds whose cost was taken to another device or a larger target were off by as much (docs/validation.md).
ERROR_A_DOUBLING, ERROR_OF_FORMAT, ERROR_OF_SHEET = 0.04, 0.1, 0.12
# What was loaded, in words.
WORDS = {
    "concurrency": "{:,.0f} sequences at once",
    "isl": "prompts of {:,.0f} tokens",
    "osl": "answers of {:,.0f} tokens",
    "context": "{:,.0f} tokens of context",
    "devices": "{:,.0f} devices",
}


class Beyond(NamedTuple):
    """What is beyond rows: a line to a reader, and the relative standard error that it adds, one or an array."""

    said: str
    error: Real


def beyond_rows(
    profile: Profile, model: str, formats: Collection[str], engine: str, loads: Mapping[str, Real]
) -> Iterator[Beyond]:
    """Yield what lies beyond the rows that a profile was fitted to; nothing of one that was not.

    Args:
        profile: The profile.
        model: Whose passes are priced.
        formats: That its weights are stored in.
        engine: That serves it, "" where nobody says.
        loads: What is loaded, of `WORDS`.
    """
    fit = profile.fitted
    if fit is None:
        return
    rows = f"{profile.name} was fitted to rows of"
    if model != fit.model:
        yield Beyond(f"{model}: {rows} {fit.model}; that adds {ERROR_OF_SHEET:.0%}", ERROR_OF_SHEET)
    if engine and fit.engine and engine != fit.engine:
        yield Beyond(f"{engine}: {rows} {fit.engine}; that adds {ERROR_OF_SHEET:.0%}", ERROR_OF_SHEET)
    others = sorted(set(formats) - set(fit.formats))
    if fit.formats and others:
        said = f"weights in {others[0]}: {rows} {', '.join(fit.formats)}; that adds {ERROR_OF_FORMAT:.0%}"
        yield Beyond(said, ERROR_OF_FORMAT)
    for name, values in loads.items():
        ends, values = fit.ends(name), np.asarray(values, np.float64)
        doublings = ends.doublings_beyond(values) if ends else np.zeros(())
        if ends and doublings.max(initial=0.0) > 0:
            worst = WORDS[name].format(values.flat[int(doublings.argmax())])
            span = f"{ends.least:,.10g} to {ends.most:,.10g}" if ends.most > ends.least else f"{ends.least:,.10g}"
            said = f"{worst}: {rows} {span}; each doubling beyond adds {ERROR_A_DOUBLING:.0%}"
            yield Beyond(said, ERROR_A_DOUBLING * doublings)


def error_beyond(found: Iterator[Beyond]) -> Floats:
    """Return what all of it adds, a standard error: independent of each other."""
    return np.asarray(np.sqrt(sum((np.square(b.error) for b in found), np.zeros(()))))
