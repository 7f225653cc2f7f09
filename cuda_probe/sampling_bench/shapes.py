"""The points of a benchmark of sampling: their axes, the bytes that must be read, the memory that they take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from cuda_probe.probe.probes import ITEM_BYTES, AxisValue
from simulator.ground.artefacts import UserError

CUDA, TORCH, NUMPY, COMPILED, TRANSFORMERS = "cuda", "torch", "numpy", "compiled", "transformers"
OURS = (CUDA, TORCH, NUMPY)
BACKENDS = (*OURS, COMPILED, TRANSFORMERS)
MAX_SHAPES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One point: `batch` sequences of `draft_length` drafts over a vocabulary, logits of a type."""

    batch: int
    draft_length: int
    vocabulary: int
    dtype: str

    @property
    def axes(self) -> dict[str, AxisValue]:
        """The point under the names of its axes."""
        return {"batch": self.batch, "k": self.draft_length, "vocabulary": self.vocabulary, "dtype": self.dtype}

    @property
    def item_bytes(self) -> int:
        """Bytes of a logit."""
        return ITEM_BYTES[self.dtype]

    @property
    def logits(self) -> int:
        """Logits of both models: K + 1 rows of the target and K of the draft for each sequence."""
        return self.batch * (2 * self.draft_length + 1) * self.vocabulary

    @property
    def words(self) -> str:
        """The point as a user names it."""
        return f"--batch {self.batch}, --k {self.draft_length}, --vocab {self.vocabulary}, --dtype {self.dtype}"


def needed_bytes(shape: Shape, kept_all: int) -> int:
    """Return what exact sampling reads at least when it decides on all drafts at once: (2 B K + A) V s.

    Acceptance needs the normalisers of both models' rows at each of the B K drafts, that is 2 V logits of s bytes.
    The next token needs one row more, the bonus row, of the A sequences that kept all their drafts; the rows of
    a residual have been counted. The kernels read the rows of the draw a second time (kernels/sampling.cu), torch and
    transformers pass over rows several times: that traffic counts for nobody.

    Args:
        shape: The point.
        kept_all: A, the sequences that kept all K drafts.
    """
    return (2 * shape.batch * shape.draft_length + kept_all) * shape.vocabulary * shape.item_bytes


def memory_bytes(shape: Shape, backends: Iterable[str], *, on_cpu: bool) -> int:
    """Return the memory that a point takes, rather too much than too little.

    Logits in their type, for transformers in float32 besides, on the processor once more in float32 to make them from;
    then the intermediate results of the backend that has most of them.
    """
    names = set(backends)
    row = shape.batch * shape.vocabulary
    passing = {
        NUMPY: 8 * 4 * shape.logits + 64 * shape.vocabulary,
        TORCH: 4 * 4 * shape.logits + 64 * row,
        COMPILED: 4 * 2 * shape.logits + 24 * row,
        TRANSFORMERS: 4 * 2 * shape.logits // shape.batch + 16 * shape.vocabulary,
        CUDA: row,
    }
    kept = shape.item_bytes * shape.logits
    kept += 4 * shape.logits * (TRANSFORMERS in names)
    kept += 4 * shape.logits * on_cpu
    making = max(12 * row * (shape.draft_length + 1), 80 * shape.draft_length * shape.vocabulary)
    return kept + max([making * on_cpu, *(passing[name] for name in names)])


def grid(axes: Mapping[str, Sequence[AxisValue]]) -> list[Shape]:
    """Return every combination of batch, k, vocabulary and dtype, the last running fastest; refuses too many."""
    rows = list(product(*(axes[name] for name in ("dtype", "batch", "k", "vocabulary"))))
    if len(rows) > MAX_SHAPES:
        raise UserError(f"--batch, --k, --vocab, --dtype: {len(rows)} points, expected at most {MAX_SHAPES}")
    return [Shape(dtype=str(d), batch=int(b), draft_length=int(k), vocabulary=int(v)) for d, b, k, v in rows]
