"""Recorded traffic, one format a file; `all.py` is the list of them."""
