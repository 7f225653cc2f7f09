"""Forward passes of models with random weights, timed by batch, context and new tokens: their time hangs on no weight.

The KV cache is filled with random numbers, so that no context has to be read first. A pass adds to it; it is cut back
outside the clock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.limits import lacks_memory
from simulator.ground.partial import NowAndThen
from simulator.ground.statistics import median_error

from . import pass_attention
from .clock import Clock

if TYPE_CHECKING:
    from simulator.costs.work import ModelShape

KIND = "pass_times"
# 1: first version.
SCHEMA_VERSION = 1
TARGET, DRAFT = "target", "draft"
# Below, a median has no error.
LEAST_REPEATS = 3
NOT_RUN = "not run: interrupted"
T = TypeVar("T")


class Point(NamedTuple):
    """A pass: the tokens of each sequence that the cache holds, and those that the pass computes."""

    role: str
    batch: int
    context: int
    new_tokens: int


# The samples of each pass, why others were left out, and whether it was interrupted.
Timed = tuple[dict[Point, list[float]], dict[Point, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is timed: one token of each model, and K + 1 of the target, at every batch and context."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    draft_lengths: tuple[int, ...]

    def points(self) -> list[Point]:
        """Return all of them."""
        lengths = [(TARGET, 1), (DRAFT, 1), *((TARGET, k + 1) for k in self.draft_lengths)]
        return [Point(role, b, s, n) for b in self.batches for s in self.contexts for role, n in lengths]

    @property
    def longest(self) -> int:
        """Tokens that a model sees at most."""
        return max(self.contexts) + max(self.draft_lengths) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model that is timed: its name, its config.json, its sizes, and itself."""

    name: str
    config: Mapping[str, Any]
    shape: "ModelShape"
    module: Any


def check_shape(option: str, shape: "ModelShape", grid: Grid) -> None:
    """Refuse a model whose cache is not two tensors of all tokens a layer."""
    if shape.states or any(a.fixed for a in shape.attentions):
        raise UserError(f"{option} {shape.name}: keeps more than keys and values of its tokens, expected these alone")
    if any(a.pair_size * a.shares != a.kv_size for a in shape.attentions):
        raise UserError(f"{option} {shape.name}: has latent attention, expected keys and values by heads")
    window = min((a.window for a in shape.attentions if a.window), default=grid.longest)
    if window < grid.longest:
        raise UserError(
            f"{option} {shape.name}: sees {window} tokens, expected {grid.longest}, its context and new tokens"
        )
    positions = shape.longest_context if shape.tables else None
    if positions and positions < grid.longest:
        raise UserError(f"{option} {shape.name}: has {positions} positions, expected at least {grid.longest}")


def build(option: str, path: Path, config: Mapping[str, Any], device: str, dtype: str) -> Any:
    """Build a model with random weights where it is timed."""
    import torch
    import transformers

    from acceptance.models.check import check_cache
    from acceptance.models.load import DTYPES

    transformers.utils.logging.set_verbosity_error()
    pass_attention.register()
    try:
        parsed = transformers.AutoConfig.for_model(**config)
        with torch.device(device):
            module = transformers.AutoModelForCausalLM.from_config(
                parsed, dtype=DTYPES[dtype], attn_implementation=pass_attention.NAME
            ).eval()
            with torch.inference_mode():
                module(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=True)
        check_cache(option, str(path), module)
    except UserError:
        raise
    except Exception as error:  # transformers and a model's own code raise what they like
        raise UserError(f"{option} {path}: cannot be built and run ({first_line(error)})") from None
    return module


