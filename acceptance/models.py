"""Models through torch and transformers: load a pair, let the target write, score its text with both.

The only module that imports them; commands `require` both before they import it.
"""

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from simulator.artefacts import UserError

from .prompts import Prompt
from .trace import Trace

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A target and a draft that share one vocabulary, and the target's tokenizer, padding on the left."""

    target: Any
    draft: Any
    tokenizer: Any
    device: str
    dtype: str

    @property
    def context_length(self) -> int:
        """Tokens that both models can see at most."""
        limits = [getattr(m.config, "max_position_embeddings", None) for m in (self.target, self.draft)]
        return min([limit for limit in limits if limit], default=2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the target wrote for a batch of prompts, padded on both sides.

    ids: [batch, prompt columns + new columns]. mask: the same shape, 1 where a token of the prompt or the output is.
    prompt_columns: where the outputs begin. lengths: tokens each output has, end of sequence included, [batch].
    """

    ids: torch.Tensor
    mask: torch.Tensor
    prompt_columns: int
    lengths: torch.Tensor


def pick_device(device: str) -> str:
    """Resolve "auto", and refuse a device that torch does not know or have.

    Raises:
        UserError: Names the option, the device and what there is.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UserError(f"--device: {device!r} is not here, expected auto or one of {', '.join(there)}") from None
    return device


def pick_dtype(dtype: str, device: str) -> str:
    """Resolve "auto": float32 on a CPU, bfloat16 elsewhere."""
    if dtype != "auto":
        return dtype
    return "float32" if is_cpu(device) else "bfloat16"


def is_cpu(device: str) -> bool:
    return str(torch.device(device).type) == "cpu"


def load_part(option: str, name: str, load: Any) -> Any:
    """Load a model or tokenizer from a folder or the hub.

    Raises:
        UserError: One line: the option, the name, and the first line of what went wrong.
    """
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):  # noqa: PTH112
        raise UserError(f"{option} {name}: no such folder")
    try:
        return load(name)
    except Exception as error:  # transformers, safetensors and a model's own code raise what they like
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"{option} {name}: cannot be loaded ({reason})") from None


