"""The one place that knows what transformers calls things: found by running a model, not by reading its signature.

Between releases the input that takes the KV cache was renamed (`past_key_values` before 5.24, `cache` since), inputs
came and went, and caches of fixed size began to count what they hold (5.4).
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch

from simulator.ground.artefacts import UserError
from simulator.ground.tested import changed_interface

try:
    from transformers.cache_utils import (
        Cache,
        DynamicCache,
        DynamicLayer,
        DynamicSlidingWindowLayer,
        EncoderDecoderCache,
        StaticCache,
    )
    from transformers.modeling_outputs import BaseModelOutput
except ImportError as error:
    raise UserError(changed_interface("transformers", str(error))) from None

# Where an output holds no cache that it could be named by.
CACHE_INPUTS = ("cache", "past_key_values")
LOGITS, POSITIONS = "logits_to_keep", "position_ids"
OPTIONAL = (LOGITS, POSITIONS)
Found = TypeVar("Found")


def once_a_model(find: Callable[[Any], Found]) -> Callable[[Any], Found]:
    """Have a function of a model run it once for each."""
    known: WeakKeyDictionary[Any, Found] = WeakKeyDictionary()

    def found(module: Any) -> Found:
        if module not in known:
            with trying():
                known[module] = find(module)
        return known[module]

    return found


@contextmanager
def trying() -> Iterator[None]:
    """Try what a model takes, without gradients and whatever it warns of."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def attempt(run: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Return what a model gives, or None where it does not take this.

    Raises:
        OutOfMemoryError: That says nothing about what it takes.
    """
    try:
        return run(*given, **named)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model's own code raises what it likes
        return None


def first_tokens(module: Any, count: int) -> torch.Tensor:
    """Return some tokens that every vocabulary has, no two alike, [1, count]."""
    return torch.arange(count, device=module.device)[None]


def encodes(module: Any) -> bool:
    """Whether a model has an encoder, which reads a source, and a decoder, which writes."""
    return bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))


def feature_shape(module: Any) -> tuple[int, int] | None:
    """Return the shape of the features that an encoder reads, [channels, frames]; None where it reads tokens."""
    if module.main_input_name != "input_features":
        return None
    config, encoder = module.config, module.get_encoder()
    strides = math.prod(part.stride[0] for part in encoder.children() if isinstance(part, torch.nn.Conv1d))
    return config.num_mel_bins, config.max_source_positions * strides


def kind(module: Any) -> str:
    """Say what a model reads, and whether it has an encoder."""
    if not encodes(module):
        return "a decoder alone"
    return "an encoder-decoder of " + ("text" if feature_shape(module) is None else "sound")


def first_inputs(module: Any) -> dict[str, Any]:
    """Return inputs of one token, behind a source of nothing where a model reads one."""
    tokens = first_tokens(module, 1)
    if not encodes(module):
        return {"input_ids": tokens}
    states = torch.zeros((1, 1, module.config.hidden_size), dtype=module.dtype, device=module.device)
    return {"decoder_input_ids": tokens, "encoder_outputs": BaseModelOutput(last_hidden_state=states)}


@once_a_model
def cache_input(module: Any) -> str | None:
    """Return the name of the input that takes a KV cache, which then grows by what is read; None if there is none."""
    inputs = first_inputs(module)
    output = attempt(module, **inputs, use_cache=True)
    fields: dict[str, Any] = getattr(output, "__dict__", {})
    returned = [name for name, value in fields.items() if isinstance(value, Cache)]
    for name in dict.fromkeys((*returned, *CACHE_INPUTS)):
        cache = cross_cache(growing_cache())[0] if encodes(module) else growing_cache(getattr(module, "config", None))
        attempt(module, **inputs, use_cache=True, **{name: cache})
        if attempt(cache.get_seq_length) == 1:
            return name
    return None


@once_a_model
def optional_inputs(module: Any) -> frozenset[str]:
    """Return which of OPTIONAL have an effect: fewer logits; and positions, which then have to be as many as tokens."""
    if encodes(module):
        return frozenset()
    tokens = first_tokens(module, 2)
    fewer = attempt(module, input_ids=tokens, **{LOGITS: 1})
    as_many, too_many = (attempt(module, input_ids=tokens, **{POSITIONS: first_tokens(module, n)}) for n in (2, 3))
    heeded = {
        LOGITS: fewer is not None and fewer.logits.shape[1] == 1,
        POSITIONS: as_many is not None and too_many is None,
    }
    return frozenset(name for name, heeds in heeded.items() if heeds)


def keeps_logits(module: Any) -> bool:
    """Whether a model can be asked for the logits of its last tokens alone."""
    return LOGITS in optional_inputs(module)


def read_on(module: Any, tokens: torch.Tensor, cache: Any, **inputs: Any) -> Any:
    """Run a model on tokens that follow those in a cache, which grows by them; return its output.

    Args:
        module: A causal language model that takes a cache.
        tokens: Shape [rows, new].
        cache: One of those below.
        **inputs: Further ones; of OPTIONAL, those that have no effect are left out.
    """
    heeded = optional_inputs(module) if inputs.keys() & set(OPTIONAL) else ()
    inputs = {name: value for name, value in inputs.items() if name in heeded or name not in OPTIONAL}
    return module(input_ids=tokens, use_cache=True, **{str(cache_input(module)): cache}, **inputs)


def decode_on(
    module: Any,
    tokens: torch.Tensor,
    cache: Any,
    states: torch.Tensor,
    source_mask: torch.Tensor | None,
    *,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> Any:
    """Run the decoder of an encoder-decoder model on tokens that follow those in a cache; return its output.

    Args:
        module: An encoder-decoder model.
        tokens: Shape [rows, new].
        cache: The first of `cross_cache`; None: the tokens are all there are.
        states: What the encoder made of the sources, [rows, longest, d].
        source_mask: Which of it counts, [rows, longest]; None: all.
        mask: Of all columns that were read, [rows, columns], or what is added to scores, [rows, 1, new, columns].
        positions: Of the tokens, [rows, new], where a model would count columns in their place.
    """
    held = {} if cache is None else {str(cache_input(module)): cache}
    with placed(module, positions):
        return module(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=source_mask,
            decoder_input_ids=tokens,
            decoder_attention_mask=mask,
            use_cache=cache is not None,
            **held,
        )


def token_tables(module: Any) -> list[Any]:
    """Return the modules that look up tokens: one, or of an encoder-decoder model those of its halves as well."""
    parts = [module, *((module.get_encoder(), module.get_decoder()) if encodes(module) else ())]
    found = [part.get_input_embeddings() for part in parts if part.main_input_name == "input_ids"]
    return list({id(table): table for table in found}.values())


def table_of_positions(module: Any) -> Any:
    """Return what embeds the positions of a decoder's tokens; None where it goes by distances between columns."""
    return getattr(module.get_decoder(), "embed_positions", None)


