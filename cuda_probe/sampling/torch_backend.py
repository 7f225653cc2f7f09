"""The same law in plain torch operations, on the tensors' own device; the only module here that imports torch."""

import importlib.util
from typing import TYPE_CHECKING, Any

from .random import GROUP, KEY_STEPS, MULTIPLIERS, ROUNDS, WORD, Purpose
from .reference import LOG2_E
from .results import Sampled, Verified

if TYPE_CHECKING:
    import torch


def is_installed() -> bool:
    """Say whether torch can be imported, without importing it."""
    return importlib.util.find_spec("torch") is not None


def tensor(array: Any) -> "torch.Tensor":
    """View an array of another library as a tensor, without a copy; tensors lose their gradient."""
    import torch

    return array.detach() if isinstance(array, torch.Tensor) else torch.from_dlpack(array)


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


def race(log2_weights: "torch.Tensor", step: int, seed: int) -> "torch.Tensor":
    """Return the token drawn with the weights of each row [B, vocabulary]; -1 where none has weight."""
    import torch

    batch, vocabulary = log2_weights.shape
    padded = torch.nn.functional.pad(log2_weights, (0, -vocabulary % (4 * GROUP)), value=-torch.inf)
    groups = padded.reshape(batch, padded.shape[1] // GROUP, GROUP)
    most = groups.amax(-1)
    least = torch.finfo(most.dtype).min
    sums = most + torch.exp2(groups - most.clamp(min=least)[..., None]).sum(-1).log2()
    numbers = torch.arange(sums.shape[1], device=sums.device).expand(batch, -1)
    group = first_to_arrive(sums, race_uniforms(numbers, step, Purpose.GROUP, seed))
    begin = GROUP * group.clamp(min=0)[:, None]
    tokens = begin + torch.arange(GROUP, device=begin.device)
    within = first_to_arrive(padded.gather(1, tokens), race_uniforms(tokens, step, Purpose.TOKEN, seed))
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


def log_softmax(logits: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Return log2 of the law of each row; -inf throughout where no logit is above -inf."""
    import torch

    wide = logits.float()
    most = wide.amax(-1, keepdim=True)
    scaled = (wide - most.clamp(min=torch.finfo(torch.float32).min)) / temperature
    return scaled.log_softmax(-1).nan_to_num(nan=-torch.inf, neginf=-torch.inf) * LOG2_E


def log_sigmoid_weights(logits: "torch.Tensor", temperature: float, scale: float) -> "torch.Tensor":
    """Return log2 of `reference.sigmoid_weights`, in float64 where the device has it."""
    import torch

    at = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64) / (2 * scale * temperature) + 0.5
    weights = torch.where(at < 0, 0.0, torch.where(at > 1, 1.0, at.clamp(0, 1).sigmoid()))
    return weights.log2()


def sample(
    target: "torch.Tensor",
    draft: "torch.Tensor",
    ids: "torch.Tensor",
    lengths: "torch.Tensor | None",
    log2_law: Any,
    seed: int,
    step: int,
) -> Sampled:
    """Sample one round; arguments as in `reference.sample`, but `log2_law` gives logarithms."""
    import torch

    ids, (batch, drafts), vocabulary = integers(ids), ids.shape, target.shape[-1]
    lengths = lengths_or_all(lengths, ids)
    p, q = log2_law(target), log2_law(draft)
    known = (ids >= 0) & (ids < vocabulary)
    at = torch.where(known, ids, 0)[..., None]
    above, below = p[:, :drafts].gather(-1, at)[..., 0], q.gather(-1, at)[..., 0]
    ratio = torch.where(known & (above > -torch.inf), torch.exp2(above - below), 0.0)
    accepted = leading(accept_uniforms(ids, step, seed) < ratio, lengths)
    rows = torch.arange(batch, device=ids.device)
    last = p[rows, accepted]
    if drafts:
        left = torch.exp2(last) - torch.exp2(q[rows, accepted.clamp(max=drafts - 1)])
        is_residual = ((accepted < lengths) & (left > 0).any(-1))[:, None]
        last = torch.where(is_residual, left.clamp(min=0).log2(), last)
    token = race(last, step, seed)
    out_ids = torch.cat([ids, token[:, None]], 1)
    place = torch.arange(drafts + 1, device=ids.device)
    out_ids = torch.where(
        place < accepted[:, None], out_ids, torch.where(place == accepted[:, None], token[:, None], -1)
    )
    return Sampled(accepted, token, out_ids)


def speculative_sample(
    target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, seed: int, step: int
) -> Sampled:
    """Sample one round exactly; arguments as in `reference.sample`."""
    return sample(target, draft, ids, lengths, lambda x: log_softmax(x, temperature), seed, step)


def sigmoid_sample(
    target: Any, draft: Any, ids: Any, lengths: Any, temperature: float, scale: float, seed: int, step: int
) -> Sampled:
    """Sample one round by the sigmoid approximation; arguments as in `reference.sample`."""
    return sample(target, draft, ids, lengths, lambda x: log_sigmoid_weights(x, temperature, scale), seed, step)


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
