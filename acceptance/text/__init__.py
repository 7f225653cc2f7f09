"""Prompts, texts and conversations, read from the formats people have."""
