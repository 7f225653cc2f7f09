"""Timing: what is timed, how, when to stop, and the report of it."""
