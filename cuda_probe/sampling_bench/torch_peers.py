"""The peers that are not ours: the law in plain torch, to be compiled, and transformers' own function."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cuda_probe.probe.probes import Unsupported
from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require
from simulator.ground.limits import lacks_memory
from simulator.ground.tested import changed_interface

if TYPE_CHECKING:
    import torch

Decided = tuple[Any, Any]  # accepted [B], token [B]
TRANSFORMERS = Dependency(import_name="transformers", purpose="its own sampling function", extra="measure")


def sample(target: "torch.Tensor", draft: "torch.Tensor", ids: "torch.Tensor", temperature: float) -> Decided:
    """Sample one round exactly, as one would write it in torch for a compiler to fuse; torch's own random numbers.

    target, draft: logits [B, K + 1, vocabulary] and [B, K, vocabulary]. ids: drafts [B, K].
    """
    import torch

    drafts, rows = ids.shape[1], torch.arange(len(ids), device=ids.device)

    def log_total(logits: "torch.Tensor") -> "torch.Tensor":
        return (logits.float() / temperature).logsumexp(-1, keepdim=True)

    target_total, draft_total = log_total(target), log_total(draft)
    above = target[:, :drafts].gather(-1, ids[..., None]).float() / temperature - target_total[:, :drafts]
    below = draft.gather(-1, ids[..., None]).float() / temperature - draft_total
    ratio = (above - below).exp()[..., 0]
    accepted = (torch.rand_like(ratio) < ratio).long().cumprod(1).sum(1)
    last = accepted.clamp(max=drafts - 1)
    p = (target[rows, accepted].float() / temperature - target_total[rows, accepted]).exp()
    q = (draft[rows, last].float() / temperature - draft_total[rows, last]).exp()
    left = torch.where((accepted < drafts)[:, None], (p - q).clamp(min=0), p)
    left = torch.where((left > 0).any(-1, keepdim=True), left, p)
    return accepted, (left / torch.empty_like(left).exponential_()).argmax(-1)


def compiled(target: Any, draft: Any, ids: Any, temperature: float) -> Callable[[], Decided]:
    """Return `sample` compiled for exactly these shapes, and run once; Unsupported where torch has no compiler."""
    import torch

    try:
        torch.compiler.reset()  # else a limit on recompilations leaves later shapes uncompiled
        function = torch.compile(sample, dynamic=False, fullgraph=True)
        function(target, draft, ids, temperature)
    except Exception as error:  # whatever the compiler raises, the other backends are still measured
        if lacks_memory(error):
            raise
        text = " ".join(str(error).split())[:160]
        raise Unsupported(f"torch.compile does not work here ({type(error).__name__}: {text})") from None
    return lambda: function(target, draft, ids, temperature)


def transformers_calls(target: Any, draft: Any, ids: Any, temperature: float) -> Callable[[], Sequence[Decided]]:
    """Return one call of transformers' `_speculative_sampling` for each sequence, as `generate` makes it.

    The function knows a batch of one and no temperature, and `generate` hands it float32: logits are converted and
    scaled before anything is timed. Unsupported: it is missing, or takes these arguments no more.
    """
    try:
        require(TRANSFORMERS)
        from transformers.generation.utils import _speculative_sampling as decide
    except UserError as error:
        raise Unsupported(str(error)) from None
    except ImportError as error:
        raise Unsupported(changed_interface("transformers", str(error))) from None
    p, q = (logits.float() if temperature == 1 else logits.float() / temperature for logits in (target, draft))
    sequences = [(ids[b : b + 1], q[b : b + 1], ids.shape[1], p[b : b + 1]) for b in range(len(ids))]
    more = further_arguments(decide, sequences[0])

    def launch() -> Sequence[Decided]:
        decided = (decide(*arguments, **more) for arguments in sequences)
        return [(matches, tokens[0, -1]) for tokens, matches in decided]

    return launch


def further_arguments(decide: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return what `_speculative_sampling` takes besides these arguments, found by calling it.

    Raises:
        Unsupported: However it is called, it does not decide.
    """
    reasons = []
    # Before transformers 5.18 it asks whether the drafts end the output.
    for more in ({}, {"is_done_candidate": False}):
        try:
            tokens, matches = decide(*arguments, **more)
            if 0 <= int(matches) <= arguments[2] and tokens.shape == (1, int(matches) + 1):
                return more
            reasons.append(f"{int(matches)} matches and tokens of shape {tuple(tokens.shape)}")
        except (TypeError, ValueError, AttributeError) as error:
            reasons.append(str(error))
    raise Unsupported(changed_interface("transformers", f"_speculative_sampling: {reasons[0]}"))
