"""How a server is set: the numbers that its scheduler goes by, under the names that vLLM gives them."""

from typing import Any, NamedTuple

from simulator.ground.artefacts import UserError

VLLM, SGLANG, TRTLLM = 0, 1, 2
# Of a block within one text; more tokens than any context has.
MOST_BLOCKS_TEXT = 1 << 22
# SGLang's share of tokens to come: at first, the least of it, and steps from one to the other.
FIRST_RATIO, LEAST_SHARE, DECAY_STEPS = 0.7, 0.14, 600


class Settings(NamedTuple):
    """What a scheduler goes by; numbers alone, for compiled loops. Made by `settings_of`.

    Attributes:
        scheduler: Whose rules: VLLM, SGLANG, TRTLLM.
        max_num_batched_tokens, max_num_seqs, max_model_len: As vLLM's options.
        max_num_active_seqs: Requests that are admitted side by side, at most `max_num_seqs`.
        block_size, num_blocks: Tokens of a block of KV, and how many blocks can be used.
        chunked_prefill: A prompt may be read in parts.
        prefix_caching: Blocks that hold the same text are shared and kept while nobody needs their place.
        async_scheduling: A step is planned before the one before it has ended.
        by_priority: The smallest (priority, time of sending) is served first and preempted last, not the earliest.
        long_prefill_token_threshold: Tokens of a prompt in one step, where others are there; 0: no such limit.
        long_prefill_adaptive: It is never below a fair share of the step.
        reserve_full_isl: A prompt is admitted only where all of it has a place now.
        watermark_blocks: Blocks that stay free when a request is admitted beside others.
        k: Drafts a round at most; 0: no speculation.
        lookahead: Places in KV that a round reserves for the drafter.
        drops_block: A hit in the prefix cache is shortened by a block, which the drafter must read.
        draft_rows: Rows of a step that drafting needs beyond verification, for each request.
        pads: A request that comes back with one token to compute is padded with drafts that are never taken.
        reserves_output: TensorRT-LLM's: a request is admitted where all of its answer has a place too, and so stays.
        max_prefill_tokens: Of here on SGLang's: tokens of prompts in a step, where they are not read in parts.
        mixed_chunk: Those that run write a token each while prompts are read.
        by_prefix: Those wait in front of whom the prefix cache has most.
        ratio, least_ratio, ratio_decay: Share of the tokens to come of those that run that is kept free for them: at
            first, at least, and what it loses in each step that decodes.
    """

    scheduler: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_num_active_seqs: int
    max_model_len: int
    block_size: int
    num_blocks: int
    chunked_prefill: bool
    prefix_caching: bool
    async_scheduling: bool
    by_priority: bool
    long_prefill_token_threshold: int
    long_prefill_adaptive: bool
    reserve_full_isl: bool
    watermark_blocks: int
    k: int
    lookahead: int
    drops_block: bool
    draft_rows: int
    pads: bool
    reserves_output: bool
    max_prefill_tokens: int
    mixed_chunk: bool
    by_prefix: bool
    ratio: float
    least_ratio: float
    ratio_decay: float


def settings_of(
    *,
    num_blocks: int,
    max_model_len: int,
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    max_num_active_seqs: int | None = None,
    block_size: int = 16,
    watermark: float = 0.0,
    k: int = 0,
    is_dynamic: bool = False,
    scheduler: int = VLLM,
    schedule_conservativeness: float = 1.0,
    **others: Any,
) -> Settings:
    """Return settings as engines take them; others: further attributes of `Settings`, by default as the engine has.

    is_dynamic: The drafts of a round follow a table over the number of requests.
    schedule_conservativeness: SGLang's, which its shares are proportional to.

    Raises:
        UserError: A number is out of its range, or no request could ever be served.
    """
    whole = {
        "num_blocks": num_blocks,
        "max_model_len": max_model_len,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_num_seqs": max_num_seqs,
        "max_num_active_seqs": max_num_seqs if max_num_active_seqs is None else max_num_active_seqs,
        "block_size": block_size,
    }
    usual = usual_of(scheduler, schedule_conservativeness)
    # What vLLM alone sets aside for drafts.
    alone: dict[str, Any] = {"draft_rows": 0, "lookahead": 0, "drops_block": False} if scheduler != VLLM else {}
    pads = scheduler == VLLM and k > 0 and not is_dynamic
    # vLLM counts the one block that it keeps for itself.
    watermark_blocks = int(watermark * (num_blocks + 1))
    made = Settings(**{**usual, **whole, **others, **alone, "k": k, "watermark_blocks": watermark_blocks, "pads": pads})
    checked(made)
    return made


