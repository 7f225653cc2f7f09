"""A server under a steady load in closed form: time a token, time to the first token, tokens a second.

So many clients each send a request, wait for all of its answer and send the next (a closed loop). While a request
decodes, each of its neighbours puts one prompt into its passes: some of these are mixed. Time is counted in passes
first, or in rounds with speculation, then priced. Nothing is drawn; arrays broadcast.
"""

from typing import NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.room import room
from simulator.costs.step import Floats, Real

from .passes import Passes, Prompts

# Tokens of a pass, where nobody says: what vLLM takes on a large device.
CHUNK = 8192
# Tokens that are left for prompts in a pass, however many sequences decode.
LEAST_ROOM = 16.0


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


class Flow(NamedTuple):
    """A load in passes: what `steady` prices.

    rounds: in which a request decodes. chunks: passes of a prompt. wait: passes until it is begun, behind others.
    prompts: that others put into a pass, on average. share: of passes that have any.
    """

    rounds: Floats
    chunks: Floats
    wait: Floats
    prompts: Floats
    share: Floats
    whole: Floats


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
        requests: In all, whose first all come at once; infinite: the load has lasted.
        mixed: Whether prompts are read in passes that decode, rather than in passes of their own before these.
    """
    passes = passes_of(models, draft_length)
    b, i, o, hit, m = (np.asarray(v, np.float64) for v in (concurrency, isl, osl, prefix_hit, chunk))
    running = np.minimum(np.minimum(b, most_running), room(passes.pair or passes.target, i + o / 2))
    running = np.where(running >= 1, running, np.nan)
    new, tau = i * (1 - hit), np.asarray(1.0 if tokens_per_round is None else tokens_per_round, np.float64)
    flow = (flow_mixed if mixed else flow_apart)(running, rounds_of(o, tau), new, m, passes.width)
    context = i + np.maximum(o / 2 - 1, 0)

    def prompts(each: Floats) -> Prompts:
        """Return what passes read that end so many prompts each."""
        tokens = new / flow.chunks
        return Prompts(each * flow.chunks, tokens, i * hit + (flow.chunks - 1) / 2 * tokens, each)

    decode_s = passes.seconds(running, context)
    there = np.maximum(flow.prompts / np.where(flow.share > 0, flow.share, 1.0), 1 / flow.chunks)
    beside = running - np.minimum(there * flow.chunks, running - 1) if mixed else np.zeros(())
    mixed_s = passes.seconds(beside, context, prompts(there))
    own = np.minimum((1 + flow.prompts) / flow.chunks, np.maximum(flow.whole, 1 / flow.chunks))
    first_s = passes.seconds(running - 1 if mixed else np.zeros(()), context, prompts(own))
    per_round_s = (1 - flow.share) * decode_s + flow.share * mixed_s if mixed else decode_s + flow.share * mixed_s
    decoding_s = flow.rounds * per_round_s
    tpot_s = decoding_s / np.where(o > 1, o - 1, np.nan)
    # A request is sent when one has ended: the pass that follows that has begun.
    residual_s = np.where(running > 1, per_round_s, 0.0)
    waiting_s = residual_s + flow.wait * np.where(flow.whole >= 1, mixed_s, first_s)
    served_s = waiting_s + flow.chunks * first_s
    cycle_s = served_s + decoding_s
    queueing_s = waiting_s + (b - running) / running * cycle_s
    ttft_s = queueing_s + flow.chunks * first_s
    return Steady(
        tpot_s=tpot_s,
        ttft_s=ttft_s,
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


def passes_of(models: ModelPair | Placed, draft_length: Real | None) -> Passes:
    """Return the passes of models, with or without speculation."""
    if isinstance(models, Placed):
        return Passes(target=models)
    if draft_length is None:
        return Passes(target=models.placed_target)
    return Passes(target=models.placed_target, pair=models, draft_length=draft_length)


def rounds_of(osl: Floats, tokens_per_round: Floats) -> Floats:
    """Return the rounds in which a request decodes: its first token is its prompt's, its last round is cut.

    Of rounds of whole tokens the last has (tau - 1) / 2 too many on average, as renewal theory has it.
    """
    tau = tokens_per_round
    return np.where(osl > 1, np.maximum((osl - 1) / tau + (tau - 1) / (2 * tau), 1.0), 0.0)


def flow_mixed(running: Floats, rounds: Floats, new: Floats, chunk: Floats, width: Floats) -> Flow:
    """Return a load in passes where prompts are read beside decoding, as far as a pass has tokens left."""
    left = np.maximum(chunk - width * running, LEAST_ROOM)
    service, chunks = new / left, np.maximum(np.ceil(new / left), 1.0)
    whole = 1 / np.maximum(service, 1e-12)
    # Prompts that fit into a pass beside others share it; of those that do not, each has its own.
    shares = np.clip(whole - 1, 0.0, 1.0)
    wait = queue(running, rounds, service)
    others = np.minimum((running - 1) / np.maximum(rounds + wait + shares * chunks, 1.0), whole)
    apart = np.minimum(others * chunks, 1.0)
    at_random = 1 - (1 - 1 / np.maximum(rounds + wait + 1, 1.0)) ** (running - 1)
    together = np.where(whole > 1, (1 - 1 / np.maximum(whole, 1.0) ** 3), 0.0)
    share = np.where(running > 1, apart + together * (np.minimum(at_random, apart) - apart), 0.0)
    return Flow(rounds, chunks, wait, others, share, whole)


def queue(running: Floats, rounds: Floats, service: Floats) -> Floats:
    """Return for how many passes a prompt waits behind others, of which each fills `service` passes.

    Mean values of a closed network: a server of constant times, and a delay of so many rounds; who comes finds what
    one client fewer leaves (Reiser and Lavenberg 1980), taken as a share of what all leave (Schweitzer 1979).
    """
    s, n = service, running
    excess = s * n - rounds
    stay = (excess + np.sqrt(np.maximum(excess**2 + 4 * s * rounds - 2 * s**2 * (n - 1), 0.0))) / 2
    return np.maximum(stay - s, 0.0)


def flow_apart(running: Floats, rounds: Floats, new: Floats, chunk: Floats, width: Floats) -> Flow:
    """Return a load in passes where prompts come first, in passes of their own: all that decodes waits for them."""
    chunks, whole = np.maximum(np.ceil(new / chunk), 1.0), np.maximum(chunk / np.maximum(new, 1e-12), 1e-12)
    others = (running - 1) / np.maximum(rounds, 1.0)
    together = np.clip(others, 1.0, np.maximum(whole, 1.0))
    share = others * chunks / together
    return Flow(rounds, chunks, np.zeros(()), others, share, whole)
