"""What a measurement of a pair leaves aside: settings that servers take from the model, tokens without a row."""

from typing import Any

from .compat import encodes, feature_shape
from .model import STAND_IN, Pair, token_count
from .rule import SamplingRule

# Settings of a generation_config that change text and that no option of ours sets, and the values that do not.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("repetition_penalty", "encoder_repetition_penalty", "typical_p", "num_beams", "guidance_scale"), (1,)
    ),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff", "presence_penalty", "frequency_penalty"), (0,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "penalty_alpha", "top_h"), (0,)),
    **dict.fromkeys(("min_length", "min_new_tokens"), (0,)),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"), ([], {})),
    **dict.fromkeys(
        ("forced_bos_token_id", "forced_eos_token_id", "stop_strings", "exponential_decay_length_penalty"), ()
    ),
    **dict.fromkeys(("watermarking_config",), ()),
}
MAX_SHOWN = 40


def settings_left_aside(module: Any, rule: SamplingRule) -> dict[str, Any]:
    """Return what a model's generation_config asks for and a measurement by this rule does not do.

    Servers take it by default (vLLM: --generation-config auto), and so does `generate` of transformers.
    """
    config, usual = module.generation_config, type(module.generation_config)()
    samples = getattr(config, "do_sample", None) is not False
    measured = {"temperature": (rule.temperature,), "top_p": (rule.top_p,), "top_k": (rule.top_k,)}
    asked: dict[str, Any] = {}
    # An encoder-decoder model's decoder begins with it; what a model that hears may not write, it does not.
    done = ["forced_bos_token_id"] if encodes(module) else []
    done += ["suppress_tokens", "begin_suppress_tokens"] if done and feature_shape(module) else []
    for name, same in (measured | NEUTRAL).items():
        value = getattr(config, name, None)
        if name in done or (name in measured and not samples):
            continue
        if value not in (None, getattr(usual, name, None), *same):
            asked[name] = value
    if getattr(config, "do_sample", None) and rule.is_greedy and getattr(config, "temperature", None) is None:
        asked = {"temperature": 1.0} | asked
    return asked


def caveats(pair: Pair, rule: SamplingRule) -> list[str]:
    """Return a line for each thing that a measurement of this pair leaves aside."""
    notes = []
    if asked := settings_left_aside(pair.target.module, rule):
        what = ", ".join(f"{name} {str(value)[:MAX_SHOWN]}" for name, value in asked.items())
        text = "greedy text" if rule.is_greedy else f"text at temperature {rule.temperature:g}"
        options = [name for name in asked if name in ("temperature", "top_p", "top_k")]
        flags = ", ".join("--" + name.replace("_", "-") for name in options)
        can = f"; {flags} can be set" if options else ""
        notes.append(
            f"the target's generation_config asks for {what}, as servers take it by default: "
            f"measured is {text} without that{can}"
        )
    tokens, rows = token_count(pair.tokenizer), pair.draft.vocabulary
    if pair.same_vocabulary and rows < min(tokens, pair.target.vocabulary):
        notes.append(
            f"the draft has {rows} rows for a tokenizer of {tokens} tokens: it proposes none of the others, "
            f"and reads token {STAND_IN} where the target wrote one of them"
        )
    return notes
