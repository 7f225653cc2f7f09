"""Measures a device: kernels that tell the truth about it, a timing harness, and what they found as a file."""
