"""Chains: K tokens proposed one behind another, one target pass over K + 1 positions, a rule that accepts (model §1).

Who proposes, who accepts and who chooses K are parts of their own. One sequence or a ragged batch, in which every row
has its own draft length and goes on at its own pace.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.profiler import record_function

from acceptance.models import laws
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Batch, Floats, Ints, Round, Task, commit, start, unread
from .decoder import still_running
from .samplers import Sampler, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What is drafted for a round.

    tokens: [rows, longest]. lengths: how many of them count, [rows]. laws: q that each was drawn from, [rows, longest,
    vocabulary]; none where each is a first choice, whose law is a point mass. passes: the draft's, for each row.
    hidden: the draft's last hidden states at the drafted tokens, [rows, longest, d], and confidence: q(x) of each, of a
    greedy draft at temperature 1, [rows, longest]; where a rule asks for them. logits, rule: in place of `laws`, where
    a sampler reads them, what each was drawn from, [rows, longest, vocabulary], and how.
    """

    tokens: torch.Tensor
    lengths: Ints
    passes: Ints
    laws: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    rule: SamplingRule | None = None

    def masses(self, vocabulary: int) -> torch.Tensor:
        """Return q, [rows, longest, vocabulary]."""
        if self.laws is not None:
            return self.laws
        return torch.nn.functional.one_hot(self.tokens, vocabulary).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the target says of a proposal.

    logits: for each drafted token and the one behind the last, [rows, longest + 1, vocabulary]. numbers: uniform, one
    for each decision, [rows, longest + 1]; the last draws the token behind the accepted ones. hidden: the target's
    last hidden states at the last committed token and the drafted ones, [rows, longest + 1, d], where they are kept.
    """

    logits: torch.Tensor
    proposal: Proposal
    rule: SamplingRule
    numbers: Floats
    hidden: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Accepted tokens of each row, the token behind them, and what `Round` says of overruled and judged tokens."""

    seen: Seen
    accepted: Ints
    following: Ints
    overruled: Ints
    judged: Ints


class Kept(NamedTuple):
    """Which drafted tokens may stay, whatever becomes of those before them; and which of them a trained judge decides
    on, where there is one. bool [rows, longest] each.
    """

    stays: torch.Tensor
    judged: torch.Tensor | None = None


class Drafter(Protocol):
    """Proposes tokens. Keeps its own caches."""

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Take note of prompts, of which the target has read all but the last token."""

    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Draft up to lengths[row] tokens for each row; numbers are uniform, [rows, at least the longest]."""

    def learn(self, batch: Batch, verdict: Verdict, committed: Ints) -> None:
        """Take note of a round that is committed, and forget what was rejected."""

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""


