"""A server under a steady load in closed form: time a token, time to the first token, tokens a second.

So many clients each send a request, wait for all of its answer and send the next (a closed loop). While a request
decodes, each of its neighbours puts one prompt into its passes: some of these are mixed. Time is counted in passes
first, or in rounds with speculation, then priced. Nothing is drawn; arrays broadcast.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.parameters import CHUNK
from simulator.costs.step import Floats, Real, spread

from .flow import Flow, alike_flow, apart_flow, mixed_flow, rounds_of
from .memory import places
from .passes import Passes, Prompts, passes_of

# Loads that are priced at once: of more, arrays leave the cache.
PART = 1 << 14


class Steady(NamedTuple):
    """What a load comes to; fields broadcast, NaN where the models do not fit into memory.

    tpot_s: (end - first token) / (osl - 1). ttft_s: first token - send, with queueing_s before the prompt is begun.
    output_tokens_per_s: of all clients. running: sequences at once, as memory and the engine allow. rounds: passes in
    which a request decodes. mixed_share: of these, those with a prompt. prompts_a_pass: read in such a one. decode_s,
    mixed_s: seconds of passes without and with a prompt, of rounds with speculation. first_s: of those that read the
    request's own prompt.
    """

    tpot_s: Floats
    ttft_s: Floats
    output_tokens_per_s: Floats
    running: Floats
    rounds: Floats
    mixed_share: Floats
    prompts_a_pass: Floats
    decode_s: Floats
    mixed_s: Floats
    first_s: Floats
    queueing_s: Floats


class Timed(NamedTuple):
    """Seconds of a load. decode_s, mixed_s, first_s: of passes, as of `Steady`.

    waiting_s: of a request until its prompt is begun. reading_s: of its prompt. decoding_s: of its answer.
    """

    decode_s: Floats
    mixed_s: Floats
    first_s: Floats
    waiting_s: Floats
    reading_s: Floats
    decoding_s: Floats


class Served(NamedTuple):
    """A load that was counted in passes, to be priced.

    new: tokens that are read of a prompt of isl. context: tokens that the KV cache holds of one that decodes. held:
    sequences that wait in mid-answer. followed: share of the prompts of others that come while a request decodes: of
    those that begin together half are read before it, and whose load ends are followed by none.
    """

    passes: Passes
    flow: Flow
    running: Floats
    isl: Floats
    new: Floats
    context: Floats
    mixed: bool
    held: Floats
    followed: Floats

    @property
    def share(self) -> Floats:
        """Share of a request's passes that carry prompts of others."""
        return np.asarray(self.flow.share * self.followed)

    @property
    def there(self) -> Floats:
        """Prompts that are read in a pass that reads any."""
        some = self.flow.prompts / np.where(self.flow.share > 0, self.flow.share, 1.0)
        return np.maximum(some, 1 / self.flow.filled)

    def timed(self) -> Timed:
        """Return what passes take, and a request."""
        flow, there = self.flow, self.there
        active = np.maximum(self.running - flow.prompts * flow.idle, 1.0)
        decode_s = self.passes.seconds(np.minimum(active, flow.most), self.context)
        mixed_s = self.seconds(np.maximum(active - there * flow.filled, 1.0), there, flow.filled)
        first_s = self.seconds(active - flow.own, flow.own / flow.chunks, flow.chunks)
        missed = np.minimum(flow.after, 1)
        waiting_s = flow.idle * ((1 - missed) * decode_s + missed * mixed_s) + flow.wait * mixed_s
        stalled = 1 - self.share if self.mixed else 1.0
        decoding_s = flow.rounds * (stalled * decode_s + self.share * mixed_s)
        return Timed(decode_s, mixed_s, first_s, waiting_s, flow.chunks * first_s, decoding_s)

    def burst_s(self) -> Floats:
        """Return until when prompts that all come at once are read: half of them, on average, before one's own is."""
        service = 1 / self.flow.whole
        passes = np.maximum((self.running * service + np.maximum(service, 1.0)) / 2, self.flow.chunks)
        beside = (self.running - 1) / 2
        return passes * self.seconds(beside, np.minimum(self.flow.whole, self.running), np.maximum(service, 1.0))

    def seconds(self, decoding: Floats, ended: Floats, filled: Floats) -> Floats:
        """Return the seconds of passes that end so many prompts, of which each fills so many."""
        tokens = self.new / filled
        prompts = Prompts(ended * filled, tokens, self.isl - self.new + (filled - 1) / 2 * tokens, ended)
        beside = np.clip(decoding, 0.0, self.flow.most) if self.mixed else np.zeros(())
        return self.passes.seconds(beside, self.context, prompts)


def steady(
    models: ModelPair | Placed,
    concurrency: Real,
    isl: Real,
    osl: Real,
    *,
    draft_length: Real | None = None,
    tokens_per_round: Real | None = None,
    chunk: Real = CHUNK,
    prefix_hit: Real = 0.0,
    most_running: Real = np.inf,
    requests: Real = np.inf,
    mixed: bool = True,
    alike: bool = False,
) -> Steady:
    """Return what a load comes to.

    Args:
        models: A target, or a pair; of a pair without a draft length, its target alone.
        concurrency: Clients.
        isl: Tokens of a prompt.
        osl: Tokens of an answer.
        draft_length: K.
        tokens_per_round: That a round commits on average, with it.
        chunk: Tokens of a pass at most (max_num_batched_tokens); one that holds no round serves nothing.
        prefix_hit: Share of a prompt that lies in the KV cache already.
        most_running: Sequences that the engine runs at once at most.
        requests: In all, whose first all come at once; infinite: the load has lasted. Load tests often send ten for
            each client, the first of which wait for one another's prompts.
        mixed: Whether prompts are read in passes that decode, rather than in passes of their own before these.
        alike: Whether all answers are of one length: requests that came together stay together.
    """
    given: dict[str, Real | None] = {"concurrency": concurrency, "isl": isl, "osl": osl, "draft_length": draft_length}
    given |= {"tokens_per_round": tokens_per_round, "chunk": chunk, "prefix_hit": prefix_hit}
    given |= {"most_running": most_running, "requests": requests}

    def work(part: Mapping[str, Any]) -> Steady:
        return load_of(models, **part, mixed=mixed, alike=alike)

    # What costs were drawn with has an axis of its own, and may hang on arrays of the models.
    is_drawn = isinstance(models, ModelPair) and np.ndim(models.verify_normals) > 0
    return work(given) if is_drawn else in_parts(work, given)


