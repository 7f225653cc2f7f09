"""A load counted in passes, before any is priced: how many a request takes, and which of them carry prompts."""

from typing import NamedTuple

import numpy as np

from simulator.costs.step import Floats


class Flow(NamedTuple):
    """A load in passes, or in rounds with speculation.

    rounds: in which a request decodes. chunks: passes of its prompt. filled: passes that one more prompt makes mixed,
    where the rest of its last is others'. idle: passes between its end and the next request of its client. wait: passes
    until a prompt is begun, behind others. prompts: that others end in a pass, on average. share: of a request's
    rounds that carry any; of passes of prompts a round, where these run apart. after: of passes that a request just
    misses. own: prompts that end in the pass of its own, this one among them. whole: that fit into one.
    most: sequences that passes have tokens for, beside the prompts that take their place when they end.
    """

    rounds: Floats
    chunks: Floats
    filled: Floats
    idle: Floats
    wait: Floats
    prompts: Floats
    share: Floats
    after: Floats
    own: Floats
    whole: Floats
    most: Floats


def rounds_of(osl: Floats, tokens_per_round: Floats) -> Floats:
    """Return the rounds in which a request decodes: its first token is its prompt's, its last round is cut.

    Of rounds of whole tokens the last has (tau - 1) / 2 too many on average, as renewal theory has it.
    """
    tau = tokens_per_round
    return np.where(osl > 1, np.maximum((osl - 1) / tau + (tau - 1) / (2 * tau), 1.0), 0.0)


def queue(running: Floats, away: Floats, service: Floats) -> Floats:
    """Return for how many passes a prompt waits behind others, of which each fills `service` passes.

    Mean values of a closed network: a server of constant times, and so many passes away from it; who comes finds what
    one client fewer leaves (Reiser and Lavenberg 1980), taken as a share of what all leave (Schweitzer 1979).
    """
    s, n = service, running
    excess = s * n - away
    stay = (excess + np.sqrt(np.maximum(excess**2 + 4 * s * away - 2 * s**2 * (n - 1), 0.0))) / 2
    return np.maximum(stay - s, 0.0)


def at_random(running: Floats, others: Floats, passes: Floats, whole: Floats, cycle: Floats) -> Floats:
    """Return the share of passes with prompts of others, so many a pass, that come independently of one another.

    Where one fills a pass each has its own; where many fit some share one.
    """
    apart = np.minimum(others * passes, 1.0)
    shared = 1 - (1 - 1 / np.maximum(cycle, 1.0)) ** (running - 1)
    weight = np.where(whole > 1, 1 - np.maximum(whole, 1.0) ** -3, 0.0)
    return np.asarray(apart + weight * (np.minimum(shared, apart) - apart))


def mixed_flow(running: Floats, idle: Floats, rounds: Floats, new: Floats, chunk: Floats, width: Floats) -> Flow:
    """Return a load where prompts are read beside decoding, as far as a pass has tokens left."""
    # Who decodes comes first in a pass, and as many prompts are read as end.
    most = chunk / (width + new / np.maximum(rounds, 1.0))
    service = np.maximum(new / (chunk - width * np.minimum(np.maximum(running - 1, 0.0), most)), 1e-12)
    chunks, whole = np.maximum(np.ceil(service), 1.0), 1 / service
    # Prompts that fit into a pass beside others share it; of those that do not, each has its own.
    shares = np.clip(whole - 1, 0.0, 1.0)
    # Of prompts that take more than a pass the rest of one is the next one's, where there is one ahead or behind.
    busy = np.minimum(running * service / np.maximum(rounds + idle + chunks, 1.0), 1.0)
    filled = np.where(whole < 1, busy * service + (1 - busy) * chunks, 1.0)
    taken = np.where(whole < 1, service + (1 - busy) ** 2 * (chunks - service), service)
    wait = queue(running, rounds + idle + chunks - taken, taken)
    cycle = rounds + idle + wait + chunks
    others = np.minimum((running - 1) / np.maximum(cycle - (1 - shares) * chunks, 1.0), whole)
    share = np.where(running > 1, at_random(running, others, filled, whole, cycle), 0.0)
    own = np.where(whole < 1, 1 + busy**2 * (chunks * whole - 1), np.minimum(1 + others, whole))
    return Flow(rounds, chunks, filled, idle, wait, others, share, share, own, whole, np.maximum(most, 1.0))


def apart_flow(running: Floats, idle: Floats, rounds: Floats, new: Floats, chunk: Floats, width: Floats) -> Flow:
    """Return a load where prompts come first, in passes of their own: all that decodes waits for them."""
    service = np.maximum(new / chunk, 1e-12)
    chunks, whole = np.maximum(np.ceil(service), 1.0), 1 / service
    cycle = np.maximum(rounds + idle, 1.0)
    others = (running - 1) / cycle
    share = at_random(running, others, np.ones(()), np.maximum(whole, 1.0), cycle)
    together = np.clip(others / np.maximum(share, 1e-12), 1.0, np.maximum(whole, 1.0))
    share = others * chunks / together
    # Of those that come with it, half are read before it, as far as a pass does not hold all.
    wait = np.where(whole < 1, others * service / 2, np.maximum(((1 + others) * service - 1) / 2, 0.0))
    own = np.minimum(1 + others, np.maximum(whole, 1.0))
    # The other half are read behind it, before its first round: of those that take their places at once, its own end.
    seen = 1 - (1 - idle) / 2 / np.maximum(rounds, 1.0)
    return Flow(rounds, chunks, chunks, idle, wait, others * seen, share * seen, share, own, whole, running)


def alike_flow(running: Floats, idle: Floats, rounds: Floats, new: Floats, chunk: Floats, width: Floats) -> Flow:
    """Return a load where all requests are of one length: those whose prompts shared a pass end and come together."""
    flow = mixed_flow(running, idle, rounds, new, chunk, width)
    whole, service, free = flow.whole, 1 / flow.whole, np.maximum(rounds, 1.0)
    # Of as many as fit into a pass, but for the last; groups follow each other pass by pass.
    size = np.clip(whole, 1.0, running)
    groups, full = np.ceil(running / size), np.floor(running / size)
    own = (full * size**2 + (running - full * size) ** 2) / running
    # All of one group end together: no pass has begun without them.
    idle = np.where(groups > 1, idle, 0.0)
    after = idle * (1 - size / running)
    # Pieces of prompts that take more than a pass are read one behind the other: the rest of a pass is the next one's.
    own = np.where((whole < 1) & (running > 1), flow.chunks * whole, own)
    passes = np.where(whole > 1, 1.0, service)
    # In step they wait for one another only where prompts alone take longer than all else.
    wait = np.maximum(running * service - rounds - idle - flow.chunks, 0.0)
    seen = np.maximum((groups - 1) * passes - after, 0.0)
    share = np.minimum(seen / free, 1.0)
    each = (running - own) / np.maximum((groups - 1) * passes, 1.0)
    prompts = np.minimum(seen / (free + wait) * each, whole)
    return flow._replace(idle=idle, wait=wait, share=share, prompts=prompts, after=after, own=own, filled=passes)
