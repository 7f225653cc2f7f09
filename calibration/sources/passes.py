"""Reads the passes.json of `bench-decode time-passes`: forward passes with their models and times."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.bench.passes import DRAFT, KIND, SCHEMA_VERSION, TARGET, Point
from simulator.costs.shapes import shape_of
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError, check_kind
from simulator.ground.fields import Field, read_json


class Timed(NamedTuple):
    """Median seconds of a pass, with the standard error."""

    seconds: float
    error_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTimes:
    """What was timed, by pass. memory_bytes: of the device, where it is known."""

    path: Path
    device: str
    memory_bytes: int | None
    dtype: str
    shapes: Mapping[str, ModelShape]
    times: Mapping[Point, Timed]

    @property
    def settings(self) -> tuple[tuple[int, int], ...]:
        """The batches and contexts at which passes were timed, by the tokens that their caches hold."""
        found = {(p.batch, p.context) for p in self.times}
        return tuple(sorted(found, key=lambda s: (s[0] * s[1], s)))

    @property
    def draft_lengths(self) -> tuple[int, ...]:
        """The K whose verification was timed anywhere."""
        return tuple(sorted({p.new_tokens - 1 for p in self.times if p.role == TARGET and p.new_tokens > 1}))


def load_passes(path: Path) -> PassTimes:
    """Read times of passes.

    Raises:
        UserError: The file is of another kind, or a value is missing or odd; names the field.
    """
    found = read_json(path)
    if not found["kind"].is_stated:
        found["kind"].refuse(repr(KIND))
    check_kind(path, found.object(), KIND, (SCHEMA_VERSION,))
    shapes = {role: shape(found["models"][role]) for role in (TARGET, DRAFT)}
    times = dict(timed(own) for own in found["points"].elements())
    if not times:
        raise UserError(f"{path}: points is empty, expected passes")
    name, memory = processor(found["device"].text(), found["system"])
    return PassTimes(
        path=path, device=name, memory_bytes=memory, dtype=found["dtype"].text(), shapes=shapes, times=times
    )


def shape(found: Field) -> ModelShape:
    """Return the sizes of a model."""
    return shape_of(found["config"], found["name"].text())


def timed(found: Field) -> tuple[Point, Timed]:
    """Return a pass and its time."""
    role = found["role"].choice((TARGET, DRAFT))
    sizes = (found[name].whole(1) for name in ("batch", "context", "new_tokens"))
    time = Timed(found["median_s"].number(above=True), found["error_s"].number())
    return Point(role, *sizes), time


def processor(device: str, system: Field) -> tuple[str, int | None]:
    """Return what a device is called, and its memory."""
    gpus: dict[str, Any] = {own["device"].text(): own for own in system["gpus"].elements()}
    if not device.startswith("cuda"):
        return system["cpu"].text(), None
    own = gpus.get(device if ":" in device else "cuda:0")
    return (device, None) if own is None else (own["name"].text(), own["memory_bytes"].whole(1))
