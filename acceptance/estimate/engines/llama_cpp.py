"""llama.cpp's stop (`--spec-draft-p-min`): a draft goes on as long as its first choice is likely enough.

`common/speculative.cpp` (common_speculative_impl_draft_simple): the pass that found an unlikely token is paid, its
token is not sent. The probability is of the ten likeliest tokens, a trace's of all, a little less. `n_min` is not
played: a trace does not know how long a draft went on behind its first rejected token.
"""

from dataclasses import dataclass

from acceptance.estimate.play import Player
from acceptance.estimate.policies import ConfidenceStop
from acceptance.trace.trace import Trace
from simulator.ground.policies import PMin


@dataclass(frozen=True, slots=True)
class ConfidencePolicy:
    """The stop, as engines' policies are played."""

    by: PMin
    keeps_up: bool = False
    asks_costs: bool = False
    warm_up: int = 0
    needs: tuple[str, ...] = ("max_q",)

    @property
    def longest(self) -> int:
        """The longest draft."""
        return self.by.n_max

    def begin(self, trace: Trace) -> Player:
        """Return the policy at the first token of every output of a trace."""
        return ConfidenceStop(threshold=self.by.p_min, max_k=self.by.n_max).begin(trace)
