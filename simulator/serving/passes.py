"""What the passes and rounds of a server take: some sequences decode or draft and verify, others read a prompt."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from simulator.costs.drafters.plan import DraftPass, DraftPlan
from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.source import source_passes
from simulator.costs.step import Floats, Real
from simulator.costs.work import ModelShape, Work


class Prompts(NamedTuple):
    """What a pass reads of prompts. chunks: of as many; tokens: of each; before: that the KV cache holds of each.

    ended: of the prompts that come to their end in it, whose last token goes through the output head.
    """

    chunks: Floats
    tokens: Floats
    before: Floats
    ended: Floats

    def work(self, shape: ModelShape) -> Work:
        """Return the work of a model over them."""
        rows = self.ended / np.maximum(self.chunks, 1e-9)
        return shape.work(self.chunks, self.tokens, self.before, rows)._replace(prompts=self.chunks)


class Passes(NamedTuple):
    """The passes of a target, alone or with a drafter beside it; see `passes_of`.

    width: tokens of a sequence that a pass computes. pair, plan: of both, and what a round runs besides; None without
    speculation.
    """

    target: Placed
    width: Floats
    pair: ModelPair | None = None
    plan: DraftPlan | None = None

    def seconds(self, sequences: Floats, context: Floats, prompts: Prompts | None = None) -> Floats:
        """Return the seconds of passes, [*samples, *S]; with speculation of whole rounds.

        Args:
            sequences: That decode.
            context: Tokens that the KV cache holds of each.
            prompts: That are read in the same pass; None: none.
        """
        shape, width, beside = self.target.shape, self.width, () if prompts is None else prompts
        batch, width, context, *_ = np.broadcast_arrays(sequences, width, context, *beside)
        work = shape.work(batch, width, context)
        verify_s = self.target.pass_of_s(work if prompts is None else work.beside(prompts.work(shape)))
        reading = np.zeros(()) if prompts is None else prompts.chunks
        load_s = self.target.engine.under_load_s(shape.layers, np.asarray(batch + reading))
        if prompts is not None and shape.encoder:
            load_s = load_s + self.sources_s(prompts.ended)
        if self.pair is None or self.plan is None:
            return np.asarray(verify_s + load_s)
        verify_s = verify_s * self.pair.off_by(self.pair.verify_normals, self.target, batch, width, context)
        drafts_s, overhead_s = drafts(self.pair, self.plan, batch, context, prompts), self.pair.overhead_s(batch)
        return np.asarray(verify_s + load_s + drafts_s + overhead_s, np.float64)

    def sources_s(self, ended: Floats) -> Floats:
        """Return the seconds in which encoders read the sources of prompts that end, one by one."""
        models = self.target if self.pair is None or self.plan is None else self.pair
        return np.asarray(sum(each.seconds(ended) for each in source_passes(models)) * ended)


def passes_of(models: ModelPair | Placed, draft_length: Real | None) -> Passes:
    """Return the passes of models, with or without speculation; rounds that draft what they find, as on average."""
    if isinstance(models, Placed) or draft_length is None:
        return Passes(models if isinstance(models, Placed) else models.placed_target, np.ones(()))
    plan = models.plan(np.asarray(draft_length, np.int64))
    width = np.asarray(plan.width, np.float64)
    if models.drafted is not None and models.varies:
        each = np.minimum(np.arange(len(models.drafted)), np.asarray(draft_length)[..., None])
        width = np.asarray(1 + each @ np.asarray(models.drafted))
    return Passes(models.placed_target, width, models, plan)


def drafts(pair: ModelPair, plan: DraftPlan, batch: Floats, context: Floats, prompts: Prompts | None) -> Floats:
    """Return the seconds of a round's drafts; the first pass of a drafter with a KV cache reads prompts too."""
    total_s = pair.beside_passes_s(plan, batch)
    for number, of in enumerate(plan.passes):
        beside = prompts if number == 0 and of.shape.attentions else None
        total_s = np.asarray(total_s + of.times * draft_s(pair, of, batch, context, beside), np.float64)
    return total_s


def draft_s(pair: ModelPair, of: DraftPass, batch: Floats, context: Floats, prompts: Prompts | None) -> Floats:
    """Return the seconds of one pass of a drafter; the host waits for prompts once, in the target's pass."""
    if prompts is None:
        return pair.drafted_s(of, batch, context)
    placed = replace(pair.placed_draft, shape=of.shape)
    work = of.shape.work(batch, of.rows, context, of.head_rows).beside(prompts.work(of.shape))
    total_s = placed.total_s(placed.doing(work._replace(prompts=0.0), of.launches))
    return total_s * pair.off_by(pair.draft_normals, placed, batch, of.rows, context)
