"""Acceptance that someone typed: the rate of each position, as engines print it."""

from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.read_as import law_of_rates

from .imported import Imported

MEANING = (
    "rates are P(A >= j) for j in 1..K: the share of all rounds that accepted position j, as vLLM and llama.cpp print "
    "them; of how many rounds is not known, so no interval follows"
)


def import_rates(text: str, k: int | None = None) -> Imported:
    """Return the histogram of per-position rates, such as "0.72,0.55,0.42" or "72%, 55%, 42%".

    Raises:
        UserError: They are no falling fractions, or of another K.
    """
    rates = [rate_of(part.strip()) for part in text.strip().strip("[]()").split(",")]
    if len(rates) > MAX_DRAFT_LENGTH:
        raise UserError(f"--rates: {len(rates)} positions, expected at most {MAX_DRAFT_LENGTH}")
    if k is not None and k != len(rates):
        raise UserError(f"--rates: has {len(rates)} positions, but --k is {k}")
    histogram = AcceptanceHistogram(law_of_rates(rates, "--rates"), is_law=True)
    definition = f"{MEANING}; K = {len(rates)} positions."
    return Imported(histogram=histogram, definition=definition, format="rates")


def rate_of(text: str) -> float:
    """Read one rate."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise UserError(f"--rates: {text!r} is no number, expected rates such as 0.72,0.55,0.42") from None
    if text.endswith("%"):
        return value / 100
    if 1 < value <= 100:
        raise UserError(f"--rates: {text} is not a fraction; {value / 100:g}? (or {text}%)")
    return value
