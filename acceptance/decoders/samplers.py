"""Samplers of real runs: who accepts what was drafted and draws the token behind it, in place of the loop itself.

They are found by name among the entry points `specsim.samplers` of whatever is installed: the kernels of `cuda_probe`,
which this package never imports, what transformers does, and any of a user's own.
"""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.models import compat, laws
from simulator.ground.artefacts import UserError
from simulator.ground.names import one_of

if TYPE_CHECKING:
    from .chain import Seen

GROUP = "specsim.samplers"
# Of a uniform number's bits, all that float64 has.
SEEDS = 2**53


class Drawn(Protocol):
    """accepted: drafted tokens kept, [rows]. token: the one behind them, [rows]."""

    accepted: torch.Tensor
    token: torch.Tensor


class Sampler(Protocol):
    """Decides on a round from logits.

    is_exact: whether what is written has the target's law. batched: whether it takes several rows.
    """

    is_exact: bool
    batched: bool

    def __call__(
        self,
        target_logits: torch.Tensor,
        draft_logits: torch.Tensor,
        draft_ids: torch.Tensor,
        *,
        seed: int,
        temperature: float,
        lengths: torch.Tensor,
    ) -> Any:
        """Return a `Drawn`.

        Args:
            target_logits: [rows, K + 1, vocabulary], in the target's number format; -inf beyond top-k and top-p.
            draft_logits: [rows, K, vocabulary]: what was drafted from, of the same format. K may be 0.
            draft_ids: [rows, K].
            seed: Of this round, 53 bits.
            temperature: Of both.
            lengths: How many drafts of each row count, [rows].
        """


def load_sampler(name: str) -> Sampler:
    """Return an installed sampler.

    Raises:
        UserError: There is none of this name, or it cannot be loaded.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(f"--sampler: {name!r} is not allowed, expected {one_of(('loop', *sorted(found)), name)}")
    try:
        sampler: Sampler = found[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"--sampler: {name!r} cannot be loaded from {found[name].value}: {error}") from None
    if missing := [part for part in ("__call__", "is_exact", "batched") if not hasattr(sampler, part)]:
        raise UserError(f"--sampler: {name!r} has no {missing[0]}, expected what acceptance.decoders.samplers asks")
    return sampler


def decide(seen: "Seen", sampler: Sampler) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many drafts of each row are kept, and the token behind them.

    The number that would draw this token seeds the round: that of the first row, so that in a batch what the others
    draw hangs on it, too.
    """
    logits, proposal = seen.logits, seen.proposal
    drafted = proposal.tokens.to(logits.device)
    target, draft = laws.cut(logits, seen.rule), draft_logits(seen, drafted)
    if draft.dtype != target.dtype:
        target, draft = target.float(), draft.float()
    drawn = sampler(
        target,
        draft,
        drafted,
        seed=int(seen.numbers[0, -1] * SEEDS),
        temperature=seen.rule.temperature,
        lengths=torch.from_numpy(proposal.lengths).to(logits.device),
    )
    return drawn.accepted.cpu().numpy(), drawn.token.cpu().numpy()


def draft_logits(seen: "Seen", drafted: torch.Tensor) -> torch.Tensor:
    """Return logits of the law that was drafted from, at the target's temperature, [rows, longest, vocabulary]."""
    proposal, like = seen.proposal, seen.logits
    if proposal.logits is None or proposal.rule is None:
        # A point mass.
        certain = torch.full((*drafted.shape, like.shape[-1]), -torch.inf, dtype=like.dtype, device=like.device)
        return certain.scatter_(-1, drafted[..., None], 0.0)
    draft = laws.cut(proposal.logits.to(like.device), proposal.rule)
    apart = seen.rule.temperature / proposal.rule.temperature
    return draft if apart == 1 else draft.float() * apart


class Transformers:
    """What transformers' own generation decides by (`_speculative_sampling`): a sequence at a time, in float32."""

    is_exact, batched = True, False

    def __call__(
        self,
        target_logits: torch.Tensor,
        draft_logits: torch.Tensor,
        draft_ids: torch.Tensor,
        *,
        seed: int,
        temperature: float,
        lengths: torch.Tensor,
    ) -> compat.OneRound:
        """Return a `Drawn`."""
        target, draft = (logits.float() / temperature for logits in (target_logits, draft_logits))
        return compat.speculative_sampling(target, draft, draft_ids, seed)


TRANSFORMERS = Transformers()
