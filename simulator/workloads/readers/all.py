"""All formats of recorded traffic; of several that a file could be, the first."""

from . import agentic, azure, bench_server, burstgpt, mooncake, plain, prompts, sharegpt, vllm_bench
from .format import Format

FORMATS: tuple[Format, ...] = (
    azure.FORMAT,
    burstgpt.FORMAT,
    agentic.HEADED,
    agentic.FORMAT,
    mooncake.BAILIAN,
    mooncake.MOONCAKE,
    sharegpt.FORMAT,
    vllm_bench.FORMAT,
    bench_server.FORMAT,
    plain.FORMAT,
    prompts.QUESTIONS,
    prompts.CUSTOM,
)
