"""What a reader of a forecast for two models has to know before its numbers."""

from collections.abc import Iterator

import numpy as np

from .beyond import ERROR_A_DOUBLING, ERROR_OF_FORMAT
from .drafters import eagle, eagle3
from .model_costs import ModelPair
from .profile import USABLE_MEMORY
from .room import SHARES, hangs, room, with_share
from .step import Real
from .work import ModelShape

# Of a step: what a load adds is told of a batch from here on.
TOLD_SHARE = 0.2


def cautions(
    pair: ModelPair, draft_length: int | None = None, *, most_running: float = np.inf, **load: Real
) -> tuple[str, ...]:
    """Return what does not hold as the models are, a sentence each.

    Args:
        pair: Two models at work.
        draft_length: K, whose tokens the context has to hold as well.
        most_running: Sequences that the engine runs at once at most.
        load: Tokens of prompts (isl) and answers (osl), of a load; none: they decode a batch.
    """
    found = [*context_cautions(pair, draft_length or 0), *match_cautions(pair.target, pair.draft)]
    found += range_cautions(pair, draft_length or 0)
    found += link_cautions(pair)
    found += memory_cautions(pair, most_running, **load)
    found += [] if load else load_cautions(pair)
    found += (beyond.said for beyond in pair.beyond(**(load or {"context": pair.context})))
    found += stated_cautions(pair.target, pair.placed_target.storage.name, "--dtype")
    option = "--dtype" if pair.draft_dtype == pair.dtype else "--draft-dtype"
    found += stated_cautions(pair.draft, pair.placed_draft.storage.name, option)
    found += [pair.profile.assumed] if pair.profile.assumed else []
    return tuple(found)


def context_cautions(pair: ModelPair, draft_length: int) -> Iterator[str]:
    """Yield the models that were not made for such a context."""
    context = int(np.max(pair.context))
    for role, shape in (("target", pair.target), ("draft", pair.draft)):
        longest = shape.longest_context
        if role == "draft" and longest == pair.target.longest_context and "no --draft-model says" in shape.assumed:
            # A drafter that nobody names is as long as its target, of which that is said.
            continue
        if longest is not None and context + draft_length > longest:
            words = f"context {context:,}" + (f" with {draft_length:,} drafted tokens" if context <= longest else "")
            name = shape.stated_name or shape.name
            yield f"{words} is beyond the {longest:,} tokens that the {role} {name} was made for"


def range_cautions(pair: ModelPair, draft_length: int) -> Iterator[str]:
    """Yield where passes lie beyond what the profile was timed over, which widens the interval."""
    batch, context = (np.asarray(v, np.float64) for v in (pair.batch, pair.context))
    words = {"batch": "{:,.0f} sequences", "context": "{:,.0f} tokens of context", "tokens": "{:,.0f} tokens a pass"}
    words["weights"] = "models of {:.3g} weights"
    values = {"batch": batch, "context": context, "tokens": batch * (draft_length + 1)}
    both = (pair.placed_target, pair.placed_draft) if pair.has_weights else (pair.placed_target,)
    values["weights"] = np.array([placed.shape.parameters for placed in reversed(both)], np.float64)
    for placed in both:
        if placed.is_untimed:
            what, timed = f"{placed.shape.name} in {placed.storage.name}", ", ".join(pair.profile.passes)
            yield f"{what}: {pair.profile.name} was timed in {timed} alone; that adds {ERROR_OF_FORMAT:.0%}"
    for name, ends in pair.profile.timed.items():
        beyond = ends.doublings_beyond(values[name])
        if beyond.max() > 0:
            worst = words[name].format(values[name].flat[int(beyond.argmax())])
            timed = f"{ends.least:,.10g} to {ends.most:,.10g}"
            yield f"{worst}: {pair.profile.name} was timed at {timed}; each doubling beyond adds {ERROR_A_DOUBLING:.0%}"


