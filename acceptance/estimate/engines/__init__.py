"""How engines choose draft lengths while they serve: policies that look at the whole batch, on a trace or a law."""

# What `--policy` takes, for help that imports no NumPy; `named` has them.
NAMES = ("static", "vllm-by-batch", "vllm-adaptive", "sglang-adaptive", "trt-llm", "llama-cpp")
NAMES_IN_WORDS = ", ".join(NAMES)
