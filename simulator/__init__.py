"""Discrete-event simulator of speculative decoding: costs, acceptance, rounds, sweeps. Measures nothing."""
