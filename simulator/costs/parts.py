"""What passes do, and what their seconds are spent on."""

from dataclasses import dataclass
from typing import NamedTuple

from .step import Floats, Real

PARTS = ("compute", "memory", "launch", "fixed", "link")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassParts:
    """Seconds of a pass by what they are spent on, and all of them together; compute and memory may overlap.

    launch_s: of all its kernels, or of the host where that takes longer and no graph replays them. fixed_s: what a pass
    costs besides, whatever it does.
    """

    compute_s: Floats
    memory_s: Floats
    launch_s: Floats
    fixed_s: Floats
    link_s: Floats
    total_s: Floats

    @property
    def binds(self) -> str:
        """The longest of `PARTS`; scalars only."""
        return max(PARTS, key=lambda name: float(getattr(self, f"{name}_s")))


class Done(NamedTuple):
    """What passes do on each device: FLOPs, bytes, tokens with those that fill a graph, kernels; and seconds beside."""

    flops: Floats
    moved: Floats
    computed: Floats
    launches: Real
    link_s: Floats
    host_s: Floats | float
