"""Exact speculative decoding: a draft proposes, one target pass verifies, both caches roll back (model §1).

The output's law is the target's own under the rule (Leviathan et al. 2023, algorithm 1; Chen et al. 2023); greedy
output is the target's greedy output. One sequence or a ragged batch, in which every row has its own draft length and
goes on at its own pace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance import laws
from acceptance.context import Context, padded
from acceptance.models import Model
from acceptance.rule import SamplingRule

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: where in the output it began, what it drafted, accepted and committed.

    cut_by: "eos" or "max" where the end of sequence or the budget left no room for all it could have committed.
    """

    start: int
    drafted: int
    accepted: int
    committed: int
    cut_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An output and the rounds that made it."""

    tokens: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What the draft proposes for a round.

    tokens: [rows, longest]. laws: q that each was drawn from, [rows, longest, vocabulary]; none for a greedy draft,
    whose laws are point masses.
    """

    tokens: torch.Tensor
    laws: torch.Tensor | None

    def masses(self, vocabulary: int) -> torch.Tensor:
        """Return q, [rows, longest, vocabulary]."""
        if self.laws is not None:
            return self.laws
        return torch.nn.functional.one_hot(self.tokens, vocabulary).float()


@dataclass(slots=True, kw_only=True)
class Batch:
    """The rows still running: committed tokens, and what each model has read of them.

    tokens: prompt and output, [rows, longest prompt + budget]. lengths: how many are committed. budget: how many more
    may be. index: which prompt each row is.
    """

    tokens: Ints
    lengths: Ints
    budget: Ints
    index: Ints
    target: Context
    draft: Context

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        for name in ("tokens", "lengths", "budget", "index"):
            setattr(self, name, getattr(self, name)[rows])
        self.target.select(rows)
        self.draft.select(rows)


