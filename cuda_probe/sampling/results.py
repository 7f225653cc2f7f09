"""What the sampling functions return; arrays of the caller's own kind."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sampled:
    """One round of speculative sampling.

    Attributes:
        accepted: Drafted tokens kept, [B].
        token: The token after them, [B]; -1 where the row to draw from gives no token any weight.
        out_ids: [B, K + 1]: the drafts kept, the token, then -1.
    """

    accepted: Any
    token: Any
    out_ids: Any


@dataclass(frozen=True)
class Verified:
    """One round of greedy verification.

    Attributes:
        accepted: Leading drafts that equal the target's argmax, [B].
        ids: Argmax of each row, [B, rows]; -1 in rows beyond the one after a sequence's last draft. With K + 1 rows
            the next token is `ids[b, accepted[b]]`.
    """

    accepted: Any
    ids: Any