def first_line(error: Exception) -> str:
    """Return what an error says, in a line."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def filled_cache(subject: Subject, batch: int, context: int, room: int, generator: Any) -> Any:
    """Return a cache that holds random keys and values, [batch, KV heads, context, head size] in each layer.

    Memory is set aside for `room` further tokens.
    """
    import torch

    from acceptance.models.compat import growing_cache

    shape, module = subject.shape, subject.module
    attention = shape.attentions[0]
    size = (batch, attention.shares, context, attention.pair_size // 2)
    kind = {"dtype": module.dtype, "device": module.device, "generator": generator}
    cache = growing_cache()
    for layer in range(shape.layers):
        cache.update(torch.randn(size, **kind), torch.randn(size, **kind), layer)
        pass_attention.reserve(cache.layers[layer], room)
    return cache


def run_pass(subject: Subject, cache: Any, tokens: Any) -> Any:
    """Return the logits of new tokens behind a cache, which grows by them; tokens: [batch, new]."""
    from acceptance.models.compat import read_on

    return read_on(subject.module, tokens, cache).logits


def held(cache: Any) -> list[int]:
    """Return the tokens that each layer of a cache holds."""
    return [layer.get_seq_length() for layer in cache.layers]


def cut_back(cache: Any, context: int) -> None:
    """Have every layer hold the context alone; a pass that failed leaves some of them longer."""
    from acceptance.models.compat import cut

    for layer in cache.layers:
        cut(layer, layer.get_seq_length() - context)


def time_pass(subject: Subject, cache: Any, tokens: Any, clock: Clock) -> float:
    """Return the seconds of a pass; the cache grows by its tokens.

    Raises:
        RuntimeError: The cache did not: the model has not read what it holds.
    """
    wanted = [length + tokens.shape[1] for length in held(cache)]
    clock.start()
    run_pass(subject, cache, tokens)
    clock.mark("verify")
    seconds = clock.timeline()[0][2]
    if held(cache) != wanted:
        raise RuntimeError(f"layers hold {held(cache)} tokens, expected {wanted}")
    return seconds


def time_group(
    subject: Subject, points: Sequence[Point], clock: Clock, rng: np.random.Generator
) -> dict[Point, float | str]:
    """Time passes over one cache, one after another. All are of one batch and context; the first is run untimed before.

    Returns:
        The seconds of each, or why there is no memory for it.
    """
    import torch

    device, (_, batch, context, _) = subject.module.device, points[0]
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
    outcomes: dict[Point, float | str] = {}
    most = max(point.new_tokens for point in points)
    with torch.inference_mode():
        cache = within_memory(partial(filled_cache, subject, batch, context, most, generator))
        if isinstance(cache, str):
            return dict.fromkeys(points, cache)
        for point in (points[0], *points):
            size = (batch, point.new_tokens)
            tokens = torch.randint(subject.shape.vocabulary, size, generator=generator, device=device)
            outcomes[point] = within_memory(partial(time_pass, subject, cache, tokens, clock))
            cut_back(cache, context)
    return outcomes


def within_memory(work: Callable[[], Any]) -> Any:
    """Return what some work does, or in a line why there is no memory for it."""
    import torch

    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        reason = first_line(error)
    torch.cuda.empty_cache()
    return reason


def time_all(
    subjects: Mapping[str, Subject],
    grid: Grid,
    clock: Clock,
    repeats: int,
    rng: np.random.Generator,
    progress: Callable[[int], None],
    keep: Callable[[Timed], object] | None = None,
) -> Timed:
    """Time every pass so many times, in an order drawn anew each time, after a round that does not count.

    keep: called now and then with what there is so far, as if interrupted there.

    Returns:
        The samples of each pass, why passes were left out (for want of memory, or of samples where it was interrupted),
        and whether it was.
    """
    samples: dict[Point, list[float]] = {point: [] for point in grid.points()}
    left_out: dict[Point, str] = {}
    kept = NowAndThen(keep)

    def found(*, interrupted: bool) -> Timed:
        few = [point for point, taken in samples.items() if len(taken) < LEAST_REPEATS] if interrupted else []
        out = dict.fromkeys(few, NOT_RUN) | left_out
        return {point: seconds for point, seconds in samples.items() if point not in out}, out, interrupted

    try:
        for counts in [False, *[True] * repeats]:
            groups: dict[tuple[str, int, int], list[Point]] = {}
            for point in shuffled([p for p in samples if p not in left_out], rng):
                groups.setdefault(point[:3], []).append(point)
            for key in shuffled(list(groups), rng):
                for point, outcome in time_group(subjects[key[0]], groups[key], clock, rng).items():
                    if isinstance(outcome, str):
                        left_out[point] = outcome
                    elif counts:
                        samples[point].append(outcome)
                progress(1)
                kept(lambda: found(interrupted=True))
    except KeyboardInterrupt:
        return found(interrupted=True)
    return found(interrupted=False)


def shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """Return items in an order drawn anew."""
    return [items[i] for i in rng.permutation(len(items))]


def point_json(point: Point, shape: "ModelShape", dtype: str) -> dict[str, Any]:
    """Return which pass it is, and its work."""
    size = (point.batch, point.new_tokens, point.context)
    work = {"flops": float(shape.flops(*size)), "bytes": float(shape.bytes_moved(*size, dtype))}
    return point._asdict() | {"model": shape.name, "layers": shape.layers} | work


def payload(
    subjects: Mapping[str, Subject],
    samples: Mapping[Point, Sequence[float]],
    left_out: Mapping[Point, str],
    dtype: str,
) -> dict[str, Any]:
    """Return what was timed, with its work and its samples."""

    def row(point: Point) -> dict[str, Any]:
        return point_json(point, subjects[point.role].shape, dtype)

    return {
        "models": {role: {"name": subject.name, "config": dict(subject.config)} for role, subject in subjects.items()},
        "points": [
            row(point)
            | {"median_s": float(np.median(seconds)), "error_s": median_error(seconds), "samples_s": list(seconds)}
            for point, seconds in samples.items()
        ],
        "left_out": [row(point) | {"reason": reason} for point, reason in left_out.items()],
    }
