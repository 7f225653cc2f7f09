"""vLLM's own scheduler at work on a workload, with a stub in place of the model: what it plans, a record a step.

The stub's clock is that of `workloads.SETTINGS`; the calls come in the order of vLLM's engine core. Needs vLLM 0.32, on
any platform, without a GPU or weights.
"""

import json
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, SpeculativeConfig, VllmConfig
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

Workload = dict[str, Any]
Record = dict[str, Any]
SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64}
SHAPE |= {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 32000}
SHAPE |= {"max_position_embeddings": 131072, "torch_dtype": "float16"}
# More tokens than a workload has for one request.
APART = 1 << 20


def scheduler_of(s: dict[str, Any]) -> Any:
    """Return vLLM's scheduler under these settings, for a model of one layer of which only the config exists."""
    limits = SchedulerConfig(
        max_num_batched_tokens=s["max_num_batched_tokens"],
        max_num_seqs=s["max_num_seqs"],
        max_num_active_seqs=s["max_num_active_seqs"],
        max_model_len=s["max_model_len"],
        enable_chunked_prefill=s["chunked_prefill"],
        is_encoder_decoder=False,
        long_prefill_token_threshold=s["long_prefill_token_threshold"],
        long_prefill_token_threshold_adaptive=s["long_prefill_adaptive"],
        policy=s["policy"],
        scheduler_reserve_full_isl=s["reserve_full_isl"],
        watermark=s["watermark"],
    )
    cache = CacheConfig(block_size=s["block_size"], enable_prefix_caching=s["prefix_caching"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPE))
        model = ModelConfig(model=folder, skip_tokenizer_init=True, dtype="float16", max_model_len=s["max_model_len"])
        common = {"model_config": model, "scheduler_config": limits, "cache_config": cache}
        config = VllmConfig(**common)
        if s["k"]:
            more = {} if s["method"] == "ngram" else {"model": folder}
            if s["k_per_batch"]:
                more["num_speculative_tokens_per_batch_size"] = s["k_per_batch"]
            spec = SpeculativeConfig(
                method=s["method"],
                num_speculative_tokens=s["k"],
                target_model_config=model,
                target_parallel_config=config.parallel_config,
                **more,
            )
            config = VllmConfig(**common, speculative_config=spec)
    # vLLM keeps one block for itself; on a processor it had turned async scheduling off.
    cache.num_gpu_blocks = s["num_blocks"] + 1
    limits.async_scheduling = s["async_scheduling"]
    layer = FullAttentionSpec(block_size=s["block_size"], num_kv_heads=1, head_size=64, dtype=torch.float16)
    groups = [KVCacheGroupSpec(["layer"], layer)]
    kv = KVCacheConfig(num_blocks=cache.num_gpu_blocks, kv_cache_tensors=[], kv_cache_groups=groups)
    kind = AsyncScheduler if s["async_scheduling"] else Scheduler
    manager = StructuredOutputManager(config)
    return kind(vllm_config=config, kv_cache_config=kv, structured_output_manager=manager, block_size=s["block_size"])


def requests_of(wanted: list[dict[str, Any]], s: dict[str, Any]) -> list[Request]:
    """Return vLLM's requests: no token of one is in another but in shared prefixes. Names sort as they came."""
    init_none_hash(sha256)
    hasher = get_request_block_hasher(s["block_size"], sha256) if s["prefix_caching"] else None
    names: dict[str, int] = {}
    made = []
    for i, r in enumerate(wanted):
        tokens = [(i + 1) * APART + n for n in range(r["prompt"])]
        if r.get("prefix"):
            name, length = r["prefix"]
            start = -APART * (1 + names.setdefault(name, len(names)))
            tokens[:length] = [start - n for n in range(min(length, r["prompt"]))]
        params = SamplingParams(max_tokens=r["output"], ignore_eos=True)
        more = {"arrival_time": r["arrival"], "priority": r["priority"], "block_hasher": hasher}
        made.append(Request(f"{i:06}", tokens, params, None, **more))
    return made


