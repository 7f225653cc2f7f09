"""What steps of an engine take, from the costs of rounds: tables by sequences and tokens."""

from dataclasses import dataclass, replace

import numpy as np

from acceptance.estimate.engines.price import StepPrice
from acceptance.estimate.play import Counts
from simulator.costs.parameters import Point
from simulator.costs.priced import Pricing
from simulator.costs.step import Floats, Knobs
from simulator.ground.artefacts import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobPrice:
    """Steps in burn units: of a batch compute grows with all its tokens, memory work does not."""

    costs: Knobs

    def plain_s(self, running: Counts) -> Floats:
        """Return the seconds of a step that decodes one token of each sequence."""
        return self.costs.pass_s(running)

    def draft_s(self, running: Counts, passes: Counts) -> Floats:
        """Return the seconds of so many draft passes, or of the one that keeps up."""
        return np.asarray(self.costs.pass_s(running, scale=self.costs.draft_cost) * np.maximum(passes, 1))

    def verify_s(self, running: Counts, tokens: Counts) -> Floats:
        """Return the seconds of the rest of a step that verifies so many tokens."""
        return np.asarray(self.costs.pass_s(tokens) + self.costs.round_overhead_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePrice:
    """Steps by tables, [batch sizes from 1, draft lengths from 0]; verification between two lengths is interpolated."""

    plain: Floats
    draft: Floats
    rest: Floats

    def plain_s(self, running: Counts) -> Floats:
        """Return the seconds of a step that decodes one token of each sequence."""
        return np.asarray(self.plain[np.asarray(running) - 1])

    def draft_s(self, running: Counts, passes: Counts) -> Floats:
        """Return the seconds of drafts of so many passes."""
        return np.asarray(self.draft[np.asarray(running) - 1, passes])

    def verify_s(self, running: Counts, tokens: Counts) -> Floats:
        """Return the seconds of the rest of a step; ragged drafts as those of their mean length."""
        row, last = np.asarray(running) - 1, self.rest.shape[1] - 1
        length = np.clip(np.asarray(tokens) / running - 1, 0, last)
        low = np.minimum(length.astype(np.int64), max(last - 1, 0))
        below, above = self.rest[row, low], self.rest[row, np.minimum(low + 1, last)]
        return np.asarray(below + (above - below) * (length - low))


def step_price(pricing: Pricing, point: Point, most: int, longest: int) -> StepPrice:
    """Return what steps take, of up to `most` sequences and `longest` drafts.

    Raises:
        UserError: These costs are of one sequence, of trees, or of shorter drafts.
    """
    # What never drafts has costs of drafts too: those that keep up with the text.
    point = replace(point, draft_length=max(longest, 1))
    if pricing.models is None:
        costs = pricing.costs(point)
        if isinstance(costs, Knobs):
            return KnobPrice(costs=costs)
        if most > 1:
            raise UserError(f"--batch: {most}, but these costs are of one sequence, expected 1, or models on a profile")
    elif pricing.models.tree is not None:
        raise UserError("--topk and --nodes: policies are of drafts that do not branch, expected no such options")
    running, lengths = np.arange(1, most + 1)[:, None], np.arange(longest + 1)
    costs = pricing.costs(replace(point, batch=running))
    cost, shape = costs.round_cost(lengths), (most, longest + 1)
    # Of a pair that was timed, a pass keeps up too; a method's plan has its own.
    drafting = cost if pricing.models else costs.round_cost(np.maximum(lengths, 1))
    draft, rest = np.broadcast_to(drafting.draft_s, shape), np.broadcast_to(cost.verify_s + cost.overhead_s, shape)
    return TablePrice(plain=np.broadcast_to(cost.baseline_s, shape)[:, 0], draft=draft, rest=rest)
