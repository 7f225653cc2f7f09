"""What an engine adds to passes: kernels of some layers, graphs and the host beside them, how experts are shared."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from simulator.ground.fields import Field

from .step import Floats, Real, is_nothing, spread
from .work import Work

# What layers may have that takes more kernels: routed experts, attention to latent vectors.
LAYER_KINDS = ("experts", "latent")
# How an engine replays passes: decoding whole; any in pieces, attention between them; none.
FULL, PIECEWISE, EAGER = GRAPHS = ("full", "piecewise", "eager")
# What the host launches of a layer between pieces: to write keys and values, and to attend.
PIECES = 2.0
# Beyond any device: kernels of a layer or passes, tokens of a pass, bytes of one, seconds.
MOST_LAUNCHES, MOST_TOKENS, MOST_BYTES, MOST_SECONDS = 1e6, 1e12, 1e15, 1e6
# Relative errors are this at most: beyond it nothing is known, and samples leave what a float holds.
MOST_ERROR = 10.0
HOST = ("host_s", "host_sequence_s", "host_launch_s", "host_layer_s")
# Up to which sizes sums take one shot: tokens, bytes.
SHOTS = ("one_shot_tokens", "one_shot_bytes")
# Other fields in seconds.
LOAD = ("load_layer_s", "load_layer_sequence_s", "front_s", "front_client_s")
ROUND = ("round_sequence_s", "tree_round_s", "draft_round_s", "search_s")
# By how much longer some FLOPs take.
LONGER = ("draft_flops", "attention_flops")


# Up to which sizes engines sum up in one shot over fast links: TensorRT-LLM so many tokens (kOneShotMaxToken); vLLM and
# SGLang 512 KB of four devices and 256 KB of eight (custom all-reduce).
ONE_SHOT_TOKENS, ONE_SHOT_BYTES = 128.0, float(2 << 20)
# In which the host launches a kernel of PyTorch that no graph replays; its usual time.
LAUNCH_S = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine adds to passes, where a profile says so.

    layer_launches: kernels of a layer besides those of any, by what it has, of `LAYER_KINDS`. expert_overlap: by how
    much a further token of one sequence counts less than one of another as experts are touched. graphs: one of
    `GRAPHS`. graph_tokens: sizes of passes that are captured, rising; a pass is padded to the next. host_s,
    host_sequence_s, host_launch_s, host_layer_s: of a pass that is not replayed whole on the host, which works beside
    the device; of each of its sequences; of each kernel that the host launches; of each layer. host_error: standard
    error of times of the host and under load, relative. load_layer_s, load_layer_sequence_s: of a layer of a pass under
    load, beyond what a closed batch takes; of each sequence there. front_s, front_client_s: of a request before its
    prompt is begun and behind its first token; for each client. first_passes: how many passes like its prompt's a first
    token waits for.
    one_shot_tokens, one_shot_bytes: of a pass whose sums devices send whole to each other, either at most: tokens, or
    bytes that all of them hold of it together.
    logit_bytes: moved for each logit of a pass besides its product, to choose a token. round_sequence_s: of a round for
    each sequence, besides its overhead; tree_round_s: of one of drafts that branch, where the engine overlaps the host
    with rounds of chains alone; draft_round_s: of one whose drafts a model makes, besides its passes. draft_flops: by
    how much longer a FLOP of these takes than one of the target, whose products are larger; attention_flops: the same
    of attention and products with weights. search_s: of a sequence whose drafts are searched for, besides what the
    method takes. A sampled engine has arrays of samples in its times of the host, of rounds and under load.
    """

    layer_launches: Mapping[str, float] = field(default_factory=dict)
    expert_overlap: float = 0.0
    graphs: str = FULL
    graph_tokens: tuple[float, ...] = ()
    host_s: Real = 0.0
    host_sequence_s: Real = 0.0
    host_launch_s: Real = 0.0
    host_layer_s: Real = 0.0
    host_error: float = 0.0
    load_layer_s: Real = 0.0
    load_layer_sequence_s: Real = 0.0
    front_s: Real = 0.0
    front_client_s: Real = 0.0
    first_passes: Real = 0.0
    logit_bytes: float = 0.0
    round_sequence_s: Real = 0.0
    tree_round_s: float = 0.0
    draft_round_s: Real = 0.0
    draft_flops: Real = 1.0
    search_s: Real = 0.0
    attention_flops: Real = 1.0
    one_shot_tokens: float = 0.0
    one_shot_bytes: float = 0.0

    def one_by_one(self) -> "Engine":
        """Return the engine as it runs passes of which no graph is captured: the host launches kernel by kernel."""
        return replace(self, graphs=EAGER, host_s=0.0, host_sequence_s=0.0, host_layer_s=0.0, host_launch_s=LAUNCH_S)

    def sent(self, devices: int, tokens: Floats, size: float) -> Floats:
        """Return the bytes that each of some devices sends as they sum up so many of each token.

        Round a ring a part at a time, twice; where they are few in one shot, whole to each of the others.
        """
        reduced = tokens * size
        round_ring = 2 * (devices - 1) / devices * reduced
        if not (self.one_shot_tokens or self.one_shot_bytes):
            return np.asarray(round_ring)
        few = (tokens <= self.one_shot_tokens) | (devices * reduced <= self.one_shot_bytes)
        return np.where(few, (devices - 1) * reduced, round_ring)

    def summing_as(self, name: str) -> "Engine":
        """Return the engine with which sums it takes in one shot, as the one of a name; its own where it says so."""
        if self.one_shot_tokens or self.one_shot_bytes:
            return self
        tokens, size = (ONE_SHOT_TOKENS, 0.0) if name == "trtllm" else (0.0, ONE_SHOT_BYTES)
        return replace(self, one_shot_tokens=tokens, one_shot_bytes=size)

    def padded(self, tokens: Floats) -> Floats:
        """Return the tokens that passes of so many compute: those of the next graph, their own beyond the largest."""
        if not self.graph_tokens or self.graphs == EAGER:
            return tokens
        sizes = np.asarray(self.graph_tokens)
        place = np.minimum(np.searchsorted(sizes, tokens), len(sizes) - 1)
        return np.asarray(np.maximum(sizes[place], tokens))

    def on_host_s(self, work: Work, launches: Real = 0.0, layers: int = 0) -> Floats | float:
        """Return the seconds of passes on the host, [*samples, *S]: none where a graph replays all of it.

        launches: kernels of a pass. layers: of the model.
        """
        each = [getattr(self, name) for name in HOST]
        if all(is_nothing(times_s) for times_s in each):
            return 0.0
        tokens, sequences, prompts = np.broadcast_arrays(work.tokens, work.sequences, work.prompts)
        within = tokens <= self.graph_tokens[-1] if self.graph_tokens else np.ones(tokens.shape, np.bool_)
        launched = np.where(within, PIECES * layers, launches) if self.graphs == PIECEWISE else launches
        pass_s, sequence_s, launch_s, layer_s = (spread(times_s, tokens.ndim) for times_s in each)
        each_s = pass_s + sequence_s * sequences + launch_s * launched + layer_s * layers
        return np.asarray(np.where(within & (prompts == 0), 0.0, each_s) if self.graphs == FULL else each_s)

    def slower(self, factor: Real, names: Sequence[str] = HOST) -> "Engine":
        """Multiply some times, those of the host unless others are named."""
        times: dict[str, Any] = {name: np.asarray(getattr(self, name) * factor, np.float64) for name in names}
        return replace(self, **times)

    def under_load_s(self, layers: int, sequences: Floats) -> Floats:
        """Return the seconds that a pass over sequences takes under load, beyond those of a closed batch."""
        layer_s, sequence_s = (spread(s, np.ndim(sequences)) for s in (self.load_layer_s, self.load_layer_sequence_s))
        return np.asarray(layers * (layer_s + sequence_s * sequences))

    def drafting_s(self, batch: Real, *, has_passes: bool) -> Floats:
        """Return the seconds of a round's drafts outside of passes, where it has any."""
        round_s, search_s = (spread(s, np.ndim(batch)) for s in (self.draft_round_s, self.search_s))
        return np.asarray(round_s + 0 * batch if has_passes else search_s * batch)

    def in_front_s(self, clients: Real) -> Floats:
        """Return the seconds of a request outside of passes, before its first token."""
        front_s, client_s = (spread(s, np.ndim(clients)) for s in (self.front_s, self.front_client_s))
        return np.asarray(front_s + client_s * clients)


