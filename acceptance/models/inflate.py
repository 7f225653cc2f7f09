"""A target that says the same and costs more: residual blocks are added behind its own whose outputs are all zero.

So a realistic ratio of draft cost to target cost, with real acceptance, exists on any machine. The added blocks attend,
cache keys and values and multiply by random weights as any others; only their last projections are zero, and adding
zero leaves the residual stream as it is, bit for bit.
"""

import copy
import math
import os
from dataclasses import replace
from typing import Any

import torch

from simulator.ground.artefacts import UserError

from .model import Model

MAX_TIMES = 1000
LAYER_LISTS = ("model.layers", "transformer.h")
# What feeds the residual stream: of attention and FFN in Llama's relatives, of both in GPT-2.
OUTPUTS = ("o_proj", "down_proj", "c_proj")
WIDTHS = ("intermediate_size", "n_inner")
DEPTHS = ("num_hidden_layers", "n_layer")


def inflate(model: Model, times: float) -> Model:
    """Return a model with the same logits, a pass of which multiplies by `times` as many weights.

    Depth grows with the square root of `times`, and the added blocks' FFNs are as wide as it takes for the rest.

    Args:
        model: A dense decoder of Llama's kind, or GPT-2.
        times: At least 1; 1 returns the model itself.

    Raises:
        UserError: A number that is not allowed, a model of another kind, or one that would not fit in memory.
    """
    if not 1 <= times <= MAX_TIMES:
        raise UserError(f"--inflate-target: {times:g} is not allowed, expected 1 to {MAX_TIMES}")
    if times == 1:
        return model
    check_room(model, times)
    try:
        inflated = replace(model, module=add_blocks(copy.deepcopy(model.module), times))
        same = same_logits(model, inflated)
    except (AttributeError, TypeError, KeyError, RuntimeError, ValueError, StopIteration):
        same = False
    if not same:
        kind = model.module.config.model_type
        raise UserError(f"--inflate-target: {kind} cannot be inflated, expected a dense Llama-like model or gpt2")
    return inflated


def pass_weights(module: Any) -> int:
    """Return how many weights a pass over one token multiplies by: the embedding is looked up, the head counts."""
    tables = {id(module.get_input_embeddings().weight)} - {id(module.get_output_embeddings().weight)}
    positions = getattr(getattr(module, "transformer", None), "wpe", None)
    if positions is not None:
        tables.add(id(positions.weight))
    return sum(p.numel() for p in module.parameters() if p.ndim > 1 and id(p) not in tables)


def check_room(model: Model, times: float) -> None:
    """Refuse what would not fit, before anything is allocated."""
    needed = int(pass_weights(model.module) * (times - 1) * model.module.dtype.itemsize)
    if str(model.device).startswith("cuda"):
        free = int(torch.cuda.mem_get_info(model.device)[0])
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise UserError(
            f"--inflate-target: {times:g} takes {needed / 2**30:.1f} GiB more, expected at most {free / 2**30:.1f} GiB"
        )


def add_blocks(module: Any, times: float) -> Any:
    """Add the blocks to a module, in place."""
    layers = next(module_list for path in LAYER_LISTS if (module_list := attribute(module, path)) is not None)
    config = module.config
    depth_name = next(name for name in DEPTHS if name in config.to_dict())
    depth, block = len(layers), layers[0]
    blocks = math.ceil(depth * (math.sqrt(times) - 1))
    missing = pass_weights(module) * (times - 1) / blocks
    wider = copy.deepcopy(config)
    name, width = width_of(config, block)
    per_column = sum(p.numel() for p in block.mlp.parameters() if p.ndim > 1) // width
    rest = sum(p.numel() for p in block.parameters() if p.ndim > 1) - per_column * width
    setattr(wider, name, max(1, round((missing - rest) / per_column)))
    setattr(config, depth_name, depth + blocks)
    for settings in (config, wider):
        if getattr(settings, "layer_types", None):
            settings.layer_types = [config.layer_types[i % depth] for i in range(depth + blocks)]
    for index in range(depth, depth + blocks):
        added = type(block)(wider, index).to(module.device, module.dtype).eval()
        for part, child in added.named_modules():
            if part.rpartition(".")[2] in OUTPUTS:
                for parameter in child.parameters():
                    parameter.data.zero_()
        layers.append(added)
    return module


def width_of(config: Any, block: Any) -> tuple[str, int]:
    """Return the name of the FFN's width in a config, and the width."""
    name = next(n for n in WIDTHS if n in config.to_dict())
    projection = next(c for n, c in block.mlp.named_modules() if n in ("up_proj", "gate_up_proj", "c_fc"))
    # GPT-2 keeps its matrices the other way round, and None where the width is four times the hidden size.
    return name, getattr(config, name) or int(max(projection.weight.shape))


def attribute(module: Any, path: str) -> Any:
    """Return a nested attribute, or None."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def same_logits(model: Model, inflated: Model) -> bool:
    """Whether both give the same logits, bit for bit, on a few tokens."""
    tokens = torch.arange(24, device=model.device)[None] % model.vocabulary
    with torch.inference_mode():
        plain, other = (m.module(tokens).logits for m in (model, inflated))
    return bool(torch.equal(plain, other))