@contextmanager
def placed(module: Any, positions: torch.Tensor | None) -> Iterator[None]:
    """Have a decoder put its tokens at these positions: few take them as an input, and the others count columns."""
    table = None if positions is None else table_of_positions(module)
    if table is None or positions is None:
        yield
        return
    at = positions + getattr(table, "offset", 0)
    hook = table.register_forward_hook(lambda *_: torch.nn.functional.embedding(at, table.weight))
    try:
        yield
    finally:
        hook.remove()


def cross_cache(cache: Any) -> tuple[Any, Any]:
    """Return a cache for an encoder-decoder model around one of its decoder's own tokens, and that of its source.

    The source's keys and values are made by the first pass, and stay.
    """
    source = DynamicCache()
    return EncoderDecoderCache(cache, source), source


def first_tokens_of(module: Any) -> tuple[int, ...]:
    """Return the tokens that a decoder begins with, by its generation config: the first, and those that are forced.

    Raises:
        ValueError: It names none.
    """
    config, usual = module.generation_config, module.config
    said = (getattr(c, name, None) for c in (config, usual) for name in ("decoder_start_token_id", "bos_token_id"))
    start = next((token for token in said if type(token) is int), None)
    if start is None:
        raise ValueError("its generation_config has no decoder_start_token_id")
    forced = dict(getattr(config, "forced_decoder_ids", None) or ())
    if (token := getattr(config, "forced_bos_token_id", None)) is not None:
        forced.setdefault(1, token)
    tokens = [start]
    while type(forced.get(len(tokens))) is int:
        tokens.append(forced[len(tokens)])
    return tuple(tokens)


