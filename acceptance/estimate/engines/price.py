"""What steps of an engine cost, as those say who know: policies and replays take any."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from acceptance.estimate.play import Counts

Floats = NDArray[np.float64]


class StepPrice(Protocol):
    """What the parts of a step of an engine take, in seconds; arguments broadcast."""

    def plain_s(self, running: Counts) -> Floats:
        """Return the seconds of a step that decodes one token of each sequence."""

    def draft_s(self, running: Counts, passes: Counts) -> Floats:
        """Return the seconds of drafts of so many passes; of 0: what the drafter runs to keep up with the text."""

    def verify_s(self, running: Counts, tokens: Counts) -> Floats:
        """Return the seconds of the rest of a step that verifies so many tokens, the sequences' own among them."""