class Stub:
    """Answers a plan as a model would: a token of each request that is through its prompt, and the drafts taken."""

    def __init__(self, wanted: list[dict[str, Any]]) -> None:
        self.wanted = wanted
        self.rounds, self.asked = [0] * len(wanted), [0] * len(wanted)
        self.token = 0

    def drafts(self, name: str, k: int) -> list[int]:
        """Return the drafts of a request's next round."""
        i = int(name)
        offered = self.wanted[i].get("propose") or [k]
        self.asked[i] += 1
        return [1] * min(k, offered[(self.asked[i] - 1) % len(offered)])

    def answer(self, plan: Any, sampling: set[str], padded: set[str]) -> ModelRunnerOutput:
        """Return what a step gives: padding is never taken, no token comes twice."""
        names, sampled = list(plan.num_scheduled_tokens), []
        for name in names:
            drafts, taken, i = len(plan.scheduled_spec_decode_tokens.get(name, ())), 0, int(name)
            if drafts and name not in padded:
                accept = self.wanted[i]["accept"]
                taken = min(drafts, accept[self.rounds[i] % len(accept)])
                self.rounds[i] += 1
            count = 1 + taken if name in sampling else 0
            sampled.append([self.token - n for n in range(1, count + 1)])
            self.token -= count
        places = {name: place for place, name in enumerate(names)}
        return ModelRunnerOutput(req_ids=names, req_id_to_index=places, sampled_token_ids=sampled)


def record_of(scheduler: Any, plan: Any, step: int, now: float, done: float) -> tuple[Record, set[str]]:
    """Return what a plan says, and who was admitted by it."""
    again = plan.scheduled_cached_reqs
    resumed = set(again.resumed_req_ids)
    found = {r.req_id: r.num_computed_tokens for r in plan.scheduled_new_reqs}
    found |= {n: c for n, c in zip(again.req_ids, again.num_computed_tokens, strict=True) if n in resumed}
    record = {
        "step": step,
        "planned_us": round(now * 1e6),
        "done_us": round(done * 1e6),
        "tokens": [(int(n), count) for n, count in plan.num_scheduled_tokens.items()],
        "drafts": [(int(n), len(d)) for n, d in plan.scheduled_spec_decode_tokens.items()],
        "new": [int(r.req_id) for r in plan.scheduled_new_reqs],
        "resumed": sorted(map(int, resumed)),
        "preempted": sorted(map(int, plan.preempted_req_ids or ())),
        "cached": sorted((int(n), count) for n, count in found.items() if count),
        "running": [int(r.request_id) for r in scheduler.running],
        "waiting": [int(r.request_id) for r in scheduler.waiting],
        "free_blocks": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
        "next_k": plan.num_spec_tokens_to_schedule,
    }
    return record, set(found)


def plans(workload: Workload) -> Iterator[Record]:
    """Yield a record a step, with what its output did."""
    s, wanted = workload["settings"], sorted(workload["requests"], key=lambda r: r["arrival"])
    scheduler, stub = scheduler_of(s), Stub(wanted)
    coming, flying = deque(requests_of(wanted, s)), deque[Any]()
    depth, now, busy_until, step = 2 if s["async_scheduling"] else 1, 0.0, 0.0, 0
    while coming or flying or scheduler.has_requests():
        while coming and coming[0].arrival_time <= now + 1e-12:
            scheduler.add_request(coming.popleft())
        if scheduler.has_requests():
            plan = scheduler.schedule()
            total = plan.total_num_scheduled_tokens
            sampling = {n for n in plan.num_scheduled_tokens if not scheduler.requests[n].is_prefill_chunk}
            busy_until = max(now, busy_until) + ((s["step_us"] + s["token_us"] * total) / 1e6 if total else 0)
            record, admitted = record_of(scheduler, plan, step, now, busy_until)
            flying.append((plan, stub.answer(plan, sampling, admitted), record, sampling, busy_until))
            step += 1
            if len(flying) < depth and (total or scheduler.has_requests()):
                continue
        elif not flying:
            now = max(now, coming[0].arrival_time)
            continue
        plan, output, record, sampling, done = flying.popleft()
        now = max(now, done)
        results = scheduler.update_from_output(plan, output)
        if s["k"] and not s["async_scheduling"] and sampling:
            drafts = [stub.drafts(n, plan.num_spec_tokens_to_schedule) for n in sampling]
            scheduler.update_draft_token_ids(DraftTokenIds(list(sampling), drafts))
        outputs = [o for r in results.values() for o in r.outputs]
        record["emitted"] = [(int(o.request_id), len(o.new_token_ids)) for o in outputs]
        record["finished"] = [int(o.request_id) for o in outputs if o.finish_reason is not None]
        yield record
