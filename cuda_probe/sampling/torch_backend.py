"""The same law in plain torch operations, on the tensors' own device; the only module here that imports torch."""

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from simulator.ground.artefacts import UserError

from .random import GROUP, KEY_STEPS, MULTIPLIERS, ROUNDS, WORD, Purpose
from .results import Sampled, Verified

if TYPE_CHECKING:
    import torch


def is_installed() -> bool:
    """Say whether torch can be imported, without importing it."""
    return importlib.util.find_spec("torch") is not None


def tensor(array: Any, name: str = "array") -> "torch.Tensor":
    """View an array of a library with DLPack as a tensor, without its gradient; a UserError says that torch cannot.

    Nothing is copied but NumPy arrays of a layout that torch lacks (steps backwards, bytes the other way round), and
    never what is named `cache`, as it is written.
    """
    import torch

    if isinstance(array, torch.Tensor):
        return array.detach()
    try:
        if min(getattr(array, "strides", None) or (0,)) < 0:  # torch does not raise, it aborts
            raise BufferError("torch has no strides below 0")
        return torch.from_dlpack(array)
    except BufferError as error:
        if name == "cache" or not isinstance(array, np.ndarray) or array.dtype.itemsize > 8:
            raise UserError(f"{name}: {error}, expected what torch can view") from None
        return torch.from_dlpack(array.astype(array.dtype.newbyteorder("="), order="C"))


def integers(array: "torch.Tensor") -> "torch.Tensor":
    """Return a contiguous tensor of 64-bit integers; the same one where it is that already."""
    import torch

    return array if array.dtype == torch.int64 and array.is_contiguous() else array.to(torch.int64).contiguous()


def typed(array: "torch.Tensor", dtype: str) -> "torch.Tensor":
    """View the bytes of a tensor as a type given by name."""
    import torch

    return array.view(getattr(torch, dtype))


def empty(shape: tuple[int, ...], dtype: str, device_id: int) -> "torch.Tensor":
    """Return a tensor of a type given by name, whatever it holds; on the CPU below device 0."""
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype), device=_device(device_id))


def zeros(shape: tuple[int, ...], dtype: str, device_id: int) -> "torch.Tensor":
    """Return a tensor of zeros of a type given by name; on the CPU below device 0."""
    import torch

    return torch.zeros(shape, dtype=getattr(torch, dtype), device=_device(device_id))


def _device(device_id: int) -> str | int:
    return "cpu" if device_id < 0 else device_id


def stream_of(like: "torch.Tensor") -> int:
    """Return the CUDA stream torch works on at present, 0 for tensors that are not on such a device."""
    import torch

    return int(torch.cuda.current_stream(like.device).cuda_stream) if like.is_cuda else 0


def philox(index: "torch.Tensor", sequence: "torch.Tensor", step: int, purpose: Purpose, seed: int) -> Any:
    """Return the four words of each counter, as 64-bit integers; `random.words` in torch."""
    import torch

    x, y = (part.clone() for part in torch.broadcast_tensors(index, sequence))
    z, w = torch.full_like(x, step), torch.full_like(x, int(purpose))
    keys = [seed & WORD, seed >> 32 & WORD]
    for _ in range(ROUNDS):
        # 64-bit products wrap to negative numbers: shifts keep the sign, masks take it off.
        a, b = MULTIPLIERS[0] * x, MULTIPLIERS[1] * z
        x, y, z, w = (b >> 32 & WORD) ^ y ^ keys[0], b & WORD, (a >> 32 & WORD) ^ w ^ keys[1], a & WORD
        keys = [(k + s) & WORD for k, s in zip(keys, KEY_STEPS, strict=True)]
    return x, y, z, w


def accept_uniforms(ids: "torch.Tensor", step: int, seed: int) -> "torch.Tensor":
    """Return `random.accept_uniforms` for drafts [B, K]."""
    import torch

    batch, drafts = ids.shape
    position, sequence = (torch.arange(n, device=ids.device) for n in (drafts, batch))
    word = philox(position, sequence[:, None], step, Purpose.ACCEPT, seed)[0]
    return (word >> 8).float() * 2.0**-24


