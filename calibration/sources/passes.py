"""Reads the passes.json of `bench-decode time-passes`: forward passes with their models and times."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from acceptance.bench.passes import DRAFT, KIND, SCHEMA_VERSION, TARGET, Point
from simulator.costs.shapes import shape_of
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import UserError, check_kind
from simulator.ground.fields import Field, read_json

from .timed import Timed


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
        pairs = {(p.batch, p.context) for p in self.times}
        return tuple(sorted(pairs, key=lambda s: (s[0] * s[1], s)))

    @property
    def draft_lengths(self) -> tuple[int, ...]:
        """The K whose verification was timed anywhere."""
        return tuple(sorted({p.new_tokens - 1 for p in self.times if p.role == TARGET and p.new_tokens > 1}))


def load_passes(path: Path) -> PassTimes:
    """Read times of passes; a UserError names the field that is missing or odd."""
    content = read_json(path)
    if not content["kind"].is_stated:
        content["kind"].refuse(repr(KIND))
    check_kind(path, content.object(), KIND, (SCHEMA_VERSION,))
    times = dict(pass_time(point) for point in content["points"].elements())
    if not times:
        raise UserError(f"{path}: points is empty, expected passes")
    device, memory_bytes = processor(content["device"].text(), content["system"])
    return PassTimes(
        path=path,
        device=device,
        memory_bytes=memory_bytes,
        dtype=content["dtype"].text(),
        shapes={role: shape(content["models"][role]) for role in (TARGET, DRAFT)},
        times=times,
    )


def shape(model: Field) -> ModelShape:
    """Return the sizes of a model."""
    return shape_of(model["config"], model["name"].text())


def pass_time(point: Field) -> tuple[Point, Timed]:
    """Return a pass and its time."""
    sizes = (point[name].whole(1) for name in ("batch", "context", "new_tokens"))
    seconds = Timed(point["median_s"].number(above=True), point["error_s"].number())
    if point["samples_s"].is_given:
        middle = statistics.median(sample.number(above=True) for sample in point["samples_s"].elements() or [point])
        if not math.isclose(middle, seconds.seconds, rel_tol=1e-6):
            point["median_s"].refuse(f"{middle:g}, the median of its samples_s")
    return Point(point["role"].choice((TARGET, DRAFT)), *sizes), seconds


def processor(device: str, system: Field) -> tuple[str, int | None]:
    """Return what a device is called, and its memory."""
    if not device.startswith("cuda"):
        return system["cpu"].text(), None
    gpus = {gpu["device"].text(): gpu for gpu in system["gpus"].elements()}
    gpu = gpus.get(device if ":" in device else "cuda:0")
    return (device, None) if gpu is None else (gpu["name"].text(), gpu["memory_bytes"].whole(1))