def in_parts(work: Callable[[Mapping[str, Any]], Steady], given: Mapping[str, Any]) -> Steady:
    """Return what work makes of arrays that broadcast, part by part of the longest axis: parts fit into a cache."""
    shape = np.broadcast_shapes(*(np.shape(v) for v in given.values() if v is not None))
    size = math.prod(shape)
    if size < 2 * PART:
        return work(given)
    axis = int(np.argmax(shape)) - len(shape)
    step = max(shape[axis] * PART // size, 2)
    ends = range(0, shape[axis], step)
    parts = [work({name: cut(v, axis, first, first + step) for name, v in given.items()}) for first in ends]
    return Steady(*(joined(values, axis, step) for values in zip(*parts, strict=True)))


def cut(value: Any, axis: int, first: int, last: int) -> Any:
    """Return a part of an array along an axis from its end; all of what does not go along it."""
    if np.ndim(value) < -axis or np.shape(value)[axis] == 1:
        return value
    place: Any = (..., slice(first, last), *(slice(None),) * (-axis - 1))
    return np.asarray(value)[place]


def joined(values: Sequence[Floats], axis: int, step: int) -> Floats:
    """Join parts along an axis; of what does not go along it, the first."""
    is_long = np.ndim(values[0]) >= -axis and np.shape(values[0])[axis] == step
    return np.concatenate(values, axis) if is_long else values[0]


def load_of(
    models: ModelPair | Placed,
    concurrency: Real,
    isl: Real,
    osl: Real,
    *,
    draft_length: Real | None,
    tokens_per_round: Real | None,
    chunk: Real,
    prefix_hit: Real,
    most_running: Real,
    requests: Real,
    mixed: bool,
    alike: bool,
) -> Steady:
    """Return what a load comes to, of arrays as they are; see `steady`."""
    passes = passes_of(models, draft_length)
    given = (np.asarray(v, np.float64) for v in (concurrency, isl, osl, prefix_hit, chunk, requests))
    clients, i, o, hit, m, sent = given
    b = np.minimum(clients, sent)
    running, held = places(passes.pair or passes.target, np.minimum(b, most_running), i, o)
    running = np.where((m >= passes.width) | (not mixed), running, np.nan)
    # Of a prompt that is cached whole its last token is computed again.
    new = np.maximum(i * (1 - hit), 1.0)
    tau = np.asarray(1.0 if tokens_per_round is None else tokens_per_round, np.float64)
    # A request is sent when one has ended, while a pass has begun already; of those that wait, one is there.
    idle = np.where((running > 1) & (b <= running), 1.0, 0.0)
    counted = (alike_flow if alike else mixed_flow) if mixed else apart_flow
    flow = counted(running, idle, rounds_of(o, tau), new, m, passes.width)
    followed = 1 - np.minimum(running / sent, 1.0) / 2
    served = Served(passes, flow, running, i, new, i + np.maximum(o / 2 - 1, 0), mixed, held, followed)
    return come_to(served, o, b, sent)


def come_to(served: Served, osl: Floats, clients: Floats, requests: Floats) -> Steady:
    """Price a load that was counted in passes, of which so many clients are at work."""
    passes, flow, running, timed = served.passes, served.flow, served.running, served.timed()
    engine = passes.target.engine
    every = np.ones(np.broadcast_shapes(np.shape(running), np.shape(flow.chunks), np.shape(passes.width)))
    front_s = engine.in_front_s(running * every) + spread(engine.first_passes, every.ndim) * timed.first_s
    # Of a request that runs; who waits for its place has come to the engine already, and adds nothing to that.
    place_s = timed.waiting_s + timed.reading_s + timed.decoding_s
    apiece_s = np.maximum((front_s + place_s) / clients, place_s / running)
    for_place_s = clients * apiece_s - (front_s + place_s)
    held_s = np.minimum(served.held * apiece_s, for_place_s)
    for_place_s, answering_s = for_place_s - held_s, timed.decoding_s + held_s
    first_s = timed.waiting_s + timed.reading_s + for_place_s
    if np.any(np.isfinite(requests)):
        # Of the first, who all come at once, the last waits for a place as long as each one does later.
        first, burst_s = np.minimum(clients / requests, 1.0), served.burst_s() + for_place_s / 2
        first_s = (1 - first) * first_s + first * burst_s
        at_most_s = np.where(clients > running, place_s / running, 0.0)
        apiece_s = np.maximum((front_s + first_s + answering_s) / clients, at_most_s)
    return Steady(
        tpot_s=answering_s / np.where(osl > 1, osl - 1, np.nan),
        ttft_s=first_s + front_s,
        output_tokens_per_s=osl / apiece_s,
        running=running,
        rounds=flow.rounds,
        mixed_share=served.share,
        prompts_a_pass=served.there,
        decode_s=timed.decode_s,
        mixed_s=timed.mixed_s,
        first_s=timed.first_s,
        queueing_s=np.maximum(first_s - timed.reading_s, 0.0),
    )
