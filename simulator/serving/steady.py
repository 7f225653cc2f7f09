"""A server under a steady load in closed form: time a token, time to the first token, tokens a second.

So many clients each send a request, wait for all of its answer and send the next (a closed loop). While a request
decodes, each of its neighbours puts one prompt into its passes: some of these are mixed. Time is counted in passes
first, or in rounds with speculation, then priced. Nothing is drawn; arrays broadcast.
"""

from typing import NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.parameters import CHUNK
from simulator.costs.room import room
from simulator.costs.step import Floats, Real

from .flow import alike_flow, apart_flow, mixed_flow, rounds_of
from .passes import Prompts, passes_of


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

    Long because it is one table of what a load comes to.

    Args:
        models: A target, or a pair; of a pair without a draft length, its target alone.
        concurrency: Clients.
        isl: Tokens of a prompt.
        osl: Tokens of an answer.
        draft_length: K.
        tokens_per_round: That a round commits on average, with it.
        chunk: Tokens of a pass at most (max_num_batched_tokens).
        prefix_hit: Share of a prompt that lies in the KV cache already.
        most_running: Sequences that the engine runs at once at most.
        requests: In all, whose first all come at once; infinite: the load has lasted. Load tests often send ten for
            each client, the first of which wait for one another's prompts.
        mixed: Whether prompts are read in passes that decode, rather than in passes of their own before these.
        alike: Whether all answers are of one length: requests that came together stay together.
    """
    passes = passes_of(models, draft_length)
    b, i, o, hit, m = (np.asarray(v, np.float64) for v in (concurrency, isl, osl, prefix_hit, chunk))
    running = np.minimum(np.minimum(b, most_running), room(passes.pair or passes.target, i + o / 2))
    running = np.where(running >= 1, running, np.nan)
    # Of a prompt that is cached whole its last token is computed again.
    new = np.maximum(i * (1 - hit), 1.0)
    tau = np.asarray(1.0 if tokens_per_round is None else tokens_per_round, np.float64)
    # A request is sent when one has ended, while a pass has begun already; of those that wait, one is there.
    idle = np.where((running > 1) & (b <= running), 1.0, 0.0)
    counted = (alike_flow if alike else mixed_flow) if mixed else apart_flow
    flow = counted(running, idle, rounds_of(o, tau), new, m, passes.width)
    context = i + np.maximum(o / 2 - 1, 0)

    def seconds(decoding: Floats, ended: Floats, filled: Floats) -> Floats:
        """Return the seconds of passes that end so many prompts, of which each fills so many."""
        tokens = new / filled
        prompts = Prompts(ended * filled, tokens, i - new + (filled - 1) / 2 * tokens, ended)
        return passes.seconds(np.maximum(decoding, 0.0) if mixed else np.zeros(()), context, prompts)

    there = flow.prompts / np.where(flow.share > 0, flow.share, 1.0)
    there = np.maximum(there, 1 / flow.filled)
    active = np.maximum(running - flow.prompts * flow.idle, 1.0)
    decode_s = passes.seconds(active, context)
    mixed_s = seconds(np.maximum(active - there * flow.filled, 1.0), there, flow.filled)
    first_s = seconds(active - flow.own, flow.own / flow.chunks, flow.chunks)
    stalled = 1.0 if not mixed else 1 - flow.share
    decoding_s = flow.rounds * (stalled * decode_s + flow.share * mixed_s)
    just_missed_s = flow.idle * ((1 - np.minimum(flow.after, 1)) * decode_s + np.minimum(flow.after, 1) * mixed_s)
    waiting_s = just_missed_s + flow.wait * mixed_s
    engine = passes.target.engine
    every = np.ones(np.broadcast_shapes(np.shape(active), np.shape(flow.chunks), np.shape(passes.width)))
    front_s = engine.in_front_s(b * every) + engine.first_passes * first_s
    cycle_s = front_s + waiting_s + flow.chunks * first_s + decoding_s
    queueing_s = waiting_s + (b - running) / running * cycle_s
    ttft_s = queueing_s + flow.chunks * first_s
    if np.any(np.isfinite(requests)):
        # The first come at once: on average half of their prompts are read before one's own has been.
        service = 1 / flow.whole
        each_s = seconds(running / 2, np.minimum(flow.whole, running), np.maximum(service, 1.0))
        burst_s = np.maximum((running * service + np.maximum(service, 1.0)) / 2, flow.chunks) * each_s
        first = np.minimum(b / requests, 1.0)
        ttft_s = (1 - first) * ttft_s + first * (burst_s + queueing_s - waiting_s)
    return Steady(
        tpot_s=decoding_s / np.where(o > 1, o - 1, np.nan),
        ttft_s=ttft_s + front_s,
        output_tokens_per_s=running * o / cycle_s,
        running=running,
        rounds=flow.rounds,
        mixed_share=flow.share,
        prompts_a_pass=there,
        decode_s=decode_s,
        mixed_s=mixed_s,
        first_s=first_s,
        queueing_s=queueing_s,
    )
