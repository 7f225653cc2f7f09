"""Policies of engines for draft lengths, as their settings are written: `NAME[:setting=value,...]`."""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artefacts import UserError
from .fields import Field, parse_json, read_json, shortened
from .limits import MAX_DRAFT_LENGTH

Floats = NDArray[np.float64]

# Settings by the names that engines have for them.
OTHER_NAMES = {
    "num_speculative_tokens": "k",
    "speculative_num_steps": "k",
    "num_speculative_tokens_per_batch_size": "ranges",
    "draft_len_schedule": "schedule",
    "max_draft_len": "k",
    "spec_draft_p_min": "p_min",
    "spec_draft_n_max": "n_max",
    "speculative_adaptive_config": "config",
}
SETTING = re.compile(r"\s*-{0,2}([A-Za-z][\w-]*)\s*=\s*(.*)", re.DOTALL)
BARE_KEY = re.compile(r"([{,]\s*)(\d+)(\s*:)")

# Sequences that run at once, at most.
MAX_BATCH = 1_000_000
RANGES = "ranges of batch sizes from 1 on, as in [[1,4,5],[5,32,2]]"
SCHEDULE = "batch sizes and lengths, as in {4:4,8:2,32:1}"

# What the engine takes without --speculative-adaptive-config.
DEFAULT = {
    "1": {"candidate_steps": [1, 3, 5, 7], "up_hysteresis": 0.0, "down_hysteresis": -0.25},
    "8": {"candidate_steps": [0, 1, 3], "up_hysteresis": 0.0, "down_hysteresis": 0.0},
    "32": {"candidate_steps": [0, 1], "up_hysteresis": 0.0, "down_hysteresis": 0.0},
    "64": {"candidate_steps": [0], "up_hysteresis": 0.0, "down_hysteresis": 0.0},
}
KEYS = ("ema_alpha", "update_interval", "warmup_batches", "up_hysteresis", "down_hysteresis", "ceiling_coeff")

WARM_UP_REFITS, REFIT_EVERY = 3, 100
# Tokens of the largest pass that the engine captures as a graph.
CAPTURED = 512


def settings_of(name: str, text: str) -> dict[str, Any]:
    """Return settings by our names; commas within a value are its own, values are JSON or text."""
    settings: dict[str, Any] = {}
    for part in re.split(r",(?=\s*-{0,2}[A-Za-z][\w-]*\s*=)", text) if text.strip() else []:
        found = SETTING.fullmatch(part)
        if not found:
            raise UserError(f"--policy {name}: {shortened(part)} is no setting, expected NAME:setting=value,...")
        own = found[1].replace("-", "_")
        own = OTHER_NAMES.get(own, own)
        if own in settings:
            raise UserError(f"--policy {name}: {own} is stated twice, expected it once")
        settings[own] = value_of(found[2].strip())
    return settings


def value_of(text: str) -> Any:
    """Return a value: JSON, whose keys may be bare numbers, else the text itself."""
    try:
        return parse_json(BARE_KEY.sub(r'\1"\2"\3', text))
    except (ValueError, json.JSONDecodeError):
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBatch:
    """A draft length for each number of sequences that run, 0 for none.

    edges, lengths: `lengths[i]` from `edges[i]` sequences on; the first edge is 1. keeps_up: whether the drafter runs a
    pass where nothing is drafted, so that its KV cache knows the text.
    """

    edges: tuple[int, ...]
    lengths: tuple[int, ...]
    keeps_up: bool = False

    @property
    def longest(self) -> int:
        """The longest draft."""
        return max(self.lengths)

    def at(self, running: int) -> int:
        """Return the draft length of a batch."""
        return self.lengths[bisect_right(self.edges, running) - 1]


def static(settings: Field) -> ByBatch:
    """The same draft length every step: vLLM's num_speculative_tokens, SGLang's --speculative-num-steps."""
    settings.only(("k",))
    return ByBatch(edges=(1,), lengths=(settings["k"].whole(1, MAX_DRAFT_LENGTH, default=4),))


