"""Engines' policies replayed over a trace or a law, each step priced by costs of the simulator."""
