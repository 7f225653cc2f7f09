"""Measures what a draft/target pair accepts, with transformers: a trace, then histograms. Times nothing."""
