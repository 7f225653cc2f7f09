"""What a run knows while it goes on: how far each request is, the plans of the steps in flight, what happened.

Tables of rows: compiled loops pay for every array of a named tuple in every call, and one row lies in one place.
"""

from typing import Any, NamedTuple

from simulator.ground.compiled import lean

Array = Any

# A row of `track` is a request: tokens of its prompt and answer, its priority, its category and how much of its text is
# not its stream's; how it stands; its slot of `Blocks` while it runs.
PROMPT, OUTPUT, RANK, CATEGORY, SHARED, STATUS, SLOT = range(7)
# Tokens of its text so far; those that are in KV once the steps in flight have ended with all drafts taken; those that
# these steps may give (async scheduling), that they compute, that they compute though it was preempted since, and that
# they do give. Drafts that its next step verifies; whether its last step left a part of its prompt to do.
TOKENS, COMPUTED, AHEAD, FLYING, STALE, GIVEN, DRAFTS, IS_CHUNK = range(7, 15)
# How often its drafter was asked; rounds with drafts; drafts that were verified and taken; steps that gave it tokens
# after its first; how often it was preempted; tokens that the prefix cache had when it was first admitted.
ASKED, ROUNDS, DRAFTED, ACCEPTED, CHUNKS, PREEMPTIONS, CACHED, TRACK = range(15, 23)
# How it stands: its KV may be on its way to the replica that decodes it, or be with the one that read its prompt.
UNSENT, WAITING, PREEMPTED, RUNNING, LOADING, HANDED, ENDED, REFUSED = range(8)
# A row of `times`, in seconds: when it was sent and first scheduled, when its first and its latest tokens left.
SENT, BEGUN, FIRST, LAST, TIMES = range(5)
# Places of `front`, what all replicas have together: the next request that comes by the clock; those that will come;
# clients, each of whom sends one request after another; by which rule they go to replicas; how many of these, the
# first, read prompts for the others; whose turn it is, of the first and of the others.
NEXT, COMING, CLIENTS, RULE, READERS, TURN, OTHERS_TURN, FRONT = range(8)

# A row of a plan: who computes how many tokens, of which how many are drafts; tokens that it will give, none before its
# prompt is read; whether it was admitted in this step, so that its drafts are padding; drafts that a policy leaves.
REQUEST, COUNT, VERIFIES, GIVES, IS_FRESH, KEPT, ROW = range(7)
# Of each plan: rows, tokens, and drafts of the round that follows; when it was planned, and when it ends.
SIZE, TOTAL, NEXT_K, FLIGHT = range(4)
PLANNED_S, DONE_S = range(2)
# Of the step that is being planned: tokens that are left of it, and rows, drafting included; whether it reads a prompt;
# requests that it preempted; those that ran before and that it scheduled. Of SGLang's steps, from one to the next: who
# has read a part of its prompt, and 1; whether nobody is admitted before one that runs has gone; how many run.
BUDGET, ROOM, READS, EVICTED, CONTINUED, CHUNKED, FULL, SEEN, LEFT = range(9)
# Behind the times of all flights, of SGLang's: the share of tokens to come that is counted, and tokens that are.
RATIO, OFFSET = range(2)
# Steps that can be in flight: the one that runs, and with async scheduling the next.
FLIGHTS = 2

# Kinds of entries of a log; an entry is a kind, a step, a request and a number.
PLANS, VERIFY, ADMITS, RESUMES, EVICTS, HITS, RUNS, WAITS, EMITS, ENDS = range(10)
ENTRY = 4
# A logged step: its number, when it was planned and done, its tokens, free blocks, drafts of the next round.
STEP = 6


class Plans(NamedTuple):
    """Plans of the steps in flight, `seats` rows for each in the order of scheduling. Names of all places: above.

    Attributes:
        rows, flights, times, left: As there.
        seats: Rows of a plan at most.
    """

    rows: Array
    flights: Array
    times: Array
    left: Array
    seats: int


class Log(NamedTuple):
    """What happened, where it is wanted; without rows: nothing is kept.

    Attributes:
        entries, steps: As above.
        size: Of both.
    """

    entries: Array
    steps: Array
    size: Array


@lean
def note(log: Log, kind: int, step: int, request: int, value: int) -> None:
    """Write an entry, where anything is kept."""
    if len(log.entries) > 0:
        entry = log.entries[log.size[0]]
        entry[0] = kind
        entry[1] = step
        entry[2] = request
        entry[3] = value
        log.size[0] += 1
