"""Bounds that every package keeps to."""

# Of a draft length K; engines stop far below.
MAX_DRAFT_LENGTH = 1024
# The longest that is looked at: without a histogram nothing bounds K; published sweeps stop at 16.
SEARCHED_DRAFT_LENGTHS = 16
# What libraries say, whatever the device, where memory is at an end.
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "buffer size", "outofmemory")


def lacks_memory(error: BaseException) -> bool:
    """Say whether an error tells that there is no memory left."""
    said = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in said for w in NO_MEMORY))