def start(target: Model, draft: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Batch:
    """Read all prompts but their last token, which the first round reads."""
    rows = len(prompts)
    lengths = np.array([len(p) for p in prompts])
    tokens = np.zeros((rows, int(lengths.max()) + max_new_tokens), np.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    contexts = [Context(model, rows) for model in (target, draft)]
    if lengths.max() > 1:
        for context in contexts:
            context.read(*padded([list(p[:-1]) for p in prompts], context.model.device), 1)
    return Batch(
        tokens=tokens,
        lengths=lengths,
        budget=np.full(rows, max_new_tokens),
        index=np.arange(rows),
        target=contexts[0],
        draft=contexts[1],
    )


def unread(batch: Batch, context: Context) -> tuple[torch.Tensor, Flags]:
    """Return the committed tokens that a context has not read, padded on the left."""
    rows = [row[seen:n].tolist() for row, seen, n in zip(batch.tokens, context.lengths, batch.lengths, strict=True)]
    return padded(rows, context.model.device)


def propose(batch: Batch, lengths: Ints, rule: SamplingRule, numbers: NDArray[np.float64]) -> Proposal:
    """Draft up to lengths[row] tokens for each row, one after another.

    Args:
        batch: The rows.
        lengths: How many each row drafts, shape [rows].
        rule: What the draft samples from.
        numbers: Uniform numbers, [rows, at least the longest].
    """
    if not lengths.any():
        return Proposal(tokens=torch.zeros((len(lengths), 0), dtype=torch.long), laws=None)
    tokens, valid = unread(batch, batch.draft)
    drafted, drafted_from = [], []
    for step in range(int(lengths.max())):
        logits = batch.draft.read(tokens, valid, 1)[:, 0]
        if rule.is_greedy:
            chosen = logits.argmax(-1)
        else:
            drafted_from.append(laws.probabilities(logits, rule))
            chosen = laws.draw(drafted_from[-1], laws.uniforms_like(logits, numbers[:, step]))
        drafted.append(chosen)
        tokens, valid = chosen[:, None], (step + 1 < lengths)[:, None]
    return Proposal(tokens=torch.stack(drafted, 1), laws=torch.stack(drafted_from, 1) if drafted_from else None)


def verify(
    logits: torch.Tensor,
    proposal: Proposal,
    lengths: Ints,
    rule: SamplingRule,
    numbers: NDArray[np.float64],
) -> tuple[Ints, Ints]:
    """Accept or reject what was drafted, and draw the token that follows.

    Args:
        logits: The target's for each drafted token and the one after the last, [rows, longest + 1, vocabulary].
        proposal: What was drafted.
        lengths: How many tokens of the proposal count, [rows].
        rule: What the target samples from.
        numbers: Uniform numbers, [rows, more than the longest]; the last column draws the correction or the bonus.

    Returns:
        Accepted tokens of each row, and the token after them: the correction, or the bonus if all were accepted.
    """
    device, longest = logits.device, proposal.tokens.shape[1]
    counts = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(device)
    drafted = proposal.tokens.to(device)
    if rule.is_greedy:
        choice = logits.argmax(-1)
        accepted = ((choice[:, :longest] == drafted) & counts).long().cumprod(1).sum(1)
        return accepted.cpu().numpy(), choice.gather(1, accepted[:, None])[:, 0].cpu().numpy()
    p, q = laws.probabilities(logits, rule), proposal.masses(logits.shape[-1]).to(device)
    uniforms = laws.uniforms_like(logits, numbers)
    keeps = uniforms[:, :longest] < laws.acceptance(p[:, :longest], q, drafted)
    accepted = (keeps & counts).long().cumprod(1).sum(1)
    row = torch.arange(len(p), device=device)
    following = p[row, accepted]
    if longest:
        rejected = accepted < torch.from_numpy(lengths).to(device)
        correction = laws.residual(following, q[row, accepted.clamp(max=longest - 1)])
        following = torch.where(rejected[:, None], correction, following)
    return accepted.cpu().numpy(), laws.draw(following, uniforms[:, -1]).cpu().numpy()


def commit(batch: Batch, proposal: Ints, accepted: Ints, following: Ints, ends: Sequence[int]) -> tuple[Ints, Flags]:
    """Append what a round decided, cut behind an end of sequence; both caches forget what was rejected.

    Returns:
        Tokens committed by each row, and whether an end of sequence is the last of them.
    """
    columns = np.arange(proposal.shape[1] + 1)
    new = np.concatenate((proposal, following[:, None]), axis=1)
    new[np.arange(len(new)), accepted] = following
    is_end = np.isin(new, ends) & (columns <= accepted[:, None])
    first_end = np.where(is_end.any(1), is_end.argmax(1), accepted)
    committed = first_end + 1
    for row, tokens, n, more in zip(batch.tokens, new, batch.lengths, committed, strict=True):
        row[n : n + more] = tokens[:more]
    batch.lengths = batch.lengths + committed
    batch.budget = batch.budget - committed
    for context in (batch.target, batch.draft):
        context.roll_back(np.minimum(context.lengths, batch.lengths - 1))
    return committed, np.asarray(is_end.any(1))


def decode(
    target: Model,
    draft: Model,
    prompts: Sequence[Sequence[int]],
    *,
    k: int,
    rule: SamplingRule,
    draft_rule: SamplingRule,
    max_new_tokens: int,
    rngs: Sequence[np.random.Generator],
) -> list[Decoded]:
    """Continue a batch of prompts with draft length k.

    A row never drafts more than its budget less one: the round's own token fills the rest.

    Args:
        target: A causal language model.
        draft: Another with the same vocabulary.
        prompts: Token ids, none empty.
        k: Draft length, >= 1.
        rule: What the target samples from.
        draft_rule: What the draft samples from.
        max_new_tokens: Budget of each output.
        rngs: A random stream for each prompt.
    """
    outputs = [Decoded() for _ in prompts]
    batch = start(target, draft, prompts, max_new_tokens)
    while len(batch.index):
        lengths = np.minimum(k, batch.budget - 1)
        longest = int(lengths.max())
        # Drafts, acceptances, and the token that follows; as many in every round, whatever the other rows do.
        numbers = np.array([rngs[i].random(2 * k + 1) for i in batch.index])
        proposal = propose(batch, lengths, draft_rule, numbers[:, :k])
        tokens, valid = unread(batch, batch.target)
        tokens = torch.cat((tokens, proposal.tokens.to(tokens.device)), dim=1)
        valid = np.concatenate((valid, np.arange(longest) < lengths[:, None]), axis=1)
        logits = batch.target.read(tokens, valid, longest + 1)
        accepted, following = verify(logits, proposal, lengths, rule, numbers[:, k:])
        starts = max_new_tokens - batch.budget
        committed, ended = commit(batch, proposal.tokens.cpu().numpy(), accepted, following, target.ends)
        for row, i in enumerate(batch.index):
            cut_by = "eos" if committed[row] <= accepted[row] else "max" if lengths[row] < k else ""
            outputs[i].rounds.append(
                Round(
                    start=int(starts[row]),
                    drafted=int(lengths[row]),
                    accepted=int(accepted[row]),
                    committed=int(committed[row]),
                    cut_by=cut_by,
                )
            )
            n = batch.lengths[row]
            outputs[i].tokens.extend(batch.tokens[row, n - committed[row] : n].tolist())
        running = np.flatnonzero((batch.budget > 0) & ~ended)
        if len(running) < len(batch.index):
            batch.select(running)
    return outputs