def side_by_side(device_s: Floats, host_s: Floats | float) -> Floats:
    """Return the seconds of passes that device and host work on side by side, [*samples, *S].

    They join with exponent 3, in a pass without a graph: fitted to three sizes of one eager stack.
    """
    return np.asarray(np.cbrt(device_s * device_s * device_s + host_s * host_s * host_s))


def parse_engine(field: Field) -> Engine:
    """Read what an engine adds to passes; what it does not say is nothing."""
    most = dict.fromkeys((*HOST, *LOAD, *ROUND), MOST_SECONDS)
    most |= {"first_passes": MOST_LAUNCHES, "logit_bytes": MOST_LAUNCHES}
    most |= dict.fromkeys(LONGER, MOST_LAUNCHES)
    most |= dict(zip(SHOTS, (MOST_TOKENS, MOST_BYTES), strict=True))
    field.only(("layer_launches", "expert_overlap", "graphs", "graph_tokens", "host_error", *most))
    launches, graphs = field["layer_launches"], field["graph_tokens"]
    if launches.is_given:
        launches.only(LAYER_KINDS)
    sizes = tuple(entry.number(1.0, MOST_TOKENS) for entry in graphs.elements()) if graphs.is_given else ()
    if any(np.diff(sizes) <= 0):
        graphs.refuse("rising sizes")
    each = {kind: entry.number(0.0, MOST_LAUNCHES) for kind, entry in launches.items()} if launches.is_given else {}
    return Engine(
        layer_launches=each,
        expert_overlap=field["expert_overlap"].number(0.0, 1.0, default=0.0),
        graphs=field["graphs"].choice(GRAPHS) if field["graphs"].is_given else FULL,
        graph_tokens=sizes,
        host_error=field["host_error"].number(0.0, MOST_ERROR, default=0.0),
        **{name: field[name].number(0.0, bound, default=float(name in LONGER)) for name, bound in most.items()},
    )


def engine_json(engine: Engine) -> dict[str, Any]:
    """Return an engine's part under the names of its file."""
    return asdict(engine) | {"layer_launches": dict(engine.layer_launches), "graph_tokens": list(engine.graph_tokens)}
