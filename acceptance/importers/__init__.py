"""Acceptance that was measured elsewhere, read into our histogram: one format a module."""
