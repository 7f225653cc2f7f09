"""From the options of `bench-decode time-passes` to the times of every pass, as its file holds them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acceptance.models.bundled import load_libraries
from simulator.costs.shapes import config_file, shape_of
from simulator.ground.artefacts import UserError, envelope, write_json
from simulator.ground.fields import read_json
from simulator.ground.ranges import parse_whole

from .clock import clock_for
from .machine import surroundings, system_metadata
from .passes import DRAFT, KIND, SCHEMA_VERSION, TARGET, Grid, Subject, Timed, build, check_shape, payload, time_all

MOST_BATCH, MOST_CONTEXT, MOST_DRAFTED = 1_000_000, 10_000_000, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOptions:
    """The options of `bench-decode time-passes`, by their names; its --help says what each is."""

    target_model: str
    draft_model: str
    batch: str
    context: str
    k: str
    dtype: str
    device: str
    repeats: int
    seed: int
    record_host: bool
    out: Path
    force: bool

    def __post_init__(self) -> None:
        _ = self.grid
        if self.out.suffix != ".json":
            raise UserError(f"--out {self.out}: suffix {self.out.suffix!r}, expected .json")

    @property
    def grid(self) -> Grid:
        """What is timed."""
        return Grid(
            batches=parse_whole("--batch", self.batch, 1, MOST_BATCH),
            contexts=parse_whole("--context", self.context, 1, MOST_CONTEXT),
            draft_lengths=parse_whole("--k", self.k, 1, MOST_DRAFTED),
        )

    @property
    def configs(self) -> dict[str, tuple[Path, str]]:
        """The file and the name of each model, by role."""
        return {TARGET: config_file(self.target_model), DRAFT: config_file(self.draft_model)}


def time_passes(options: PassOptions, progress: Callable[[int], AbstractContextManager[Any]]) -> dict[str, Any]:
    """Build both models, and time every pass.

    Returns:
        What its file holds.

    Raises:
        UserError: A library that is missing, a device that is not here, a model that cannot be built or timed.
    """
    load_libraries()
    from acceptance.models.load import pick_device

    device, grid = pick_device(options.device), options.grid
    subjects = build_subjects(options, grid, device)
    rng = np.random.default_rng(options.seed)
    groups = 2 * len(grid.batches) * len(grid.contexts) * (options.repeats + 1)

    def keep(timed: Timed) -> None:
        if timed[0]:
            write_json(options.out, written(options, subjects, device, timed), kept=True)

    with progress(groups) as bar:
        timed = time_all(subjects, grid, clock_for([device]), options.repeats, rng, bar.update, keep)
    samples, left_out, interrupted = timed
    if interrupted and not samples:
        raise KeyboardInterrupt("nothing was timed often enough yet")
    if not samples:
        raise UserError(f"--batch: no pass fits into memory ({next(iter(left_out.values()))}), expected smaller ones")
    return written(options, subjects, device, timed)


def written(options: PassOptions, subjects: dict[str, Subject], device: str, timed: Timed) -> dict[str, Any]:
    """Return what the file holds."""
    samples, left_out, interrupted = timed
    parameters = {name: value for name, value in asdict(options).items() if name not in ("out", "force", "record_host")}
    found = envelope(KIND, SCHEMA_VERSION, parameters) | payload(subjects, samples, left_out, options.dtype)
    found["environment"] |= surroundings([device], record_host=options.record_host)
    about = {"device": device, "dtype": options.dtype, "system": system_metadata([device])}
    return found | about | {"interrupted": interrupted}


def build_subjects(options: PassOptions, grid: Grid, device: str) -> dict[str, Subject]:
    """Build both models; shapes are checked before either is."""
    subjects = {}
    for role, (path, name) in options.configs.items():
        config = read_json(path)
        shape = shape_of(config, name)
        check_shape(f"--{role}-model", shape, grid)
        subjects[role] = (path, name, config.object(), shape)
    return {
        role: Subject(
            name=name,
            config=config,
            shape=shape,
            module=build(f"--{role}-model", path, config, device, options.dtype),
        )
        for role, (path, name, config, shape) in subjects.items()
    }
