"""Random workloads for schedulers: small, yet they reach queues, chunks, prefix hits, preemption, ends of texts."""

import random
from typing import Any

Workload = dict[str, Any]

# Of a workload that does not say otherwise. A request: arrival, prompt, output, priority; `accept`: drafts that are
# taken in its rounds, `propose`: drafts that are offered, both repeated from the front; `prefix`: the name of a text
# and how many of its first tokens the prompt begins with.
SETTINGS: dict[str, Any] = {
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 16,
    "max_num_active_seqs": None,
    "max_model_len": 1024,
    "block_size": 16,
    "num_blocks": 512,
    "chunked_prefill": True,
    "prefix_caching": True,
    "async_scheduling": False,
    "policy": "fcfs",
    "long_prefill_token_threshold": 0,
    "long_prefill_adaptive": False,
    "reserve_full_isl": True,
    "watermark": 0.0,
    "method": "draft_model",
    "k": 0,
    "k_per_batch": None,
    "step_us": 10_000,
    "token_us": 20,
}
LONGEST = 400


def draw(seed: int) -> Workload:
    """Return the workload of a seed: arrivals are whole microseconds."""
    rng = random.Random(seed)
    settings = draw_settings(rng)
    k = settings["k"]
    # The answers of some workloads run into max_model_len.
    room = rng.choice([120, 120, 10])
    now, requests = 0.0, []
    for _ in range(rng.randint(6, 30)):
        now += rng.expovariate(1 / rng.choice([0.001, 0.02, 0.1]))
        prompt = min(int(rng.lognormvariate(4, 1)) + 1, LONGEST - room)
        request = {
            "arrival": round(now, 6),
            "prompt": prompt,
            "output": rng.randint(1, 100),
            "accept": [rng.randint(0, k) for _ in range(rng.randint(1, 60))],
            "priority": rng.randint(0, 2),
        }
        if rng.random() < 0.3:
            request["propose"] = [rng.randint(0, k + 1) for _ in range(rng.randint(1, 9))]
        if rng.random() < 0.5:
            request["prefix"] = [rng.choice("ab"), rng.randint(1, prompt)]
        requests.append(request)
    return {"settings": settings, "requests": requests}


def draw_settings(rng: random.Random) -> dict[str, Any]:
    """Return settings under which every request of `draw` can be served."""
    block, k, seats = rng.choice([8, 16, 32]), rng.choice([0, 1, 2, 3, 5]), rng.choice([2, 4, 8, 16])
    is_chunked = rng.random() < 0.8
    settings = {
        "max_num_seqs": seats,
        "max_num_active_seqs": rng.choice([None, None, seats // 2]),
        "max_model_len": LONGEST,
        "block_size": block,
        "max_num_batched_tokens": rng.choice([64, 128, 256, 512]) if is_chunked else 512,
        "num_blocks": rng.choice([LONGEST, 2 * LONGEST, 4 * LONGEST]) // block + 2,
        "chunked_prefill": is_chunked,
        "prefix_caching": rng.random() < 0.6,
        "async_scheduling": rng.random() < 0.4,
        "policy": rng.choice(["fcfs", "fcfs", "priority"]),
        "method": rng.choice(["draft_model", "ngram", "eagle"]),
        "k": k,
        "long_prefill_token_threshold": rng.choice([0, 0, 40]),
        "long_prefill_adaptive": rng.random() < 0.3,
        "reserve_full_isl": rng.random() < 0.7,
        "watermark": rng.choice([0.0, 0.0, 0.05]),
    }
    if k > 0 and rng.random() < 0.3:
        rows, first = [], 1
        for _ in range(rng.randint(1, 3)):
            last = first + rng.randint(0, 5)
            rows.append([first, last, rng.randint(0, k + 1)])
            first = last + rng.randint(1, 3)
        settings["k_per_batch"] = rows
    return SETTINGS | settings
