"""Measuring a pair: from prompts to a trace, and the check by the real loop."""
