"""The parts that rounds of decoders are made of, each timed by itself: passes by their rows, and what the host does.

A part is run with the models of a benchmark, on the prompt of a turn, and behind a pass of the target where that goes
before it in a round: what a draft reads has left the processor's caches by then.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from acceptance.decoders.baseline import Plain
from acceptance.decoders.batch import Batch, Task
from acceptance.decoders.chain import Chain, Draws, Proposal, Seen, Verdict
from acceptance.decoders.eagle import EagleDraft, EagleTree, Reader
from acceptance.decoders.medusa import MedusaDraft, MedusaTree
from acceptance.decoders.model_draft import ModelDraft
from acceptance.decoders.ngram import TextDraft
from acceptance.decoders.specexec import SpecExec
from acceptance.decoders.tree import Tree, TreeDecoder
from acceptance.models.laws import likeliest
from acceptance.models.source import longer
from acceptance.results.parts import BLOCK, DECIDE, FIRST, HOST, STEP, VERIFY, Part, owner
from acceptance.results.settings import KNOBS

from .clock import Clock, clock_for
from .timed import undisturbed
from .turns import Bench, Runnable, Turn, stream

# Times that each part is run in a turn.
SWEEPS = 3
# As often a plain step in each sweep: every forecast is of its time.
PLAIN_TIMES = 4
# Rows of a first pass of a draft model: what was just committed, and the draft before it where all were accepted.
UNREAD = (1, 2)
# Nodes of the trees whose verification is timed, besides the budget.
TREE_WIDTHS = (1, 2, 4, 8, 16, 32)
PARTS_STREAM = 2
Job = Callable[[], None]


class Laps:
    """Times what it is given to do, one after another."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing timed."""
        self.clock, self.seconds = clock, dict[Part, list[float]]()

    def time(self, part: Part, work: Callable[[], Any]) -> Any:
        """Do it under the clock, and return what it returns."""
        self.clock.start()
        found = work()
        self.clock.mark("other")
        self.note(part, self.clock.stop().total_s)
        return found

    def note(self, part: Part, seconds: float) -> None:
        """Keep a time."""
        self.seconds.setdefault(part, []).append(seconds)

    def verify(self, of: str, rows: int, decoder: Any, proposal: Any) -> None:
        """Have a decoder verify and commit, which is then undone: the pass is a part, all else another."""
        decoder.task = Task(rule=decoder.task.rule, max_new_tokens=1, rngs=decoder.task.rngs, mark=self.clock.mark)
        with undone(decoder.batch):
            self.clock.start()
            verdict = decoder.verify(proposal)
            self.clock.mark("sample")
            decoder.commit(proposal, verdict)
            self.clock.mark("other")
            phases = self.clock.stop()
        self.note(Part(of, VERIFY, rows, rows), phases.verify_s)
        self.note(Part(of, DECIDE, rows, rows), phases.total_s - phases.verify_s)


