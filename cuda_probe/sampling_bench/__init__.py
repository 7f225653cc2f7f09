"""Speculative sampling against its peers: the kernels of `sampling`, compiled torch, transformers' function."""
