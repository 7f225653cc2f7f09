"""Files of timed passes whose truth is known: each as long as a cost says of the work of its shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from acceptance.bench.machine import surroundings
from acceptance.bench.passes import DRAFT, KIND, SCHEMA_VERSION, TARGET, Grid, Subject, payload
from simulator.costs.profile import PassCost, constant
from simulator.costs.shapes import config_file, read_shape
from simulator.costs.work import ModelShape
from simulator.ground.artefacts import envelope, write_json
from simulator.ground.fields import read_json_object

# Neither time nor memory binds everywhere; a layer costs a launch.
TRUTH = PassCost(flop_scale=constant(1e-14), mem_scale=constant(5e-13), launch_s=2e-5, overlap_exponent=2.0)
GRID = Grid(batches=(1, 8, 32), contexts=(512, 4096), draft_lengths=tuple(range(1, 9)))
MODELS = {TARGET: "llama-3.1-8b", DRAFT: "llama-3.2-1b"}


def pass_s(shape: ModelShape, size: Sequence[int], cost: PassCost = TRUTH) -> float:
    """Return the seconds of a pass; size: batch, new tokens, context."""
    batch, new_tokens, _ = size
    work = (float(shape.flops(*size)), float(shape.bytes_moved(*size, "bfloat16")))
    return float(cost.pass_s(*work, batch * new_tokens, shape.layers))


def write_passes(path: Path, noise: float = 0.0, grid: Grid = GRID, cost: PassCost = TRUTH, seed: int = 0) -> Path:
    """Write passes of an 8B and a 1B model; noise: relative, of a sample."""
    rng = np.random.default_rng(seed)
    subjects: Mapping[str, Subject] = {
        role: Subject(name=name, config=read_json_object(config_file(name)[0]), shape=read_shape(name), module=None)
        for role, name in MODELS.items()
    }
    samples = {}
    for point in grid.points():
        seconds = pass_s(subjects[point.role].shape, (point.batch, point.new_tokens, point.context), cost)
        samples[point] = (seconds * (1 + noise * rng.standard_normal(15))).tolist()
    found = envelope(KIND, SCHEMA_VERSION, {}) | payload(subjects, samples, {}, "bfloat16")
    found["environment"] |= surroundings(["cpu"])
    gpu = {"device": "cuda:0", "name": "Made GPU", "memory_bytes": 80 * 10**9}
    write_json(path, found | {"device": "cuda:0", "dtype": "bfloat16", "system": {"cpu": "Made CPU", "gpus": [gpu]}})
    return path
