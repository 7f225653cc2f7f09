"""Named random streams: one generator for each (seed, replication, name), so that adding one shifts no other."""

from zlib import crc32

import numpy as np


def stream(seed: int, replication: int, name: str) -> np.random.Generator:
    """Return the generator of this seed and replication, both >= 0, and of what is drawn, such as "acceptance"."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(replication, crc32(name.encode()))))
