"""From logits to laws and from laws to tokens, in torch: processors, sampling, the rule of acceptance (model §1)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .rule import SamplingRule


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Return the token of the largest logit, the first of several; numpy finds it 12 times as fast as torch."""
    if logits.is_cpu:
        logits = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
        return torch.as_tensor(logits.numpy().argmax(-1))
    return logits.max(-1).indices


def probabilities(logits: torch.Tensor, rule: SamplingRule) -> torch.Tensor:
    """Return the law of the next token in fp32, whatever the logits, [..., vocabulary], are; greedy: a point mass."""
    if rule.is_greedy:
        return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, likeliest(logits)[..., None], 1.0)
    scaled = logits.float() / rule.temperature
    if 0 < rule.top_k < scaled.shape[-1]:
        least = scaled.topk(rule.top_k).values[..., -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    law = scaled.softmax(-1)
    if rule.top_p < 1:
        ordered, order = law.sort(dim=-1, descending=True, stable=True)
        left_out = cumulative(ordered) - ordered >= rule.top_p
        law = law.masked_fill(left_out.scatter(-1, order, left_out), 0)
        law = law / law.sum(-1, keepdim=True)
    return law


def cut(logits: torch.Tensor, rule: SamplingRule) -> torch.Tensor:
    """Return logits, in their own type, of which those that top-k and top-p leave out are -inf."""
    if rule.top_k == 0 and rule.top_p == 1:
        return logits
    return logits.masked_fill(probabilities(logits, rule) == 0, -torch.inf)


def widened(logits: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return logits, [..., own vocabulary], of a wider one, [..., vocabulary]: what has no row is never said."""
    missing = vocabulary - logits.shape[-1]
    return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing > 0 else logits


def draw(law: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw one token from each law by inverting its distribution function.

    law: weights, which need not sum to 1, [..., vocabulary]. uniforms: in [0, 1), float64 where there is one, [...].
    """
    below = cumulative(law.to(uniforms.dtype))
    at = uniforms[..., None] * below[..., -1:]
    # The first token whose cumulative weight lies above: never one of weight 0.
    return torch.searchsorted(below, at, right=True)[..., 0].clamp(max=law.shape[-1] - 1)


def cumulative(weights: torch.Tensor) -> torch.Tensor:
    """Return sums up to each of the last axis, on the same device.

    CUDA adds in an order that need not repeat, and torch's deterministic mode refuses it: there the processor adds.
    """
    if weights.is_cuda and torch.are_deterministic_algorithms_enabled():
        return weights.cpu().cumsum(-1).to(weights.device)
    return weights.cumsum(-1)


def uniforms_like(logits: torch.Tensor, numbers: NDArray[np.float64]) -> torch.Tensor:
    """Put uniform numbers on the device of the logits, in the widest float it has."""
    widest = torch.float32 if logits.device.type == "mps" else torch.float64
    # Rounded to fp32 the largest would become 1, and draw a token of weight 0.
    return torch.from_numpy(numbers).to(logits.device, widest).clamp(max=1 - torch.finfo(widest).eps)


def streams(seed: int, indices: Sequence[int]) -> list[np.random.Generator]:
    """Return a random stream for each prompt, by its index: what it draws depends on no other prompt."""
    return [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,))) for i in indices]


def acceptance(target: torch.Tensor, draft: torch.Tensor, drafted: torch.Tensor) -> torch.Tensor:
    """Return min(1, p(x) / q(x)) for drafted tokens x ~ q (Leviathan et al. 2023, algorithm 1); shape [...].

    target, draft: p and q, [..., vocabulary]. drafted: x, [...].
    """
    p, q = (law.gather(-1, drafted[..., None])[..., 0] for law in (target, draft))
    return (p / q).clamp(max=1)


def residual(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """Return max(0, p - q), what a rejection is replaced from (same algorithm); not normalised.

    Where rounding leaves nothing of it, p and q are equal and p is returned.
    """
    left = (target - draft).clamp_(min=0)
    return torch.where(left.sum(-1, keepdim=True) > 0, left, target)


def entropy(law: torch.Tensor) -> torch.Tensor:
    """Return -sum p ln p in nats over the last axis; torch's own takes six times as long."""
    return -law.clamp(min=torch.finfo(law.dtype).tiny).log_().mul_(law).sum(-1)


def rank(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Return how many tokens are preferred to this one, ties to the lower index; 0 is what argmax takes."""
    logits = logits.float()
    logit = logits.gather(-1, token[:, None])
    # Counted in floats, which takes a quarter of the time of flags; ties, which are few, one by one.
    above, as_high = (
        compared(logits, logit, out=torch.empty_like(logits)).sum(-1).long() for compared in (torch.gt, torch.ge)
    )
    tied = torch.nonzero(as_high > above + 1)[:, 0]
    before = torch.arange(logits.shape[-1], device=logits.device) < token[tied, None]
    return above.index_add(0, tied, ((logits[tied] == logit[tied]) & before).sum(-1))
