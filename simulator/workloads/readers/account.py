"""What of a file was not used: how many rows, why, and where the first of them stands."""

from collections.abc import Sequence

from simulator.workloads.requests import Array

# Reasons that are named.
NAMED = 4


class Account:
    """Counts of the rows of a file.

    Attributes:
        rows: That could be read.
        left_out: By reason: how many, and the place of the first.
    """

    def __init__(self, place: str) -> None:
        self.place, self.rows, self.unread = place, 0, 0
        self.left_out: dict[str, tuple[int, int]] = {}

    def leave_out(self, reason: str, places: Sequence[int] | Array, *, were_rows: bool = False) -> None:
        """Account for rows that are not used, and why; were_rows: they are among `rows`."""
        if len(places):
            count, first = self.left_out.get(reason, (0, int(places[0])))
            self.left_out[reason] = count + len(places), first
            self.unread += 0 if were_rows else len(places)

    @property
    def total(self) -> int:
        """All rows of the file."""
        return self.rows + self.unread

    def reasons(self) -> str:
        """Say how many were not used and why, the most frequent reason first."""
        ordered = sorted(self.left_out.items(), key=lambda item: (-item[1][0], item[1][1]))
        said = [f"{n:,} {reason} (first in {self.place} {at:,})" for reason, (n, at) in ordered[:NAMED]]
        rest = sum(n for _, (n, _) in ordered[NAMED:])
        return ", ".join([*said, *([f"{rest:,} for other reasons"] if rest else [])])

    def notes(self) -> list[str]:
        """Return a line about what was left out, or nothing."""
        left = sum(count for count, _ in self.left_out.values())
        plural = "" if self.total == 1 else "s"
        return [f"left out {left:,} of {self.total:,} {self.place}{plural}: {self.reasons()}"] if left else []