def vllm_by_batch(settings: Field) -> ByBatch:
    """vLLM's dynamic speculative decoding: `num_speculative_tokens_per_batch_size`, [[first, last, K], ...].

    Sizes between two ranges, and beyond the last, have the K before them; no K is above num_speculative_tokens
    (`vllm/v1/spec_decode/dynamic/utils.py`). The ranges begin at 1 and do not overlap. A context axis is not read.
    """
    settings.only(("k", "ranges"))
    most = settings["k"].whole(1, MAX_DRAFT_LENGTH, default=MAX_DRAFT_LENGTH)
    if not settings["ranges"].is_given:
        settings["ranges"].refuse(RANGES)
    edges, lengths, last = list[int](), list[int](), 0
    for entry in settings["ranges"].elements():
        numbers = [n.whole(0, MAX_BATCH) for n in entry.elements()]
        if len(numbers) != 3 or not last < numbers[0] <= numbers[1] or numbers[2] > MAX_DRAFT_LENGTH:
            entry.refuse("[first, last, K], behind the range before it")
        edges.append(numbers[0])
        lengths.append(min(numbers[2], most))
        last = numbers[1]
    if not edges or edges[0] != 1:
        settings["ranges"].refuse(RANGES)
    return ByBatch(edges=tuple(edges), lengths=tuple(lengths), keeps_up=True)