def race_uniforms(index: "torch.Tensor", step: int, purpose: Purpose, seed: int) -> "torch.Tensor":
    """Return `random.race_uniforms` of racers `index` [B, 4 n], four from a multiple of 4 on in turn."""
    import torch

    sequence = torch.arange(len(index), device=index.device)[:, None]
    word = torch.stack(philox(index[:, ::4] // 4, sequence, step, purpose, seed), -1).reshape(index.shape)
    return (word.float() * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24)


def first_to_arrive(log2_weights: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """Return which racer of each row [B, n] arrives first; -1 where none has weight."""
    import torch

    best, racer = (log2_weights - torch.log2(-torch.log1p(-uniforms))).max(-1)
    return torch.where(best > -torch.inf, racer, -1)


def race(weights: "torch.Tensor", step: int, seed: int) -> "torch.Tensor":
    """Return the token drawn with the weights of each row [B, vocabulary]; -1 where none has weight."""
    import torch

    batch, vocabulary = weights.shape
    short = -vocabulary % (4 * GROUP)
    padded = torch.nn.functional.pad(weights, (0, short)) if short else weights
    sums = padded.reshape(batch, padded.shape[1] // GROUP, GROUP).sum(-1)
    numbers = torch.arange(sums.shape[1], device=sums.device).expand(batch, -1)
    group = first_to_arrive(sums.log2(), race_uniforms(numbers, step, Purpose.GROUP, seed))
    begin = GROUP * group.clamp(min=0)[:, None]
    tokens = begin + torch.arange(GROUP, device=begin.device)
    within = first_to_arrive(padded.gather(1, tokens).log2(), race_uniforms(tokens, step, Purpose.TOKEN, seed))
    return torch.where(group < 0, -1, begin[:, 0] + within)


def leading(kept: "torch.Tensor", lengths: "torch.Tensor") -> "torch.Tensor":
    """Return how many of the first `lengths` entries of each row are true before the first that is not."""
    import torch

    inside = torch.arange(kept.shape[1], device=kept.device) < lengths[:, None]
    return (kept & inside).long().cumprod(1).sum(1)


def lengths_or_all(lengths: "torch.Tensor | None", ids: "torch.Tensor") -> "torch.Tensor":
    """Clip the draft lengths to 0..K; K for every sequence where none are given."""
    import torch

    batch, drafts = ids.shape
    if lengths is None:
        return torch.full((batch,), drafts, device=ids.device)
    return integers(lengths).clamp(0, drafts)


class Law(Protocol):
    """What turns one model's logits [B, rows, vocabulary] into weights."""

    def log_at(self, at: "torch.Tensor") -> "torch.Tensor":
        """Return the logarithms of the weights of tokens [B, K] in the first K rows; -inf where there is none."""

    def weights(self, sequences: "torch.Tensor", rows: "torch.Tensor") -> "torch.Tensor":
        """Return the weights of one row of each sequence, [B, vocabulary]."""


class Softmax:
    """The exact law: one pass over all logits, and powers of the rows alone that tokens are drawn from."""

    def __init__(self, logits: "torch.Tensor", temperature: float) -> None:
        import torch

        if temperature == 1:
            self.logs = logits.log_softmax(-1, dtype=torch.float32)
            return
        wide = logits.float()
        # Distances from the largest logit first: they are exact, however low the temperature.
        most = wide.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        self.logs = (wide - most).div_(temperature).log_softmax(-1)

    def log_at(self, at: "torch.Tensor") -> "torch.Tensor":
        logs = self.logs[:, : at.shape[1]].gather(-1, at[..., None])[..., 0]
        return logs.nan_to_num(nan=-float("inf"), neginf=-float("inf"))  # a row without any weight is no number

    def weights(self, sequences: "torch.Tensor", rows: "torch.Tensor") -> "torch.Tensor":
        return self.logs[sequences, rows].exp_().nan_to_num_(0.0)


class Sigmoid:
    """`reference.sigmoid_weights`, in float64 where the device has it, of those logits alone that are asked for."""

    def __init__(self, logits: "torch.Tensor", temperature: float, scale: float) -> None:
        self.logits, self.width = logits, 2 * scale * temperature

    def log_at(self, at: "torch.Tensor") -> "torch.Tensor":
        return self.of(self.logits[:, : at.shape[1]].gather(-1, at[..., None])[..., 0]).log()

    def weights(self, sequences: "torch.Tensor", rows: "torch.Tensor") -> "torch.Tensor":
        return self.of(self.logits[sequences, rows])

    def of(self, logits: "torch.Tensor") -> "torch.Tensor":
        """Return the sigmoid of each logit, 0 and 1 outside the scale."""
        import torch

        at = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64) / self.width + 0.5
        return torch.where(at < 0, 0.0, torch.where(at > 1, 1.0, at.clamp(0, 1).sigmoid()))


def sample(
    target: "torch.Tensor",
    draft: "torch.Tensor",
    ids: "torch.Tensor",
    lengths: "torch.Tensor | None",
    law: Callable[["torch.Tensor"], Law],
    seed: int,
    step: int,
) -> Sampled:
    """Sample one round; arguments as in `reference.sample`, but `law` makes a `Law` of logits."""
    import torch

    ids, (batch, drafts), vocabulary = integers(ids), ids.shape, target.shape[-1]
    lengths = lengths_or_all(lengths, ids)
    p, q = law(target), law(draft)
    known = (ids >= 0) & (ids < vocabulary)
    at = torch.where(known, ids, 0)
    above, below = p.log_at(at), q.log_at(at)
    ratio = torch.where(known & (above > -torch.inf), torch.exp(above - below), 0.0)
    accepted = leading(accept_uniforms(ids, step, seed) < ratio, lengths)
    sequences = torch.arange(batch, device=ids.device)
    last = p.weights(sequences, accepted)
    if drafts:
        left = (last - q.weights(sequences, accepted.clamp(max=drafts - 1))).clamp_(min=0)
        is_residual = (accepted < lengths) & (left.amax(-1) > 0)
        last = torch.where(is_residual[:, None], left, last)
    token = race(last, step, seed)
    place = torch.arange(drafts + 1, device=ids.device)
    out_ids = torch.cat([ids, token[:, None]], 1).masked_fill(place > accepted[:, None], -1)
    out_ids = torch.where(place == accepted[:, None], token[:, None], out_ids)
    return Sampled(accepted, token, out_ids)


def speculative_sample(
    target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, seed: int, step: int
) -> Sampled:
    """Sample one round exactly; arguments as in `reference.sample`."""
    return sample(target, draft, ids, lengths, lambda x: Softmax(x, temperature), seed, step)


def sigmoid_sample(
    target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, scale: float, seed: int, step: int
) -> Sampled:
    """Sample one round by the sigmoid approximation; arguments as in `reference.sample`."""
    return sample(target, draft, ids, lengths, lambda x: Sigmoid(x, temperature, scale), seed, step)


def verify_prefix(logits: "torch.Tensor", ids: "torch.Tensor", lengths: "torch.Tensor | None") -> Verified:
    """Count the leading drafts that equal the argmax of their row; as `reference.verify_prefix`."""
    import torch

    ids, drafts = integers(ids), ids.shape[1]
    lengths = lengths_or_all(lengths, ids)
    # argmax promises no order among equals; the first position of the maximum does.
    best = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1)
    best = torch.where(torch.arange(best.shape[1], device=best.device) > lengths[:, None], -1, best)
    return Verified(leading(best[:, :drafts] == ids, lengths), best)


def kv_append(
    cache: "torch.Tensor", fresh: "torch.Tensor", lengths: "torch.Tensor", accepted: "torch.Tensor"
) -> "torch.Tensor":
    """Write the accepted positions of each sequence behind its own length, in place; as `reference.kv_append`."""
    import torch

    capacity, positions = cache.shape[2], fresh.shape[2]
    start = integers(lengths).clamp(0, capacity)
    count = torch.minimum(integers(accepted).clamp(0, positions), capacity - start)
    sequence, position = torch.nonzero(torch.arange(positions, device=cache.device) < count[:, None], as_tuple=True)
    cache[sequence, :, start[sequence] + position] = fresh[sequence, :, position]
    return start + count