class Acceptance(Protocol):
    """A rule that accepts drafted tokens one by one, up to the first that it does not."""

    is_exact: bool

    def keeps(self, seen: Seen) -> Kept:
        """Decide on every drafted token."""

    def correction(self, target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
        """Return weights to draw the token behind a rejection from; p, q and result [rows, vocabulary]."""


class Exact:
    """Leviathan et al. 2023, algorithm 1: the output's law is the target's own; greedy: first choices alone stay."""

    is_exact = True

    def keeps(self, seen: Seen) -> Kept:
        """Accept x ~ q with probability min(1, p(x) / q(x))."""
        drafted = seen.proposal.tokens.to(seen.logits.device)
        longest = drafted.shape[1]
        if seen.rule.is_greedy:
            return Kept(laws.likeliest(seen.logits[:, :longest]) == drafted)
        p = laws.probabilities(seen.logits[:, :longest], seen.rule)
        if seen.proposal.laws is None:
            chance = p.gather(-1, drafted[..., None])[..., 0]
        else:
            chance = laws.acceptance(p, seen.proposal.laws.to(p.device), drafted)
        return Kept(laws.uniforms_like(p, seen.numbers)[:, :longest] < chance)

    def correction(self, target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
        """Draw from what p has beyond q."""
        return laws.residual(target, draft)


# Of some tokens to all of them: values, and what the missing have.
Widened = Callable[[torch.Tensor, float], torch.Tensor]


class Draws:
    """Draws drafted tokens, and keeps what they were drawn from: laws, or logits where a sampler reads these.

    Nothing is kept of first choices, whose law is a point mass.
    """

    def __init__(self, rule: SamplingRule, *, keep_logits: bool = False) -> None:
        """Take what is sampled from."""
        self.rule, self.keep_logits = rule, keep_logits
        self.kept: list[torch.Tensor] = []

    def choose(self, logits: torch.Tensor, numbers: Floats) -> torch.Tensor:
        """Return the next drafted tokens, [...], of logits, [..., vocabulary]; numbers are uniform, [...]."""
        if self.rule.is_greedy:
            return laws.likeliest(logits)
        law = laws.probabilities(logits, self.rule)
        self.kept.append(logits if self.keep_logits else law)
        return laws.draw(law, laws.uniforms_like(logits, numbers))

    def parts(self, widened: Widened = lambda kept, missing: kept) -> dict[str, Any]:
        """Return what a `Proposal` says of one draw behind another; widened: to all tokens, see `drawn_from`."""
        if not self.kept:
            return {}
        return drawn_from(torch.stack(self.kept, 1), self.rule, widened, are_logits=self.keep_logits)


def drawn_from(kept: torch.Tensor, rule: SamplingRule, widened: Widened, *, are_logits: bool) -> dict[str, Any]:
    """Return what a `Proposal` says of what drafts were drawn from, laws or logits, [rows, longest, any].

    widened: makes it of all tokens, told what those have that are missing.
    """
    return {"logits": widened(kept, -torch.inf), "rule": rule} if are_logits else {"laws": widened(kept, 0.0)}


class Lengths(Protocol):
    """Chooses how many tokens each row drafts."""

    most: int

    def lengths(self, index: Ints) -> Ints:
        """Return the draft length of each of these prompts."""

    def learn(self, index: Ints, drafted: Ints, accepted: Ints) -> None:
        """Take note of a round of these prompts."""


class FixedLength:
    """The same draft length every round."""

    def __init__(self, k: int) -> None:
        self.most = k

    def lengths(self, index: Ints) -> Ints:
        """Return K for all."""
        return np.full(len(index), self.most)

    def learn(self, index: Ints, drafted: Ints, accepted: Ints) -> None:
        """Learn nothing."""


class Chain:
    """A decoder whose proposals are chains."""

    def __init__(
        self,
        target: Model,
        drafter: Drafter,
        prompts: Sequence[Sequence[int]],
        task: Task,
        *,
        lengths: Lengths,
        acceptance: Acceptance | None = None,
        sampler: Sampler | None = None,
        keep_hidden: bool = False,
    ) -> None:
        """Read the prompts. No row drafts more than its budget less one. sampler: decides in place of `acceptance`."""
        self.task, self.drafter, self.controller = task, drafter, lengths
        self.acceptance: Acceptance = acceptance or Exact()
        self.sampler = sampler
        self.batch = start(target, prompts, task.max_new_tokens, keep_hidden=keep_hidden)
        self.numbers = np.zeros((0, 0))
        drafter.start(self.batch, prompts)

    def propose(self) -> Proposal:
        """Draft for every row."""
        most = self.controller.most
        # Drafts, acceptances, and the token that follows; as many in every round, whatever the other rows do.
        self.numbers = np.array([self.task.rngs[i].random(2 * most + 1) for i in self.batch.index])
        lengths = np.minimum(self.controller.lengths(self.batch.index), self.batch.budget - 1)
        return self.drafter.propose(self.batch, lengths, self.numbers[:, :most])

    def verify(self, proposal: Proposal) -> Verdict:
        """Let the target read the drafts behind what it has not read yet, and accept."""
        longest = proposal.tokens.shape[1]
        tokens, valid = unread(self.batch, self.batch.target)
        tokens = torch.cat((tokens, proposal.tokens.to(tokens.device)), dim=1)
        valid = np.concatenate((valid, np.arange(longest) < proposal.lengths[:, None]), axis=1)
        logits = self.batch.target.read(tokens, valid, longest + 1)
        self.task.mark("verify")
        hidden = self.batch.target.hidden
        numbers = self.numbers[:, self.controller.most :]
        numbers = np.concatenate((numbers[:, :longest], numbers[:, -1:]), axis=1)
        seen = Seen(
            logits=logits,
            proposal=proposal,
            rule=self.task.rule,
            numbers=numbers,
            hidden=None if hidden is None else hidden[:, -longest - 1 :],
        )
        with record_function("sample"):
            return verify(seen, self.acceptance) if self.sampler is None else sampled(seen, self.sampler)

    def commit(self, proposal: Proposal, verdict: Verdict) -> Ints:
        """Append, roll back, note the rounds."""
        batch, starts = self.batch, self.batch.starts
        new = np.concatenate((proposal.tokens.cpu().numpy(), verdict.following[:, None]), axis=1)
        new[np.arange(len(new)), verdict.accepted] = verdict.following
        committed, ended = commit(batch, new, verdict.accepted, batch.target.model.ends)
        self.task.mark("other")
        batch.target.roll_back(np.minimum(batch.target.lengths, batch.lengths - 1))
        self.task.mark("kv")
        self.drafter.learn(batch, verdict, committed)
        self.task.mark("draft")
        wanted = self.controller.lengths(batch.index)
        self.controller.learn(batch.index, proposal.lengths, verdict.accepted)
        room = batch.budget + committed - 1
        cut_by = np.where(committed <= verdict.accepted, "eos", np.where(wanted > room, "max", ""))
        counts = (starts, proposal.lengths, verdict.accepted, committed, cut_by, proposal.passes)
        columns = (np.asarray(of).tolist() for of in (batch.index, *counts, verdict.overruled, verdict.judged))
        for i, at, drafted, accepted, kept, cut, passes, overruled, judged in zip(*columns, strict=True):
            batch.outputs[i].rounds.append(
                Round(
                    start=at,
                    drafted=drafted,
                    accepted=accepted,
                    committed=kept,
                    cut_by=cut,
                    draft_passes=passes,
                    overruled=int(overruled),
                    judged=int(judged),
                    depth=drafted,
                    leaves=int(drafted > 0),
                )
            )
        return still_running(batch, ended)

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        self.batch.select(rows)
        self.drafter.select(rows)


def verify(seen: Seen, acceptance: Acceptance) -> Verdict:
    """Accept or reject what was drafted, and draw the token that follows: the correction, or the bonus."""
    logits, lengths = seen.logits, seen.proposal.lengths
    device, longest = logits.device, seen.proposal.tokens.shape[1]
    counts = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(device)
    kept = acceptance.keeps(seen)
    stay = (kept.stays & counts).long().cumprod(1)
    accepted = stay.sum(1)
    row = torch.arange(len(logits), device=device)
    greedy = seen.rule.is_greedy
    following = laws.likeliest(logits[row, accepted]) if greedy else draw_following(seen, acceptance, accepted)
    accepts = accepted.cpu().numpy()
    overruled = judged = np.zeros(len(lengths), np.int64)
    if not acceptance.is_exact:
        first = laws.likeliest(logits[:, :longest]) == seen.proposal.tokens.to(device)
        overruled = (stay * (~first if kept.judged is None else kept.judged)).sum(1).cpu().numpy()
    if kept.judged is not None:
        # What ends a chain early the exact rule rejected and the judge refused.
        judged = overruled + (accepts < lengths)
    return Verdict(seen=seen, accepted=accepts, following=following.cpu().numpy(), overruled=overruled, judged=judged)


def sampled(seen: Seen, sampler: Sampler) -> Verdict:
    """Let a sampler accept or reject, and draw the token that follows. What it overrules is not counted."""
    accepted, following = decide(seen, sampler)
    nothing = np.zeros(len(accepted), np.int64)
    return Verdict(seen=seen, accepted=accepted, following=following, overruled=nothing, judged=nothing)


def draw_following(seen: Seen, acceptance: Acceptance, accepted: torch.Tensor) -> Any:
    """Draw the token behind the accepted ones from p, or from what corrects a rejection."""
    row, longest = torch.arange(len(accepted), device=accepted.device), seen.proposal.tokens.shape[1]
    law = laws.probabilities(seen.logits[row, accepted], seen.rule)
    if longest:
        at = accepted.clamp(max=longest - 1)
        q = seen.proposal.laws
        if q is None:
            q_there = torch.nn.functional.one_hot(seen.proposal.tokens.to(law.device)[row, at], law.shape[-1]).float()
        else:
            q_there = q.to(law.device)[row, at]
        rejected = accepted < torch.from_numpy(seen.proposal.lengths).to(law.device)
        law = torch.where(rejected[:, None], acceptance.correction(law, q_there), law)
    return laws.draw(law, laws.uniforms_like(law, seen.numbers[:, -1]))
