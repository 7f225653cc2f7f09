"""Decoding methods, one algorithm a file."""
