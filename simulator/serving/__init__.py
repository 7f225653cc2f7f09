"""Serving under load in closed form: what a token and a first token take at a concurrency."""
