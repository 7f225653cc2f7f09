"""A model and what it has read of a batch of sequences: KV cache, ragged lengths, and rollback."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import compat
from .model import Model
from .source import Encoded, encode

# Logits of one forward pass, in fp32: more columns than fit are read in several passes.
LOGITS_BYTES = 128 * 2**20
# Columns without any logits to keep still cost activations.
MAX_COLUMNS = 1024
# Share of dead columns in a ragged batch's cache above which it is packed anew.
MAX_DEAD = 0.25

# Families whose attention goes by columns without a sliding layer to say so.
COLUMN_COUNTERS = ("gpt_neo", "mpt")

Flags = NDArray[np.bool_]


class Context:
    """The cache holds one column for each column that was read; `live` says which of them count, row by row.

    A rollback of a ragged batch leaves dead columns behind, masked out of attention; positions count live columns
    alone. One sequence never has any: its cache is cut. The columns are those of an encoder-decoder model's decoder;
    what it keeps of its source is made once, and never rolled back.
    """

    def __init__(self, model: Model, rows: int, *, keep_hidden: bool = False, encoded: Encoded | None = None) -> None:
        """Begin with nothing read.

        Args:
            model: A language model.
            rows: Sequences.
            keep_hidden: Whether `hidden` holds the last hidden states of all columns of the last read.
            encoded: What the encoder made of the sources, of an encoder-decoder model.
        """
        self.model, self.keep_hidden, self.encoded = model, keep_hidden, encoded
        self.hidden: torch.Tensor | None = None
        config = model.module.config
        self.live: Flags = np.zeros((rows, 0), bool)
        self.never = torch.tensor(model.never, dtype=torch.long, device=model.device) if model.never else None
        if model.encodes:
            self.cache = compat.growing_cache()
            self.both, self.of_source = compat.cross_cache(self.cache)
            self.slides = self.counts_columns = compat.table_of_positions(model.module) is None
            return
        self.cache = compat.growing_cache(config)
        self.slides = compat.slides(self.cache)
        if self.slides:
            # A layer that has dropped what left its window cannot be rolled back; the mask still slides.
            self.cache = compat.growing_cache()
        self.counts_columns = config.model_type in COLUMN_COUNTERS
        self.slides = self.slides or self.counts_columns

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that count, shape [rows]."""
        return np.asarray(self.live.sum(1), np.int64)

    @torch.inference_mode()
    def read(self, tokens: torch.Tensor, valid: Flags, keep: int) -> torch.Tensor:
        """Read further columns and return the logits of the last `keep`, [rows, keep, vocabulary], as the model's type.

        Args:
            tokens: Shape [rows, columns]; where not valid, any token.
            valid: Which of them count, shape [rows, columns].
            keep: 1..columns.
        """
        columns = tokens.shape[1]
        widest = columns_a_chunk(len(tokens), self.model.vocabulary)
        ahead = columns - keep
        step = MAX_COLUMNS if compat.keeps_logits(self.model.module) else min(MAX_COLUMNS, widest)
        breaks = self.breaks(valid)
        self.hidden = None
        parts, kept_parts = passes(0, ahead, step, breaks), passes(ahead, columns, widest, breaks)
        if parts and ahead not in breaks and kept_parts[0].stop - parts[-1].start <= step:
            # What nobody asks the logits of is read along with what they are asked of.
            parts, kept_parts = parts[:-1], [slice(parts[-1].start, kept_parts[0].stop), *kept_parts[1:]]
        for part in parts:
            self.forward(tokens[:, part], valid[:, part], 1)
        kept = [
            self.forward(tokens[:, part], valid[:, part], part.stop - max(part.start, ahead)) for part in kept_parts
        ]
        return kept[0] if len(kept) == 1 else torch.cat(kept, dim=1)

    def breaks(self, valid: Flags) -> list[int]:
        """Return the columns before which a pass has to end.

        A sliding window counts columns, so none may be dead between a row's own: a row that goes on behind padding
        waits for the next pass, before which its columns are packed.
        """
        if not self.slides:
            return []
        before = self.lengths[:, None] + valid.cumsum(1) > 0
        return [int(c) + 1 for c in np.flatnonzero((before[:, :-1] & ~valid[:, :-1] & valid[:, 1:]).any(0))]

    def forward(self, tokens: torch.Tensor, valid: Flags, keep: int) -> torch.Tensor:
        """One pass of the model over columns that follow those in the cache."""
        if self.slides and (self.live[:, :-1] & ~self.live[:, 1:]).any():
            self.pack(int(self.lengths.max()))
        self.live = np.concatenate((self.live, valid), axis=1)
        positions = np.maximum(self.live.cumsum(1)[:, -tokens.shape[1] :] - 1, 0)
        mask = None if self.live.all() else torch.from_numpy(self.live).to(tokens.device).long()
        return self.run(tokens, positions, mask, keep)

    def run(self, tokens: torch.Tensor, positions: NDArray[np.int64], mask: Any, keep: int) -> torch.Tensor:
        """Run the model over columns that follow those in its cache; mask: as the model takes it."""
        if self.encoded is not None:
            places = None if mask is None else torch.from_numpy(positions).to(tokens.device)
            source = self.encoded.states, self.encoded.mask
            output = compat.decode_on(self.model.module, tokens, self.both, *source, mask=mask, positions=places)
            return self.barred(output.logits[:, -keep:, : self.model.vocabulary], positions[:, -keep:])
        more = {"output_hidden_states": True} if self.keep_hidden else {}
        output = compat.read_on(
            self.model.module,
            tokens,
            self.cache,
            attention_mask=mask,
            logits_to_keep=min(keep, tokens.shape[1]),
            position_ids=torch.from_numpy(positions).to(tokens.device),
            **more,
        )
        if self.keep_hidden:
            last = output.hidden_states[-1]
            self.hidden = last if self.hidden is None else torch.cat((self.hidden, last), dim=1)
        return output.logits[:, -keep:, : self.model.vocabulary]

    def barred(self, logits: torch.Tensor, positions: NDArray[np.int64]) -> torch.Tensor:
        """Give no weight to what a model may not write, in place; positions: of the columns, [rows, columns]."""
        model = self.model
        if self.never is not None:
            logits.index_fill_(-1, self.never, -torch.inf)
        if model.never_first and (begins := positions == len(model.first) - 1).any():
            rows, columns = (torch.from_numpy(at)[:, None].to(logits.device) for at in np.nonzero(begins))
            logits[rows, columns, torch.tensor(model.never_first, device=logits.device)] = -torch.inf
        return logits

    @torch.inference_mode()
    def read_tree(self, tokens: torch.Tensor, parents: NDArray[np.int64]) -> torch.Tensor:
        """Read a tree of tokens behind one sequence in one pass; each token sees the sequence and its own ancestors.

        A tree may be read in several passes: its earlier nodes are then in the cache, in their order, and stay there
        until `keep` says which of them count.

        Args:
            tokens: Of the nodes not read yet, the last of the tree, shape [1, new]; a parent before its children.
            parents: Index of each node's parent, -1 for one that follows the sequence; of all nodes, shape [nodes].

        Returns:
            Logits behind every new node, [1, new, vocabulary].
        """
        new, nodes = tokens.shape[1], len(parents)
        before = self.live.shape[1] - (nodes - new)
        sees = np.eye(nodes, dtype=bool)
        for node, parent in enumerate(parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        columns = np.concatenate((np.arange(before), before + sees.sum(1) - 1))
        positions = columns[-new:]
        mask = np.concatenate((np.ones((new, before), bool), sees[nodes - new :]), axis=1)
        self.live = np.ones((1, before + nodes), bool)
        self.hidden = None
        return self.run(tokens, positions[None], self.tree_masks(mask, positions[:, None] - columns), new)

    def tree_masks(self, sees: Flags, back: NDArray[np.int64]) -> Any:
        """Return which columns each node is kept from, as what is added to its scores: a mask, or one a kind of layer.

        sees: apart from windows, [new, columns]. back: how far each column lies behind a node.
        """
        dtype, device = self.model.module.dtype, self.model.device

        def added(sees: Flags) -> torch.Tensor:
            nothing = torch.zeros(sees.shape, dtype=dtype)
            return nothing.masked_fill(torch.from_numpy(~sees), torch.finfo(dtype).min)[None, None].to(device)

        if not self.slides:
            return added(sees)
        windows = compat.windows(self.model.module.config)
        masks = {kind: added(sees if window is None else sees & (back < window)) for kind, window in windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    # What was read in inference mode may be changed nowhere else.
    @torch.inference_mode()
    def keep(self, before: int, columns: NDArray[np.int64]) -> None:
        """Of one sequence, keep the first columns of the cache where they are, and of the others these alone.

        Args:
            before: How many stay.
            columns: Of those behind them, in ascending order.
        """
        count, end = len(columns), before + len(columns)
        first = int((columns == before + np.arange(count)).sum())  # in their places already
        for layer in self.cache.layers:
            if layer.is_initialized and first < count:
                index = torch.from_numpy(columns[first:]).to(layer.keys.device)
                for held in (layer.keys, layer.values):
                    held[:, :, before + first : end] = held.index_select(2, index)
        self.live = np.ones((1, self.live.shape[1]), bool)
        self.roll_back(np.array([end]))

    def roll_back(self, lengths: NDArray[np.int64]) -> None:
        """Forget all but the first tokens of each row.

        Args:
            lengths: How many stay, at most those there are; shape [rows].
        """
        self.live = self.live & (self.live.cumsum(1) <= lengths[:, None])
        used = int(np.flatnonzero(self.live.any(0)).max(initial=-1)) + 1
        if used < self.live.shape[1]:
            compat.cut(self.cache, self.live.shape[1] - used)
            self.live = self.live[:, :used]
        width = int(self.lengths.max(initial=0))
        if width < used * (1 - MAX_DEAD):
            self.pack(width)

    def pack(self, width: int) -> None:
        """Move the live columns of every row to the right, so that only padding on the left is dead."""
        order = np.argsort(self.live, axis=1, kind="stable")[:, -width:]
        self.live = np.take_along_axis(self.live, order, axis=1)
        for layer in self.cache.layers:
            if not layer.is_initialized:  # a layer that borrows another's keys has none of its own
                continue
            index = torch.from_numpy(order).to(layer.keys.device)[:, None, :, None]
            layer.keys = layer.keys.gather(2, index.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3]))
            layer.values = layer.values.gather(2, index.expand(-1, layer.values.shape[1], -1, layer.values.shape[3]))

    def select(self, rows: NDArray[np.int64]) -> None:
        """Keep only these rows of the batch, in this order."""
        self.live = self.live[rows]
        # On the processor: the layers of a model may be on several devices, and each takes such an index.
        self.cache.batch_select_indices(torch.from_numpy(rows))
        if self.encoded is not None:
            self.of_source.batch_select_indices(torch.from_numpy(rows))
            self.encoded = self.encoded.select(rows)


def context_of(
    model: Model, prompts: Sequence[Sequence[int]], *, keep_hidden: bool = False, beside: Encoded | None = None
) -> Context:
    """Return a context for prompts of which nothing is read but their sources, see `source.encode`."""
    return Context(model, len(prompts), keep_hidden=keep_hidden, encoded=encode(model, prompts, beside))


def columns_a_chunk(rows: int, vocabulary: int) -> int:
    """Return how many columns of logits a pass may keep."""
    return max(1, LOGITS_BYTES // (4 * rows * vocabulary))


def passes(first: int, last: int, most: int, breaks: list[int]) -> list[slice]:
    """Cut columns first..last into passes of at most so many, and at breaks."""
    cuts = sorted({*range(first, last, most), *(b for b in breaks if first < b < last), last})
    return [slice(a, b) for a, b in pairwise(cuts)]


def padded(rows: list[list[int]], device: Any) -> tuple[torch.Tensor, Flags]:
    """Return token lists as one batch, padded on the left: tokens and which are valid, [rows, longest]."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    valid = np.arange(longest) >= longest - np.array([len(row) for row in rows])[:, None]
    return tokens, valid