def check_same_vocabulary(target: str, draft: str, target_tokenizer: Any, draft_tokenizer: Any) -> None:
    """Refuse a pair whose tokenizers map text to different ids.

    Raises:
        UserError: Names both models, and a token on which they differ.
    """
    ours, theirs = target_tokenizer.get_vocab(), draft_tokenizer.get_vocab()
    if ours == theirs:
        return
    token = min(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    raise UserError(
        f"--draft {draft}: vocabulary differs from --target {target} "
        f"({len(theirs)} and {len(ours)} tokens; {token!r} is {theirs.get(token)} and {ours.get(token)}), "
        "expected the same tokenizer"
    )


def load_pair(target: str, draft: str, *, device: str, dtype: str) -> Pair:
    """Load both models and check that they share a vocabulary.

    Args:
        target: Folder or hub id.
        draft: Folder or hub id.
        device: torch device, or "auto".
        dtype: One of DTYPES, or "auto".

    Raises:
        UserError: A model cannot be loaded, or the vocabularies differ.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    load_tokenizer = transformers.AutoTokenizer.from_pretrained
    tokenizer = load_part("--target", target, load_tokenizer)
    check_same_vocabulary(target, draft, tokenizer, load_part("--draft", draft, load_tokenizer))
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)

    def load_model(name: str) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=DTYPES[dtype]).to(device).eval()
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise ValueError("its weights hold NaN or infinity")
        return model

    return Pair(
        target=load_part("--target", target, load_model),
        draft=load_part("--draft", draft, load_model),
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )


def end_tokens(model: Any) -> list[int]:
    """Token ids that end an output, as the model's own generation config says."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, Sequence) else [ends]


@torch.inference_mode()
def write(pair: Pair, prompts: Sequence[str], *, temperature: float, max_new_tokens: int, seed: int) -> Written:
    """Let the target continue a batch of prompts, KV-cached, sampling from its whole distribution.

    Args:
        pair: The models.
        prompts: Texts, none empty.
        temperature: 0 is greedy.
        max_new_tokens: Budget of each output.
        seed: Seeds torch inside; the caller's random state is left as it was.
    """
    batch = pair.tokenizer(list(prompts), return_tensors="pt", padding=True).to(pair.device)
    ends = end_tokens(pair.target)
    # Spelled out, because hub models bring top-k, top-p and penalties of their own, under which p is another law.
    rule = transformers.GenerationConfig(
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else 1.0,
        top_k=0 if temperature > 0 else 50,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pair.tokenizer.pad_token_id,
    )
    original, pair.target.generation_config = pair.target.generation_config, rule
    try:
        with torch.random.fork_rng(devices=[] if is_cpu(pair.device) else None):
            torch.manual_seed(seed)
            ids = pair.target.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    finally:
        pair.target.generation_config = original
    prompt_columns = batch.input_ids.shape[1]
    lengths = output_lengths(ids[:, prompt_columns:], ends)
    columns = torch.arange(ids.shape[1] - prompt_columns, device=ids.device)
    mask = torch.cat((batch.attention_mask, (columns < lengths[:, None]).long()), dim=1)
    return Written(ids=ids, mask=mask, prompt_columns=prompt_columns, lengths=lengths)


def check_prompts(pair: Pair, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    """Refuse prompts without a token, or that leave too little room in the context, before any model runs.

    Raises:
        UserError: Names the prompt's source, its tokens and how many there may be.
    """
    room = pair.context_length - max_new_tokens
    if room < 1:
        raise UserError(
            f"--max-new-tokens: {max_new_tokens} leaves no room for a prompt in the models' context of "
            f"{pair.context_length} tokens, expected at most {pair.context_length - 1}"
        )
    for prompt in prompts:
        length = len(pair.tokenizer(prompt.text).input_ids)
        if not 1 <= length <= room:
            raise UserError(
                f"--prompts: the prompt of {prompt.source} has {length} tokens, expected 1 to {room} "
                f"(context {pair.context_length}, --max-new-tokens {max_new_tokens})"
            )


def output_lengths(outputs: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """Return the tokens of each output, its first end token included; `outputs` is [batch, new columns]."""
    is_end = torch.isin(outputs, torch.tensor(ends, dtype=outputs.dtype, device=outputs.device))
    before = (is_end.cumsum(1) - is_end.long()) == 0
    return before.sum(1)


@torch.inference_mode()
def log_probabilities(model: Any, written: Written, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the outputs teacher-forced, in fp32 whatever the weights are.

    The token in column c is predicted by the logits of column c - 1; those of its own column predict the next one.

    Returns:
        The log-probability of each written token at `temperature` (at 1 when that is 0), and whether it is the
        model's first choice; both [batch, new columns], on the CPU.
    """
    columns = written.ids.shape[1] - written.prompt_columns
    seen, mask = written.ids[:, :-1], written.mask[:, :-1]
    # Left padding shifts absolute positions; models without such arguments have none to shift, or keep all logits.
    wanted = {"logits_to_keep": columns, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    taken = inspect.signature(model.forward).parameters
    optional = {name: value for name, value in wanted.items() if name in taken}
    logits = model(input_ids=seen, attention_mask=mask, use_cache=False, **optional).logits
    logits = logits[:, -columns:]
    tokens = written.ids[:, written.prompt_columns :]
    scored = []
    # Row by row, so that the fp32 copy is never larger than one output by the vocabulary.
    for row, token in zip(logits, tokens, strict=True):
        scaled = row.float() / (temperature or 1.0)
        chosen = scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(1)
        scored.append(torch.stack((chosen, (scaled.argmax(1) == token).float())))
    result = torch.stack(scored).cpu()
    return result[:, 0], result[:, 1] > 0.5


def acceptance_probabilities(pair: Pair, written: Written, temperature: float) -> NDArray[np.float64]:
    """Return a[t] of model §3 for every written token, [batch, new columns].

    Greedy: 1 where the draft's first choice is the token, else 0. Sampling: min(1, q(x) / p(x)).
    """
    log_q, is_first = log_probabilities(pair.draft, written, temperature)
    if temperature == 0:
        return np.asarray(is_first.numpy(), np.float64)
    log_p, _ = log_probabilities(pair.target, written, temperature)
    return np.asarray((log_q - log_p).clamp(max=0).exp().numpy(), np.float64)


def trace_of(pair: Pair, written: Written, temperature: float, first_prompt: int) -> Trace:
    """Return the trace of a batch whose first prompt has this index."""
    accept = acceptance_probabilities(pair, written, temperature)
    lengths = written.lengths.cpu().numpy()
    prompt_lengths = written.mask[:, : written.prompt_columns].sum(1).cpu().numpy()
    rows, columns = np.nonzero(np.arange(accept.shape[1]) < lengths[:, None])
    return Trace(
        token=written.ids[:, written.prompt_columns :].cpu().numpy()[rows, columns].astype(np.int32),
        accept=accept[rows, columns],
        prompt=(first_prompt + rows).astype(np.int32),
        position=columns.astype(np.int32),
        context_length=(prompt_lengths[rows] + columns).astype(np.int32),
    )
