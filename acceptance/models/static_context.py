"""One sequence in a cache of fixed size, every pass of a shape captured once as a CUDA graph and replayed.

A pass over few tokens is short, and launching its many kernels one by one can take longer than they run. Nothing moves
in such a cache: a rollback sets its length back, and a mask hides what lies behind. Without a GPU the same passes run
uncaptured, which is what the tests compare.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

from . import compat
from .model import Model

WARM_UPS = 3
# Tokens of a pass up to which it is captured: drafts and their verification, not prompts.
MAX_CAPTURED = 64
# Caches are as long as the next multiple, so that sequences of like lengths share one and its graphs.
COLUMNS = 256
MAY_CAPTURE = ContextVar("MAY_CAPTURE", default=True)


@contextmanager
def no_captures() -> Iterator[None]:
    """Capture nothing within: what was captured is replayed, a pass of any other shape runs as it is."""
    before = MAY_CAPTURE.set(False)
    try:
        yield
    finally:
        MAY_CAPTURE.reset(before)


def columns_for(tokens: int) -> int:
    """Return the size of the cache for a sequence of so many tokens."""
    return -(-tokens // COLUMNS) * COLUMNS


class StaticContext:
    """The part of `Context` that chains need, for one sequence and attention that sees everything before it."""

    def __init__(self, model: Model, columns: int, *, keep_hidden: bool = False) -> None:
        """Begin with nothing read.

        Args:
            model: A causal language model.
            columns: Tokens that the cache can hold.
            keep_hidden: As in `Context`.
        """
        self.model, self.columns, self.keep_hidden = model, columns, keep_hidden
        self.hidden: torch.Tensor | None = None
        self.cache = compat.fixed_cache(model.module.config, columns)
        if any(layer.is_sliding for layer in self.cache.layers):
            raise UserError("--cuda-graphs: the model's attention slides over a window, expected one that sees all")
        self.length = 0
        self.passes: dict[tuple[int, int], Pass] = {}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that count, shape [1]."""
        return np.array([self.length])

    @torch.inference_mode()
    def read(self, tokens: torch.Tensor, valid: NDArray[np.bool_], keep: int) -> torch.Tensor:
        """Read further tokens and return the logits of the last `keep`; see `Context.read`."""
        if not valid.all():
            tokens = tokens[:, torch.from_numpy(np.flatnonzero(valid[0])).to(tokens.device)]
        count = tokens.shape[1]
        if self.length + count > self.columns:
            raise UserError(f"--cuda-graphs: {self.length + count} tokens, the cache holds {self.columns}")
        if (count, keep) not in self.passes:
            self.passes[count, keep] = Pass(self, count, keep)
        logits, self.hidden = self.passes[count, keep](tokens, self.length)
        self.length += count
        return logits[:, -keep:, : self.model.vocabulary]

    # The cache's own counter is made in inference mode, and may be changed nowhere else.
    @torch.inference_mode()
    def roll_back(self, lengths: NDArray[np.int64]) -> None:
        """Forget all but the first tokens."""
        self.length = int(lengths[0])
        compat.set_length(self.cache, self.length)

    def select(self, rows: NDArray[np.int64]) -> None:
        """Keep the one row, or none when it has ended."""


# Where a model keeps its contexts and graphs: they go when it goes.
ATTRIBUTE = "_specsim_static_contexts"


def static_context(model: Model, columns: int, *, keep_hidden: bool) -> StaticContext:
    """Return a context with nothing read: the same, with its graphs, for every sequence of like length.

    So a model reads one sequence at a time.
    """
    key = (columns_for(columns), keep_hidden)
    contexts: dict[tuple[int, bool], StaticContext] = model.module.__dict__.setdefault(ATTRIBUTE, {})
    if key not in contexts:
        contexts[key] = StaticContext(model, key[0], keep_hidden=keep_hidden)
    contexts[key].roll_back(np.zeros(1, np.int64))
    contexts[key].hidden = None
    return contexts[key]


def has_graphs(tensor: torch.Tensor) -> bool:
    """Whether work on a tensor can be captured where it is."""
    return bool(tensor.is_cuda)


class Pass:
    """A pass over a fixed number of tokens: inputs and outputs stay where they are."""

    def __init__(self, context: StaticContext, count: int, keep: int) -> None:
        self.context, device = context, context.model.device
        self.keep = keep
        dtype = context.model.module.dtype
        self.tokens = torch.zeros((1, count), dtype=torch.long, device=device)
        self.positions = torch.zeros((1, count), dtype=torch.long, device=device)
        self.mask = torch.zeros((1, 1, count, context.columns), dtype=dtype, device=device)
        self.steps = torch.arange(count, device=device)
        self.places = torch.arange(context.columns, device=device)
        self.graph: Any = None
        self.output: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def __call__(self, tokens: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return logits and hidden states of all tokens; they stay as they are whatever is read later."""
        self.tokens.copy_(tokens)
        torch.add(self.steps, length, out=self.positions[0])
        sees = self.places <= self.positions[0][:, None]
        self.mask.copy_(torch.where(sees, 0.0, torch.finfo(self.mask.dtype).min)[None, None])
        if self.graph is None and self.may_capture(length):
            self.capture(length)
        if self.graph is None:
            return self.run()
        self.graph.replay()
        assert self.output is not None
        logits, hidden = self.output
        return logits.clone(), None if hidden is None else hidden.clone()

    def may_capture(self, length: int) -> bool:
        """Whether this is a step on a GPU. What is read first is a prompt, whose shape is seen too seldom."""
        return MAY_CAPTURE.get() and has_graphs(self.tokens) and length > 0 and self.tokens.shape[1] <= MAX_CAPTURED

    def run(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the model on what the inputs hold."""
        context = self.context
        output = compat.read_on(
            context.model.module,
            self.tokens,
            context.cache,
            attention_mask=self.mask,
            position_ids=self.positions,
            logits_to_keep=self.keep,
            **({"output_hidden_states": True} if context.keep_hidden else {}),
            **compat.places(context.cache, self.positions),
        )
        return output.logits, output.hidden_states[-1] if context.keep_hidden else None

    def capture(self, length: int) -> None:
        """Capture the pass. What warming up and capturing leave in the cache is overwritten by the first replay."""
        device = self.tokens.device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self.run()
                    compat.set_length(self.context.cache, length)
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self.output = self.run()
        compat.set_length(self.context.cache, length)
        self.graph = graph
