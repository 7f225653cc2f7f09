"""Paged KV with identity: blocks in the order in which vLLM gives them out, shared by what they hold, evicted when old.

A block holds the tokens of one place of one text, so its key is that text and that place. Blocks nobody uses stand in a
ring, the next to be given out first; those that hold no whole block of text come to its front, others to its end.
"""

from typing import Any, NamedTuple

from simulator.ground.compiled import lean

from .settings import MOST_BLOCKS_TEXT, Settings
from .state import SHARED

Array = Any
NO_KEY = -1
TEXT_BITS = 22
assert MOST_BLOCKS_TEXT == 1 << TEXT_BITS
# A row of `block`: its neighbours in the ring of free ones, of which 0 is both ends; its neighbours in its chain of the
# hash table, in the order in which they came; how many requests hold it.
FOLLOWING, PRECEDING, LATER, EARLIER, USERS, BLOCK = range(6)
# A row of `table`: blocks that the slot holds, how many of them can be found by their keys, and these blocks.
HELD, KNOWN, TABLE = range(3)
# Of all: free blocks, spare slots, the fewest blocks that were free.
BLOCKS, SLOTS, LEAST, FREE = range(4)


class Blocks(NamedTuple):
    """Blocks 1 to `num_blocks`, and which of them the requests in slots hold.

    Attributes:
        block, table: Rows, as above.
        key: What each block holds, where that can be found again; else NO_KEY.
        chain: First and last of each chain of the hash table; as many as a power of two.
        spare: Slots that nobody has, `free[SLOTS]` of them.
        free: As above.
    """

    block: Array
    table: Array
    key: Array
    chain: Array
    spare: Array
    free: Array


class Texts(NamedTuple):
    """What the requests' texts are: as in `Requests`."""

    stream: Array
    units_start: Array
    units: Array
    unit_tokens: int


@lean
def key_of(texts: Texts, block_size: int, request: int, shared: int, place: int) -> int:
    """Return what this block of a request's text is, whoever else has it; shared: first tokens that others may have."""
    last = (place + 1) * block_size - 1
    if last < shared:
        text: int = 2 * texts.units[texts.units_start[request] + last // texts.unit_tokens] + 1
    else:
        text = 2 * texts.stream[request]
    return (text << TEXT_BITS) | place


@lean
def chain_of(kv: Blocks, key: int) -> int:
    """Return the chain in which a key is looked for: neighbours of a text stand beside one another."""
    return ((key >> TEXT_BITS) * 97 + (key & (MOST_BLOCKS_TEXT - 1))) & (len(kv.chain) - 1)


@lean
def find(kv: Blocks, key: int) -> int:
    """Return the block that has held this for longest, or 0."""
    block: int = kv.chain[chain_of(kv, key)][0]
    while block > 0 and kv.key[block] != key:
        block = kv.block[block][LATER]
    return block


@lean
def remember(kv: Blocks, block: int, key: int) -> None:
    """Let a block be found by what it holds."""
    chain, row = kv.chain[chain_of(kv, key)], kv.block[block]
    end = chain[1]
    kv.key[block] = key
    row[EARLIER] = end
    row[LATER] = 0
    chain[1] = block
    if end > 0:
        kv.block[end][LATER] = block
    else:
        chain[0] = block


@lean
def forget(kv: Blocks, block: int) -> None:
    """Let a block no longer be found."""
    chain, row = kv.chain[chain_of(kv, kv.key[block])], kv.block[block]
    before, behind = row[EARLIER], row[LATER]
    if before > 0:
        kv.block[before][LATER] = behind
    else:
        chain[0] = behind
    if behind > 0:
        kv.block[behind][EARLIER] = before
    else:
        chain[1] = before
    kv.key[block] = NO_KEY


@lean
def unlink(kv: Blocks, block: int) -> None:
    """Take a block out of the ring of free ones."""
    row = kv.block[block]
    before, behind = row[PRECEDING], row[FOLLOWING]
    kv.block[before][FOLLOWING] = behind
    kv.block[behind][PRECEDING] = before
    kv.free[BLOCKS] -= 1


@lean
def link(kv: Blocks, block: int, before: int) -> None:
    """Put a block into the ring of free ones behind another, or behind its end."""
    row, ahead = kv.block[block], kv.block[before]
    behind = ahead[FOLLOWING]
    ahead[FOLLOWING] = block
    row[PRECEDING] = before
    row[FOLLOWING] = behind
    kv.block[behind][PRECEDING] = block
    kv.free[BLOCKS] += 1


@lean
def extend(kv: Blocks, slot: int, count: int) -> None:
    """Give a slot this many more blocks, the first of the ring; what they held is forgotten."""
    row = kv.table[slot]
    place = TABLE + row[HELD]
    for _ in range(count):
        block = kv.block[0][FOLLOWING]
        unlink(kv, block)
        if kv.key[block] != NO_KEY:
            forget(kv, block)
        kv.block[block][USERS] = 1
        row[place] = block
        place += 1
    row[HELD] += count
    kv.free[LEAST] = min(kv.free[LEAST], kv.free[BLOCKS])


@lean
def publish(block_size: int, texts: Texts, kv: Blocks, request: int, shared: int, slot: int, tokens: int) -> None:
    """Let the whole blocks of a request's first tokens be found."""
    row = kv.table[slot]
    known = int(row[KNOWN])
    while (known + 1) * block_size <= tokens:
        remember(kv, row[TABLE + known], key_of(texts, block_size, request, shared, known))
        known += 1
    row[KNOWN] = known


@lean
def hits(s: Settings, texts: Texts, kv: Blocks, request: int, t: Array, tokens: int, slot: int) -> int:
    """Return how many blocks of a request's text are there already, and write them into a spare slot's table.

    The last of its tokens is always computed; so is the block that a drafter drops.
    """
    count, row = 0, kv.table[slot]
    while (count + 1) * s.block_size < tokens:
        block = find(kv, key_of(texts, s.block_size, request, t[SHARED], count))
        if block == 0:
            break
        row[TABLE + count] = block
        count += 1
    if s.drops_block and count > 0:
        count -= 1
    return count


@lean
def unused(kv: Blocks, slot: int, count: int) -> int:
    """Return how many of the first blocks in a spare slot's table nobody holds."""
    row, lone = kv.table[slot], 0
    for place in range(TABLE, TABLE + count):
        if kv.block[row[place]][USERS] == 0:
            lone += 1
    return lone


@lean
def occupy(kv: Blocks, count: int) -> int:
    """Take the next spare slot with the blocks that `hits` found for it; return the slot."""
    kv.free[SLOTS] -= 1
    slot: int = kv.spare[kv.free[SLOTS]]
    row = kv.table[slot]
    for place in range(TABLE, TABLE + count):
        block = row[place]
        if kv.block[block][USERS] == 0:
            unlink(kv, block)
        kv.block[block][USERS] += 1
    row[HELD] = count
    row[KNOWN] = count
    return slot


@lean
def release(kv: Blocks, slot: int) -> None:
    """Give back a slot and its blocks, the last of its text first."""
    row, front = kv.table[slot], 0
    for place in range(TABLE + row[HELD] - 1, TABLE - 1, -1):
        block = row[place]
        kv.block[block][USERS] -= 1
        if kv.block[block][USERS] == 0:
            if kv.key[block] == NO_KEY:
                link(kv, block, front)
                front = block
            else:
                link(kv, block, kv.block[0][PRECEDING])
    row[HELD] = 0
    row[KNOWN] = 0
    kv.spare[kv.free[SLOTS]] = slot
    kv.free[SLOTS] += 1
