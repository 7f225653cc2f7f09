"""The draft lengths that a fit may see: as a user lists them, and held against those that were timed."""

from collections.abc import Sequence
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.ranges import parse_whole

MOST_DRAFTED = 64


def parse_lengths(flag: str, text: str) -> tuple[int, ...]:
    """Read a list of draft lengths; a UserError names the option and what is not allowed."""
    return parse_whole(flag, text, 1, MOST_DRAFTED)


def check_timed(wanted: Sequence[int], timed: Sequence[int], path: Path) -> None:
    """Refuse draft lengths that were not timed; names the first."""
    for length in wanted:
        if length not in timed:
            there = ", ".join(map(str, sorted(timed))) or "none"
            raise UserError(f"--fit-k: {length} is not in {path}, expected some of {there}")
