"""The kernels as samplers of real runs: what the entry points `specsim.samplers` name, for a loop that decodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import sigmoid_sample, speculative_sample
from .results import Sampled


@dataclass(frozen=True)
class KernelSampler:
    """One of the functions that sample, on whichever backend suits where the logits lie.

    is_exact: whether what is written has the target's law; how far the sigmoid's is from it: `sigmoid_distance`.
    batched: whether it takes several sequences.
    """

    function: Callable[..., Sampled]
    is_exact: bool
    batched: bool = True

    def __call__(self, target_logits: Any, draft_logits: Any, draft_ids: Any, **numbers: Any) -> Sampled:
        """Sample one round; arguments as of `speculative_sample`."""
        return self.function(target_logits, draft_logits, draft_ids, **numbers)


EXACT = KernelSampler(speculative_sample, is_exact=True)
SIGMOID = KernelSampler(sigmoid_sample, is_exact=False)