def trt_llm(settings: Field) -> ByBatch:
    """TensorRT-LLM's `draft_len_schedule`, such as {4:4, 8:2, 32:1}: each length up to that batch size, then none.

    `get_draft_len_for_batch_size` of `tensorrt_llm/_torch/speculative/utils.py`. floor: the shortest length, beyond the
    last size too; 1 in releases that never skip a draft, since what was skipped left holes in the draft's cache.
    max_concurrency: no drafts above so many sequences.
    """
    settings.only(("schedule", "floor", "max_concurrency"))
    schedule, floor = settings["schedule"], settings["floor"].whole(0, MAX_DRAFT_LENGTH, default=0)
    if not schedule.is_given:
        schedule.refuse(SCHEDULE)
    sizes = {}
    for key, length in schedule.items():
        if not (key.isascii() and key.isdecimal() and 1 <= int(key[:9]) <= MAX_BATCH):
            schedule.refuse(SCHEDULE)
        sizes[int(key)] = max(length.whole(0, MAX_DRAFT_LENGTH), floor)
    if not sizes:
        schedule.refuse(SCHEDULE)
    last = sorted(sizes)
    edges, lengths = [1, *(size + 1 for size in last)], [*(sizes[size] for size in last), floor]
    most = settings["max_concurrency"].whole(0, MAX_BATCH, default=MAX_BATCH)
    kept = bisect_left(edges, most + 1)
    return ByBatch(edges=(*edges[:kept], most + 1), lengths=(*lengths[:kept], 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Draft lengths to choose among, ascending, and how; names as in SGLang's file."""

    candidate_steps: tuple[int, ...]
    ema_alpha: float = 0.2
    update_interval: int = 5
    warmup_batches: int = 10
    up_hysteresis: float = 0.0
    down_hysteresis: float = -0.25
    ceiling_coeff: float = 0.0

    @classmethod
    def read(cls, entry: Field, common: Field) -> "Candidates":
        """Read one batch size's, each key from its own entry, else from the whole file."""
        steps = {s.whole(0, MAX_DRAFT_LENGTH) for s in entry["candidate_steps"].elements()}
        if not steps:
            entry["candidate_steps"].refuse("a list of draft lengths")
        said = {key: entry[key] if entry[key].is_given else common[key] for key in KEYS}
        return cls(
            candidate_steps=tuple(sorted(steps)),
            ema_alpha=said["ema_alpha"].number(0, 1, default=0.2),
            update_interval=said["update_interval"].whole(1, default=5),
            warmup_batches=said["warmup_batches"].whole(0, default=10),
            up_hysteresis=said["up_hysteresis"].number(-MAX_DRAFT_LENGTH, MAX_DRAFT_LENGTH, default=0.0),
            down_hysteresis=said["down_hysteresis"].number(-MAX_DRAFT_LENGTH, MAX_DRAFT_LENGTH, default=-0.25),
            ceiling_coeff=said["ceiling_coeff"].number(default=0.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveSteps:
    """Slots by the batch size from which they hold; initial: --speculative-num-steps, where every slot begins."""

    slots: tuple[tuple[int, Candidates], ...]
    initial: int

    @property
    def longest(self) -> int:
        """The longest draft."""
        return max(max(candidates.candidate_steps) for _, candidates in self.slots)


def sglang(settings: Field) -> AdaptiveSteps:
    """SGLang's adaptive steps: k to begin with; candidate_steps for all batch sizes, or a config file of the engine's.

    Without either, the engine's own slots: 1, 3, 5, 7 steps from batch size 1 on, 0, 1, 3 from 8, 0, 1 from 32, none
    from 64.
    """
    settings.only(("k", "config", "candidate_steps", *KEYS))
    initial = settings["k"].whole(0, MAX_DRAFT_LENGTH, default=3)
    if settings["candidate_steps"].is_given:
        return AdaptiveSteps(slots=((1, Candidates.read(settings, settings)),), initial=initial)
    config = settings["config"]
    whole = read_json(config.text()) if config.is_given else Field(DEFAULT)
    found = {key: entry for key, entry in whole.items() if key.isascii() and key.isdecimal() and len(key) < 10}
    if not found:
        whole.refuse('batch sizes, as in {"1": {"candidate_steps": [1, 3]}}')
    if whole["strategy"].is_given:
        whole["strategy"].choice(("ema",))
    # What is stated beside the file holds where the file says nothing.
    common = whole.but(**{key: settings[key].value for key in KEYS if settings[key].is_given})
    slots = {int(key): Candidates.read(entry, common) for key, entry in found.items()}
    return AdaptiveSteps(slots=tuple(sorted(slots.items(), key=lambda slot: slot[0])), initial=initial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """vLLM's adaptive verification: drafts of k tokens, and steps before it begins, in refits of its estimate.

    captured: tokens of the largest pass that the engine captures as a graph.
    """

    k: int
    captured: int = CAPTURED
    refit_every: int = REFIT_EVERY
    warm_up_refits: int = WARM_UP_REFITS

    @property
    def warm_up(self) -> int:
        """Steps in which whole drafts are verified."""
        return self.refit_every * self.warm_up_refits


def adaptive_verification(settings: Field) -> Verification:
    """vLLM's adaptive verification of drafts of k tokens."""
    settings.only(("k", "captured", "refit_every", "warm_up_refits"))
    return Verification(
        k=settings["k"].whole(1, MAX_DRAFT_LENGTH, default=4),
        captured=settings["captured"].whole(1, default=CAPTURED),
        refit_every=settings["refit_every"].whole(1, default=REFIT_EVERY),
        warm_up_refits=settings["warm_up_refits"].whole(0, default=WARM_UP_REFITS),
    )


def staircase(sizes: Sequence[int], seconds: Floats, most: int, captured: int) -> Floats:
    """Return the seconds of passes over 0..most tokens, from those of some sizes.

    They rise; up to the largest captured graph a pass is padded to the next size that was timed, above it they are
    interpolated, and beyond the last size go on in a line.
    """
    xs, ys, values = np.asarray(sizes), np.maximum.accumulate(seconds), np.arange(most + 1)
    table = ys[np.minimum(np.searchsorted(xs, values), len(xs) - 1)]
    above = xs > captured
    if above.any():
        table = np.where(values > captured, np.interp(values, xs[above], ys[above]), table)
    if len(xs) > 1:
        line = ys[-1] + (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) * (values - xs[-1])
        table = np.where(values > xs[-1], line, table)
    return np.asarray(table, np.float64)


def graph_sizes(captured: int, most: int) -> list[int]:
    """Return the tokens of the passes that vLLM times: of captured graphs, then one and a half, twice, four times."""
    graphs = [n for n in (1, 2, 4, *range(8, 256, 8), *range(256, captured + 1, 16)) if n <= captured]
    tail, size = {min(graphs[-1] + graphs[-1] // 2, most)}, graphs[-1]
    while size < most:
        size = min(2 * size, most)
        tail.add(size)
    return sorted({*graphs, *tail})


@dataclass(frozen=True, slots=True, kw_only=True)
class PMin:
    """llama.cpp's stop (`--spec-draft-p-min`): a draft of at most n_max goes on while its first choice is as likely."""

    p_min: float
    n_max: int


def llama_cpp(settings: Field) -> PMin:
    """llama.cpp's confidence stop: p_min, and n_max, the longest draft."""
    settings.only(("p_min", "n_max"))
    n_max = settings["n_max"].whole(1, MAX_DRAFT_LENGTH, default=16)
    return PMin(p_min=settings["p_min"].number(0, 1, default=0.75), n_max=n_max)
