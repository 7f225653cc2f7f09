"""OpenAI-compatible servers: load that is put on them, what requests saw, and what the engine counted meanwhile."""
