"""A draft model that proposes tokens one after another, and may stop when it is no longer sure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from acceptance.models import laws
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Batch, Flags, Floats, Ints, read_prompts, unread
from .chain import Draws, Proposal, Verdict


class Lane:
    """The CUDA stream that a draft works on: its own, or whichever is current."""

    def __init__(self, model: Model) -> None:
        self.stream = torch.cuda.Stream(model.device) if model.own_stream else None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work that needs nothing of the other stream's."""
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            yield

    @contextmanager
    def after(self) -> Iterator[None]:
        """Work that comes after all that the other stream was given, and before all that it will be given.

        So no stream touches memory that the other still uses.
        """
        if self.stream is None:
            yield
            return
        other = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(other)
        with torch.cuda.stream(self.stream):
            yield
        other.wait_stream(self.stream)


class ModelDraft:
    """A smaller language model of the same vocabulary."""

    def __init__(
        self,
        model: Model,
        rule: SamplingRule,
        *,
        least_confidence: float = 0.0,
        keep_hidden: bool = False,
        keep_confidence: bool = False,
        keep_logits: bool = False,
    ) -> None:
        """Take a model and what it samples from.

        least_confidence: a draft ends before the first token at which the largest probability is below this; the pass
        that found out is paid. keep_hidden: read the last drafted token as well, and hand on the hidden states of all.
        keep_confidence: hand on how probable each drafted token was. keep_logits: hand on logits in place of laws.
        """
        self.model, self.rule, self.lane = model, rule, Lane(model)
        self.least_confidence, self.keep_hidden, self.keep_confidence = least_confidence, keep_hidden, keep_confidence
        self.keep_logits = keep_logits

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Read all prompts but their last token; on a stream of its own, while the target reads them."""
        self.vocabulary = batch.target.model.vocabulary
        # A model that is its own draft cannot read both sequences in one cache of fixed size.
        is_separate = self.model.module is not batch.target.model.module
        model = replace(self.model, graphs=self.model.graphs and is_separate)
        with self.lane.beside():
            columns, kept = batch.tokens.shape[1], self.keep_hidden
            self.context = read_prompts(model, prompts, columns, keep_hidden=kept, beside=batch.target)

    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Draft one token after another."""
        with self.lane.after():
            return self.drafted(batch, lengths, numbers)

    def drafted(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Draft on the stream that is current."""
        drafted: list[torch.Tensor] = []
        draws = Draws(self.rule, keep_logits=self.keep_logits)
        hidden: list[torch.Tensor] = []
        tokens, valid = unread(batch, self.context)
        confidence = [tokens.new_zeros((len(lengths), 0), dtype=torch.float32)]
        passes = np.zeros(len(lengths), np.int64)
        for step in range(int(lengths.max())):
            if lengths.max() <= step:
                break
            logits = self.read(tokens, valid, hidden)
            passes += lengths > step
            lengths = self.stopped(logits, lengths, step)
            if lengths.max() <= step:
                break
            chosen = draws.choose(logits, numbers[:, step])
            drafted.append(chosen)
            if self.keep_confidence:
                confidence.append(self.soft_law(logits).gather(-1, chosen[:, None]))
            tokens, valid = chosen[:, None], (step + 1 < lengths + self.keep_hidden)[:, None]
        if self.keep_hidden and len(hidden) == len(drafted) > 0:
            self.read(tokens, (len(drafted) <= lengths)[:, None], hidden)
            passes += lengths > 0
        return Proposal(
            tokens=torch.stack(drafted, 1) if drafted else torch.zeros((len(lengths), 0), dtype=torch.long),
            lengths=lengths,
            **draws.parts(),
            passes=passes,
            hidden=torch.cat(hidden[1 : len(drafted) + 1], dim=1) if self.keep_hidden and drafted else None,
            confidence=torch.cat(confidence, dim=1) if self.keep_confidence else None,
        )

    def read(self, tokens: torch.Tensor, valid: Flags, hidden: list[torch.Tensor]) -> torch.Tensor:
        """Return the next logits, [rows, the target's vocabulary]; note the hidden states they come from."""
        logits = laws.widened(self.context.read(tokens, valid, 1)[:, 0], self.vocabulary)
        if self.context.hidden is not None:
            hidden.append(self.context.hidden[:, -1:])
        return logits

    def stopped(self, logits: torch.Tensor, lengths: Ints, step: int) -> Ints:
        """Return the draft lengths, cut to `step` for rows that are no longer sure."""
        if not self.least_confidence:
            return lengths
        unsure = self.soft_law(logits).amax(-1) < self.least_confidence
        return np.where((lengths > step) & unsure.cpu().numpy(), step, lengths)

    def soft_law(self, logits: torch.Tensor) -> torch.Tensor:
        """Return how sure the draft is of each token; a greedy one, whose law is a point mass, as at temperature 1."""
        return laws.probabilities(logits, SamplingRule(temperature=1.0) if self.rule.is_greedy else self.rule)

    def learn(self, batch: Batch, verdict: Verdict, committed: Ints) -> None:
        """Forget what was rejected."""
        with self.lane.after():
            self.context.roll_back(np.minimum(self.context.lengths, batch.lengths - 1))

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        with self.lane.after():
            self.context.select(rows)