def link_cautions(pair: ModelPair) -> Iterator[str]:
    """Yield that more devices share a model than the link of the profile joins."""
    link, most = pair.profile.link, max(pair.devices, pair.draft_devices or 1)
    if link is not None and link.devices is not None and most > link.devices:
        yield f"--tp: {most} devices, but the link of {pair.profile.name} joins {link.devices}: no network is priced"


def memory_cautions(pair: ModelPair, most_running: float, isl: Real = 0, osl: Real = 0) -> Iterator[str]:
    """Yield that it hangs on a share of the memory that nobody stated how many sequences run."""
    context = float(np.max(isl + np.asarray(osl) / 2 if np.any(isl) else pair.context))
    batch = int(min(np.max(pair.batch), most_running))
    if not hangs(pair, batch, context):
        return
    shares = (USABLE_MEMORY, *SHARES)
    counts = [min(int(room(with_share(pair, share), context)), batch) for share in shares]
    # Of a batch that decodes it is whether all of it fits.
    if len(set(counts)) > 1 and (np.any(isl) or max(counts) == batch):
        held = ", ".join(f"{count:,} at {share:.0%}" for count, share in zip(counts, shares, strict=True))
        said = f"of {batch:,} sequences memory holds {held} of it, and nobody says which share the engine uses"
        yield f"{said} (--gpu-memory-utilization, --mem-fraction-static)"


def load_cautions(pair: ModelPair) -> Iterator[str]:
    """Yield what a step takes under load besides, where it is much: a batch that decodes is priced without it."""
    target, batch = pair.placed_target, np.atleast_1d(np.asarray(pair.batch, np.float64))
    step_s = target.parts(batch, 1, float(np.min(pair.context))).total_s
    load_s = target.engine.under_load_s(target.shape.layers, batch)
    share = load_s / step_s
    if share.max() >= TOLD_SHARE:
        at = int(share.argmax())
        found = f"{1e3 * load_s.flat[at]:.3g} ms to a step of {1e3 * step_s.flat[at]:.3g} ms on {pair.profile.name}"
        yield f"a server under load adds {found}: --isl and --osl count it, a batch does not"


def match_cautions(target: ModelShape, draft: ModelShape) -> Iterator[str]:
    """Yield why a draft is none for this target."""
    if draft.parameters > target.parameters:
        sizes = f"{draft.parameters / 1e9:.2f} B and {target.parameters / 1e9:.2f} B weights"
        yield f"the draft {draft.name} is larger than its target {target.name}: {sizes}"
    if target.vocabulary and draft.vocabulary and target.vocabulary != draft.vocabulary:
        sizes = f"{target.vocabulary:,} and {draft.vocabulary:,} tokens"
        yield f"vocabularies differ ({sizes}): make sure that both models share a tokenizer"
    if draft.layers == 1 and not draft.drafting and draft.hidden_size == target.hidden_size:
        heads = " or ".join(m.METHOD.example for m in (eagle, eagle3))
        yield f"{draft.name} has one layer of its target's size: a head says so by its architectures ({heads})"
    if draft.drafting and draft.drafting.reads_states and draft.drafting.state_size != target.hidden_size:
        sizes = f"{draft.drafting.state_size:,} and {target.hidden_size:,}"
        yield f"{draft.name} reads states of its target, but their sizes differ ({sizes})"
    if draft.drafting and draft.drafting.deepest > target.layers:
        yield f"{draft.name} reads a state of layer {draft.drafting.deepest}, but {target.name} has {target.layers}"


def stated_cautions(shape: ModelShape, priced: str, option: str) -> Iterator[str]:
    """Yield where a stated number format stands for the file's, and what was assumed of a model."""
    if shape.storage is not None and shape.storage.name != priced:
        yield f"{shape.name} is stored in {shape.storage.name}, priced in {priced} as {option} states"
    elif shape.unread:
        yield f"{shape.unread}, priced in {priced} as {option} states"
    if shape.assumed:
        yield f"{shape.name}: {shape.assumed}"
