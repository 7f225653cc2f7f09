"""The backends made ready to be timed: what a launch calls, and what it decided, on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_probe.probe.probes import Unsupported
from cuda_probe.probe.timing import Launch
from cuda_probe.sampling import registry, speculative_sample
from simulator.ground.artefacts import UserError

from . import torch_peers
from .places import Place
from .rounds import Round
from .shapes import COMPILED, CUDA, NUMPY, OURS, TORCH, Shape

Integers = NDArray[np.int64]
OPERATION = "speculative_sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A backend with its arrays on the device.

    launch: decides the whole batch once; what it returns is on the device, and may not be done yet. decided: does so
    and returns accepted and tokens, [B] each, on the host. calls: of the backend's function that a launch takes.
    """

    launch: Launch
    decided: Callable[[], tuple[Integers, Integers]]
    calls: int = 1


class Arrays:
    """Logits and drafts of one round on the device, made when first asked for and shared by all who take them."""

    def __init__(self, place: Place, drafted: Round, shape: Shape) -> None:
        self.place, self.found, self.shape = place, drafted, shape
        self.made: dict[bool, tuple[Any, Any, Any]] = {}

    def take(self, as_tensors: bool) -> tuple[Any, Any, Any]:
        """Return target logits, draft logits and drafts."""
        if as_tensors not in self.made:
            put = self.place.tensor if as_tensors else self.place.array
            drafted, dtype = self.found, self.shape.dtype
            self.made[as_tensors] = put(drafted.target, dtype), put(drafted.draft, dtype), put(drafted.ids, "int64")
        return self.made[as_tensors]


def ready(name: str, arrays: Arrays, temperature: float, seed: int) -> Ready:
    """Make a backend ready; Unsupported says why it cannot run this point."""
    if name in OURS:
        return ready_sampling(name, arrays, temperature, seed)
    tensors = arrays.take(True)
    if name == COMPILED:
        run = torch_peers.compiled(*tensors, temperature)
        return Ready(launch=run, decided=lambda: on_host(run()))
    calls = torch_peers.transformers_calls(*tensors, temperature)

    def decided() -> tuple[Integers, Integers]:
        accepted, tokens = zip(*calls(), strict=True)
        return on_host(([int(n) for n in accepted], [int(n) for n in tokens]))

    return Ready(launch=calls, decided=decided, calls=arrays.shape.batch)


def ready_sampling(name: str, arrays: Arrays, temperature: float, seed: int) -> Ready:
    """Make one of the backends of `sampling` ready, called as its users call it."""
    place = arrays.place
    if name == NUMPY and place.device.name != "cpu":
        raise Unsupported("NumPy computes on the processor: --device cpu")
    target, draft, ids = arrays.take(name == TORCH or (name == CUDA and place.torch_refusal is None))
    try:
        registry.pick(OPERATION, dict(zip(registry.OF_A_ROUND, (target, draft, ids, None), strict=True)), name)
    except UserError as error:
        raise Unsupported(str(error).partition(f"{OPERATION}: ")[2] or str(error)) from None

    def run() -> Any:
        return speculative_sample(target, draft, ids, seed=seed, temperature=temperature, backend=name)

    def decided() -> tuple[Integers, Integers]:
        sampled = run()
        return on_host((sampled.accepted, sampled.token))

    return Ready(launch=run, decided=decided)


def on_host(arrays: tuple[Any, Any]) -> tuple[Integers, Integers]:
    """Return integers of any library as NumPy's."""
    if hasattr(arrays[0], "cpu"):
        arrays = arrays[0].cpu(), arrays[1].cpu()
    elif hasattr(arrays[0], "get"):
        arrays = arrays[0].get(), arrays[1].get()
    return np.asarray(arrays[0], np.int64), np.asarray(arrays[1], np.int64)


def wrong(decided: tuple[Integers, Integers], shape: Shape) -> str | None:
    """Say what no round can be, whatever numbers were drawn; None where it may be right."""
    accepted, tokens = decided
    if not ((accepted >= 0) & (accepted <= shape.draft_length)).all():
        return f"a sequence accepted {accepted.min()} to {accepted.max()} of {shape.draft_length} drafts"
    if not ((tokens >= 0) & (tokens < shape.vocabulary)).all():
        return "a token is not in the vocabulary"
    return None