def has_recurrent_state(module: Any) -> bool:
    """Whether a model remembers what it read in anything but keys and values of attention layers."""
    layers = growing_cache(module.config).layers
    return getattr(module, "_is_stateful", False) or not all(isinstance(layer, DynamicLayer) for layer in layers)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer that grows within memory it holds in advance: joining anew at every token copies all that was read."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add keys and values of new tokens; return those of all."""
        if not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys, self.values = self.joined("keys", key_states), self.joined("values", value_states)
        return self.keys, self.values

    def joined(self, name: str, new: torch.Tensor) -> torch.Tensor:
        """Return what is held and what is new, [..., tokens, size], side by side in one piece of memory."""
        held: torch.Tensor = getattr(self, name)
        room: torch.Tensor | None = self.__dict__.get(f"room_of_{name}")
        before, after = held.shape[-2], held.shape[-2] + new.shape[-2]
        # What is held may be another tensor by now: rows were chosen, or columns moved.
        fits = room is not None and room.shape[:-2] == held.shape[:-2] and room.shape[-2] >= after
        if room is None or not fits or room.data_ptr() != held.data_ptr() or room.stride() != held.stride():
            room = held.new_empty((*held.shape[:-2], after + max(64, after // 8), held.shape[-1]))
            room[..., :before, :] = held
            setattr(self, f"room_of_{name}", room)
        room[..., before:after, :] = new
        return room[..., :after, :]


def growing_cache(config: Any = None) -> Any:
    """Return an empty cache that grows: with layers as a config wants them, which may slide, or all that grow."""
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = RoomyLayer
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:
        cache.layer_class_to_replicate = RoomyLayer
    return cache


def fixed_cache(config: Any, columns: int) -> Any:
    """Return an empty cache of fixed size.

    Args:
        config: Of the model.
        columns: Tokens that it can hold.
    """
    return StaticCache(config=config, max_cache_len=columns)


def slides(cache: Any) -> bool:
    """Whether a layer of a growing cache drops what has left its window."""
    return any(isinstance(layer, DynamicSlidingWindowLayer) for layer in cache.layers)


def windows(config: Any) -> dict[str, int | None]:
    """Return how many tokens back each kind of a decoder's layers sees, its own among them; None: all.

    Raises:
        ValueError: A kind that sees otherwise.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"])
    seen = {"full_attention": None, "sliding_attention": window}
    if kinds - seen.keys():
        raise ValueError(f"its layers are of {', '.join(sorted(kinds - seen.keys()))}")
    return {kind: seen[kind] for kind in sorted(kinds)}


def cut(layer: Any, count: int) -> None:
    """Have a layer of a growing cache, or all of them, forget the last tokens."""
    if count:  # older releases take 0 for what stays, not for what goes
        layer.crop(-count)


def counts(layer: Any) -> bool:
    """Whether a layer of a cache of fixed size knows where the next token goes."""
    return hasattr(layer, "cumulative_length")


def set_length(cache: Any, length: int) -> None:
    """Say how many tokens a cache of fixed size holds."""
    for layer in cache.layers:
        if counts(layer):
            layer.cumulative_length.fill_(length)


def places(cache: Any, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the further inputs that say where in a cache of fixed size new tokens go, if it does not know.

    Args:
        cache: It.
        positions: Of the new tokens of its one sequence, [1, new].
    """
    return {} if all(map(counts, cache.layers)) else {"cache_position": positions[0]}


class OneRound(NamedTuple):
    """What a round of one sequence came to: accepted drafts and the token behind them, [1] each."""

    accepted: torch.Tensor
    token: torch.Tensor


def speculative_sampling(target: torch.Tensor, draft: torch.Tensor, drafted: torch.Tensor, seed: int) -> OneRound:
    """Decide on the drafts of one sequence as transformers' own generation does.

    Args:
        target: Logits behind each token, [1, K + 1, vocabulary], at temperature 1.
        draft: What the drafts were drawn from, [1, K, vocabulary].
        drafted: Shape [1, K].
        seed: Of its draws, after which torch goes on as if there had been none.
    """
    count = drafted.shape[1]
    generator = generator_of(target.device)
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        if not count:  # there is no function for that: it draws from the target
            return OneRound(drafted.new_zeros(1), torch.multinomial(target[:, 0].softmax(-1), 1)[:, 0])
        decide, rest = own_sampling()
        tokens, accepted = decide(drafted, draft, count, target, *rest)
    finally:
        generator.set_state(state)
    return OneRound(accepted.reshape(1), tokens[:, -1])


@cache
def own_sampling() -> tuple[Callable[..., Any], tuple[bool, ...]]:
    """Return what transformers decides on drafts by, and what it takes last: until 5, that the draft has not ended."""
    try:
        from transformers.generation.utils import _speculative_sampling
    except ImportError as error:
        raise UserError(changed_interface("transformers", str(error))) from None
    parameters = signature(_speculative_sampling).parameters.values()
    return _speculative_sampling, (False,) * (sum(p.default is p.empty for p in parameters) - 4)


def generator_of(device: torch.device) -> torch.Generator:
    """Return the generator that torch draws from on a device where none is given."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator if device.type == "cpu" else torch.mps._get_default_mps_generator()
