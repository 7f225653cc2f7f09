"""A small file of recorded traffic for every reader, of some two."""

import json

from .test_workload_readers import AZURE, BAILIAN, BENCH, BURST, MOONCAKE, PLAIN, lines

SAID = {"conversations": [{"from": "human", "value": "Say it, please." * 3}, {"from": "gpt", "value": "It." * 9}]}
DONE = {"request_id": "a", "trigger": "completion", "delay_ms": 2.0}
AGENTS = [
    {"request_id": "a", "session_id": "s", "not_before_ms": 5.0} | MOONCAKE[0],
    {"request_id": "b", "dependencies": [DONE]} | MOONCAKE[1],
]
TURNS = {"question_id": 1, "category": "qa", "turns": ["a" * 8, "b"]}
SENT = {"type": "request", "arm": "server", "load": 2.0, "part": 0, "try": 1, "sent_s": 1.0, "e2e_s": 0.5}
SENT |= {"prompt_tokens": 9, "output_tokens": 4}
TRAFFIC = {
    "Azure": AZURE,
    "BurstGPT": BURST,
    "Mooncake": lines(MOONCAKE),
    "Bailian": lines(BAILIAN),
    "agents": lines(AGENTS),
    "agents with a heading": lines([{"schema": "agents", "block_size": 64}, *AGENTS]),
    "ShareGPT": json.dumps([SAID, SAID]),
    "vLLM bench": json.dumps(BENCH),
    "bench-server": lines([{"created_utc": "", "kind": "server_load", "parameters": {}}, SENT, SENT | {"part": 1}]),
    "rows": lines(PLAIN),
    "rows of CSV": "prompt_tokens;output_tokens;sent_s\n5;2;0\n7;3;1\n",
    "questions": lines([TURNS, TURNS]),
    "vLLM custom": lines([{"prompt": "a" * 9, "output_tokens": 6}, {"prompt": "b"}]),
}
