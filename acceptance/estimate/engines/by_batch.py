"""Draft lengths looked up by the batch that runs: static, vLLM's and TensorRT-LLM's schedules."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from acceptance.estimate.play import Counts, Outputs, Player, Rounds
from acceptance.estimate.policies import same_for_all
from simulator.ground.fields import Field
from simulator.ground.limits import MAX_DRAFT_LENGTH

# Sequences that run at once, at most.
MAX_BATCH = 1_000_000
RANGES = "ranges of batch sizes from 1 on, as in [[1,4,5],[5,32,2]]"
SCHEDULE = "batch sizes and lengths, as in {4:4,8:2,32:1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBatch:
    """A draft length for each number of sequences that run, 0 for none.

    edges, lengths: `lengths[i]` from `edges[i]` sequences on; the first edge is 1. longest, needs, keeps_up: as of
    `named.EnginePolicy`.
    """

    edges: tuple[int, ...]
    lengths: tuple[int, ...]
    keeps_up: bool = False
    asks_costs: bool = False
    warm_up: int = 0
    needs: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """The longest draft."""
        return max(self.lengths)

    def at(self, running: int) -> int:
        """Return the draft length of a batch."""
        return self.lengths[bisect_right(self.edges, running) - 1]

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return ByBatchPlayer(self, outputs)


class ByBatchPlayer(Player):
    """A schedule at work."""

    def __init__(self, policy: ByBatch, outputs: Outputs) -> None:
        super().__init__(same_for_all(outputs, 0))
        self.policy = policy

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many tokens each round drafts, shape [rounds]."""
        return np.minimum(self.policy.at(len(rounds.output)), rounds.room)


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
