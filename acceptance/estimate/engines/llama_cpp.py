"""llama.cpp's stop (`--spec-draft-p-min`): a draft goes on as long as its first choice is likely enough.

`common/speculative.cpp` (common_speculative_impl_draft_simple): the pass that found an unlikely token is paid, its
token is not sent. The probability is of the ten likeliest tokens, a trace's of all, a little less. `n_min` is not
played: a trace does not know how long a draft went on behind its first rejected token.
"""

from dataclasses import dataclass

from acceptance.estimate.play import Player
from acceptance.estimate.policies import ConfidenceStop
from acceptance.trace.trace import Trace
from simulator.ground.fields import Field
from simulator.ground.limits import MAX_DRAFT_LENGTH


@dataclass(frozen=True, slots=True)
class PMin:
    """The stop, as engines' policies are played."""

    stop: ConfidenceStop
    keeps_up: bool = False
    asks_costs: bool = False
    warm_up: int = 0
    needs: tuple[str, ...] = ("max_q",)

    @property
    def longest(self) -> int:
        """The longest draft."""
        return self.stop.max_k

    def begin(self, trace: Trace) -> Player:
        """Return the policy at the first token of every output of a trace."""
        return self.stop.begin(trace)


def llama_cpp(settings: Field) -> PMin:
    """llama.cpp's confidence stop: p_min, and n_max, the longest draft."""
    settings.only(("p_min", "n_max"))
    n_max = settings["n_max"].whole(1, MAX_DRAFT_LENGTH, default=16)
    return PMin(ConfidenceStop(threshold=settings["p_min"].number(0, 1, default=0.75), max_k=n_max))
