"""Real decoding, measured: methods side by side on the same prompts."""