def usual_of(scheduler: int, schedule_conservativeness: float) -> dict[str, Any]:
    """Return what an engine has by default."""
    usual: dict[str, Any] = {
        "scheduler": scheduler,
        "chunked_prefill": True,
        "prefix_caching": True,
        "async_scheduling": True,
        "by_priority": False,
        "long_prefill_token_threshold": 0,
        "long_prefill_adaptive": False,
        "reserve_full_isl": True,
        "lookahead": 0,
        "drops_block": False,
        "draft_rows": 0,
        "reserves_output": scheduler == TRTLLM,
        "max_prefill_tokens": 16_384,
        "mixed_chunk": False,
        "by_prefix": False,
    }
    refuse(not 0 <= schedule_conservativeness < float("inf"), "schedule_conservativeness: expected a number from 0 on")
    ratio = min(FIRST_RATIO * schedule_conservativeness, 1.0)
    return usual | {
        "ratio": ratio,
        "least_ratio": ratio * LEAST_SHARE,
        "ratio_decay": ratio * (1 - LEAST_SHARE) / DECAY_STEPS,
    }


def checked(s: Settings) -> None:
    """Refuse settings under which a request could wait for ever."""
    for name in ("num_blocks", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "block_size"):
        refuse(getattr(s, name) < 1, f"{name} is {getattr(s, name)}, expected at least 1")
    for name in ("k", "lookahead", "draft_rows", "watermark_blocks", "long_prefill_token_threshold"):
        refuse(getattr(s, name) < 0, f"{name} is {getattr(s, name)}, expected at least 0")
    active, rows = s.max_num_active_seqs, s.draft_rows + s.k + 1
    refuse(not 1 <= active <= s.max_num_seqs, f"max_num_active_seqs is {active}, expected 1 to {s.max_num_seqs}")
    places = s.num_blocks * s.block_size
    refuse(places < s.max_model_len, f"max_model_len is {s.max_model_len:,}, expected at most {places:,} places in KV")
    least = rows if s.chunked_prefill or s.scheduler == SGLANG else max(rows, s.max_model_len)
    budget = s.max_num_batched_tokens
    refuse(budget < least, f"max_num_batched_tokens is {budget:,}, expected at least {least:,}")
    if s.scheduler != VLLM:
        refuse(s.by_priority, "by_priority: of vLLM's scheduler alone, expected no")
        refuse(
            s.long_prefill_token_threshold > 0, "long_prefill_token_threshold: of vLLM's scheduler alone, expected 0"
        )
    if s.scheduler == SGLANG:
        page, most = s.block_size, places - s.block_size - 1
        refuse(s.max_model_len > most, f"max_model_len is {s.max_model_len:,}, expected at most {most:,} beside a page")
        refuse(budget < page, f"max_num_batched_tokens is {budget:,}, expected at least a page of {page:,}")
    longest = MOST_BLOCKS_TEXT * s.block_size
    refuse(s.max_model_len > longest, f"max_model_len is {s.max_model_len:,}, expected at most {longest:,}")


def refuse(is_bad: bool, message: str) -> None:
    """Raise a UserError of this message where something is bad."""
    if is_bad:
        raise UserError(message)