class PartTimer:
    """Times all parts of a turn several times, in an order drawn anew, some of them behind each decoding."""

    def __init__(self, bench: Bench, turn: Turn) -> None:
        """Read the prompt of a turn with every decoder whose parts are timed."""
        self.laps, self.bench = Laps(clock_for(bench.devices, by_processor=bench.processor_time)), bench
        rng = stream(bench.settings.seed, turn.run, turn.batch.start, PARTS_STREAM)
        prompt, budget = bench.prompts[turn.batch.start], bench.settings.max_new_tokens
        # As long as what a round sees on average.
        more = [prompt[i % len(prompt)] for i in range(budget // 2)]
        self.prompt = longer(prompt, more)
        jobs = [job for runnable in timed_arms(turn.order) for job in self.jobs(runnable, rng)]
        self.todo = [jobs[i] for _ in range(SWEEPS) for i in rng.permutation(len(jobs))]
        self.share = -(-len(self.todo) // max(1, len(turn.order)))

    def jobs(self, runnable: Runnable, rng: np.random.Generator) -> list[Job]:
        """Return what times the parts of a decoder."""
        assert runnable.begin is not None
        budget = self.bench.settings.max_new_tokens
        task = Task(rule=self.bench.settings.rule, max_new_tokens=budget, rngs=[np.random.default_rng(0)])
        try:
            return list(jobs_of(self.laps, runnable.begin([self.prompt], task), runnable, rng))
        except Exception:  # whatever a model's code raises: the decoding itself is on record with its error
            return []

    def some(self) -> None:
        """Time a share of them."""
        with undisturbed():
            for job in self.todo[: self.share]:
                job()
        del self.todo[: self.share]

    def parts(self) -> list[dict[str, Any]]:
        """Return the times of all, as a record has them."""
        return [part._asdict() | {"seconds": seconds} for part, seconds in sorted(self.laps.seconds.items())]


def timed_arms(order: Sequence[Runnable]) -> list[Runnable]:
    """Return of arms that share their parts the one with the longest drafts."""
    longest: dict[str, Runnable] = {}
    for runnable in sorted(order, key=lambda r: (r.arm.name, draft_length(r))):
        name = owner(runnable.arm.name, runnable.arm.method)
        if name and runnable.begin and (name not in longest or draft_length(runnable) > draft_length(longest[name])):
            longest[name] = runnable
    return list(longest.values())


def knob(runnable: Runnable, name: str) -> int:
    """Return a knob of an arm."""
    return int(runnable.arm.knobs.get(name, KNOBS[name].default or 1))


def draft_length(runnable: Runnable) -> int:
    """Return the draft length of an arm."""
    return knob(runnable, "k")


def jobs_of(laps: Laps, decoder: Any, runnable: Runnable, rng: np.random.Generator) -> Iterator[Job]:
    """Tell what times the parts of a decoder: its drafts, and its verification by width."""
    of, k = owner(runnable.arm.name, runnable.arm.method), draft_length(runnable)
    if isinstance(decoder, Plain):
        for _ in range(PLAIN_TIMES):
            yield partial(verify_plain, laps, decoder)
        return
    drafter = decoder.grower if isinstance(decoder, TreeDecoder) else decoder.drafter
    yield from DRAFTS[type(drafter)](laps, drafter, decoder.batch, of, k, rng)
    stand_in: Any = NothingToLearn(k)
    if isinstance(decoder, TreeDecoder):
        decoder.grower, budget = stand_in, knob(runnable, "tree_budget")
        for nodes in sorted({*TREE_WIDTHS, budget} & set(range(1, budget + 1))):
            yield partial(verify_tree, laps, decoder, of, nodes, rng)
    else:
        decoder.drafter = stand_in
        for drafted in range(k + 1):
            yield partial(verify_chain, laps, decoder, of, drafted, rng)


def model_jobs(laps: Laps, draft: ModelDraft, batch: Batch, of: str, k: int, rng: np.random.Generator) -> Iterator[Job]:
    """Tell what times the parts of a draft model."""
    for rows in UNREAD:
        yield partial(draft_model, laps, draft, batch, of, rows)


def eagle_jobs(
    laps: Laps, drafter: EagleDraft | EagleTree, batch: Batch, of: str, k: int, rng: np.random.Generator
) -> Iterator[Job]:
    """Tell what times the parts of an EAGLE head."""
    wide = drafter.branches if isinstance(drafter, EagleTree) else 1
    for rows in range(k + 2):
        yield partial(eagle_head, laps, drafter.reader, batch, of, rows, wide)
    if isinstance(drafter, EagleTree):
        for depth in range(1, k + 1):
            yield partial(grow_eagle, laps, drafter, batch, of, depth, rng)


def specexec_jobs(
    laps: Laps, grower: SpecExec, batch: Batch, of: str, k: int, rng: np.random.Generator
) -> Iterator[Job]:
    """Tell what times the parts of a draft model's tree."""
    for rows in UNREAD:
        yield partial(draft_tree, laps, grower, batch, of, rows, rng)
    for depth in range(1, k + 1):
        yield partial(grow_specexec, laps, grower, batch, of, depth, rng)


def medusa_jobs(
    laps: Laps, drafter: MedusaDraft | MedusaTree, batch: Batch, of: str, k: int, rng: np.random.Generator
) -> Iterator[Job]:
    """Tell what times Medusa's heads."""
    for length in range(1, k + 1):
        yield partial(medusa, laps, drafter, batch, of, length)


def text_jobs(laps: Laps, drafter: TextDraft, batch: Batch, of: str, k: int, rng: np.random.Generator) -> Iterator[Job]:
    """Tell what times a search in the text."""
    yield partial(look_up, laps, drafter, batch, of, k)


DRAFTS: dict[type, Callable[..., Iterator[Job]]] = {
    ModelDraft: model_jobs,
    EagleDraft: eagle_jobs,
    EagleTree: eagle_jobs,
    SpecExec: specexec_jobs,
    MedusaDraft: medusa_jobs,
    MedusaTree: medusa_jobs,
    TextDraft: text_jobs,
}


class NothingToLearn:
    """In place of a drafter or grower while its decoder commits."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def learn(self, *_: Any) -> None:
        """Take no note."""


@contextmanager
def undone(batch: Batch) -> Iterator[None]:
    """Have a batch of one sequence be as before."""
    lengths, budget, read = batch.lengths, batch.budget, batch.target.lengths
    yield
    batch.lengths, batch.budget = lengths, budget
    batch.target.roll_back(read)
    for output in batch.outputs:
        output.tokens.clear()
        output.rounds.clear()


def pass_before(batch: Batch) -> None:
    """Have the target read the last token, and forget it."""
    with undone(batch):
        last = torch.from_numpy(batch.tokens[:, batch.lengths[0] - 1 : batch.lengths[0]])
        batch.target.read(last.to(batch.target.model.device), np.ones((1, 1), bool), 1)


def some_tokens(batch: Batch, count: int, rng: np.random.Generator) -> Any:
    """Return tokens, [count]."""
    return rng.integers(batch.target.model.vocabulary, size=count)


def verify_plain(laps: Laps, decoder: Plain) -> None:
    """Time a plain step."""
    last = decoder.last
    laps.verify("plain", 1, decoder, None)
    decoder.last = last


def verify_chain(laps: Laps, decoder: Chain, of: str, drafted: int, rng: np.random.Generator) -> None:
    """Time the verification of a chain."""
    tokens = torch.from_numpy(some_tokens(decoder.batch, drafted, rng))[None]
    decoder.numbers = rng.random((1, 2 * decoder.controller.most + 1))
    proposal = Proposal(tokens=tokens, lengths=np.array([drafted]), passes=np.array([0]))
    laps.verify(of, drafted + 1, decoder, proposal)


def verify_tree(laps: Laps, decoder: TreeDecoder, of: str, nodes: int, rng: np.random.Generator) -> None:
    """Time the verification of a tree: two children of each node."""
    tokens = some_tokens(decoder.batch, nodes, rng)
    laps.verify(of, nodes + 1, decoder, Tree(tokens=tokens, parents=(np.arange(nodes) - 1) // 2))


def draft_model(laps: Laps, draft: ModelDraft, batch: Batch, of: str, rows: int) -> None:
    """Time a draft model's first pass, over what it has not read, and a further one."""
    one, numbers, read = np.ones(1, np.int64), np.full((1, 1), 0.5), batch.lengths - 1

    def first() -> torch.Tensor:
        found = draft.propose(batch, one, numbers).tokens
        draft.context.roll_back(np.minimum(draft.context.lengths, read))
        return found

    def step() -> None:
        Draws(draft.rule).choose(draft.read(drafted, np.ones((1, 1), bool), []), numbers[:, 0])

    pass_before(batch)
    draft.context.roll_back(batch.lengths - rows)
    drafted = laps.time(Part(of, FIRST, rows, 1), first)
    laps.time(Part(of, STEP, 1, 1), step)
    draft.context.roll_back(read)


def eagle_head(laps: Laps, reader: Reader, batch: Batch, of: str, rows: int, wide: int) -> None:
    """Time a head's first pass, over what was committed, and one over so many nodes behind it."""
    read, kept = batch.lengths - 1, (reader.read, reader.last)
    reader.note(reader.last[:, None].expand(1, rows, -1), np.ones((1, rows), bool))
    reader.read = read - rows
    at, width = int(read[0]), int(read[0]) + 1 + wide
    sees = np.zeros((1, wide, width), bool)
    sees[..., 1 : at + 1] = True
    sees[0, np.arange(wide), at + 1 + np.arange(wide)] = True
    tokens = torch.from_numpy(batch.tokens[:, at - wide : at] if at >= wide else batch.tokens[:, :1].repeat(wide, 1))

    def first() -> None:
        reader.catch_up(batch)
        likeliest(reader.logits(reader.last))

    def step() -> None:
        features = reader.last[:, None].expand(1, wide, -1)
        columns = at + 1 + np.arange(wide)[None]
        likeliest(reader.logits(reader.step(tokens, features, np.full((1, wide), at), columns, sees)[0]))

    pass_before(batch)
    laps.time(Part(of, FIRST, rows, 1), first)
    laps.time(Part(of, STEP, wide, wide), step)
    reader.read, reader.last = kept


def logits_like(batch: Batch, rows: int, rng: np.random.Generator) -> torch.Tensor:
    """Return some logits, [rows, vocabulary]."""
    model = batch.target.model
    values = torch.from_numpy(3 * rng.standard_normal((rows, model.vocabulary)))
    return values.to(model.device, model.module.dtype)


def grow_eagle(laps: Laps, grower: EagleTree, batch: Batch, of: str, depth: int, rng: np.random.Generator) -> None:
    """Time what the host does of a tree, with passes that answer at once."""
    reader = grower.reader
    table = logits_like(batch, grower.branches, rng)[:, : reader.voice.size]
    answers: Any = SimpleNamespace(read=reader.read, known=np.array([True]), last=reader.last, voice=reader.voice)
    answers.catch_up = lambda batch: 1
    answers.logits = lambda features: table[: len(features)]
    answers.step = lambda tokens, *_: reader.last[:, None].expand(1, tokens.shape[1], -1)
    grower.reader = answers
    laps.time(Part(of, HOST, depth, 0), lambda: grower.grow(batch, depth))
    grower.reader = reader


def draft_tree(laps: Laps, grower: SpecExec, batch: Batch, of: str, rows: int, rng: np.random.Generator) -> None:
    """Time the draft's first pass, and the third: two of as many nodes each are read before it."""
    context, wide, read = grower.context, grower.parallel_branches, batch.lengths - 1
    n, device = int(batch.lengths[0]), context.model.device
    unread = torch.from_numpy(batch.tokens[:, n - rows : n]).to(device)
    nodes = torch.from_numpy(some_tokens(batch, 2 * wide, rng))[None].to(device)
    parents = np.concatenate((np.full(wide, -1), np.arange(wide)))
    pass_before(batch)
    context.roll_back(batch.lengths - rows)
    laps.time(Part(of, FIRST, rows, 1), lambda: context.read(unread, np.ones((1, rows), bool), rows))
    context.read_tree(nodes[:, :wide], parents[:wide])
    laps.time(Part(of, STEP, wide, wide), lambda: context.read_tree(nodes[:, wide:], parents))
    context.keep(n, np.zeros(0, np.int64))
    context.roll_back(read)


def grow_specexec(laps: Laps, grower: SpecExec, batch: Batch, of: str, depth: int, rng: np.random.Generator) -> None:
    """Time what the host does of a tree, with passes that answer at once."""
    context, table = grower.context, logits_like(batch, grower.parallel_branches, rng)[None]
    answers: Any = SimpleNamespace(live=context.live, lengths=context.lengths, model=context.model)
    answers.read = lambda tokens, valid, keep: table[:, :1]
    answers.read_tree = lambda tokens, parents: table[:, : tokens.shape[1]]
    grower.context = answers
    laps.time(Part(of, HOST, depth, 0), lambda: grower.grow(batch, depth))
    grower.context = context


def medusa(laps: Laps, drafter: MedusaDraft | MedusaTree, batch: Batch, of: str, length: int) -> None:
    """Time all heads up to one, and what becomes of what they say."""
    numbers = np.full((1, length), 0.5)
    pass_before(batch)
    if isinstance(drafter, MedusaTree):
        laps.time(Part(of, BLOCK, 1, length), lambda: drafter.grow(batch, length))
    else:
        laps.time(Part(of, BLOCK, 1, length), lambda: drafter.propose(batch, np.array([length]), numbers))


def look_up(laps: Laps, drafter: TextDraft, batch: Batch, of: str, k: int) -> None:
    """Time a search in the text, and what is learnt of a token that is accepted and the one behind it."""
    numbers = np.zeros((1, k))
    logits = torch.zeros(1, k + 1, batch.target.model.vocabulary, device=batch.target.model.device)
    length = len(drafter.texts[0])

    def round_of() -> None:
        proposal = drafter.propose(batch, np.array([k]), numbers)
        seen = Seen(logits=logits, proposal=proposal, rule=None, numbers=numbers)  # type: ignore[arg-type]
        none = np.zeros(1, np.int64)
        verdict = Verdict(seen=seen, accepted=none, following=none, overruled=none, judged=none)
        batch.lengths = batch.lengths + 2
        drafter.learn(batch, verdict, none + 2)

    pass_before(batch)
    with undone(batch):
        laps.time(Part(of, HOST, k, 0), round_of)
    del drafter.texts[0][length:]
