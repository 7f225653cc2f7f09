"""CUDA kernels, with their FLOP and bytes, and what they have to compute."""
