"""Models through torch and transformers: loading, reading with a cache, the laws they give."""
