"""Bounds that every package keeps to."""

# Of a draft length K; engines stop far below.
MAX_DRAFT_LENGTH = 1024
