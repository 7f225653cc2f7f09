"""How two models run on a device: their shapes, their number formats and where they are placed."""

from pathlib import Path

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.fields import read_json, shortened
from simulator.ground.names import one_of

from .drafters import draft_model
from .drafters.methods import method_named, methods
from .drafters.plan import Method, Tree
from .formats import FORMATS, PLAIN, Storage
from .model_costs import SAME, SEPARATE, ModelPair
from .parameters import DeviceOptions
from .profile import Profile
from .shapes import read_shape
from .stated import StatedModel
from .work import ModelShape

# Of static trees: levels, and tokens that are verified.
MOST_LEVELS, MOST_NODES = 64, 4096


def model_shape(name: str | None, stated: StatedModel, method: Method | None = None) -> ModelShape:
    """Return a model's shape, from its file or from what is stated of it; method: how it drafts, if that is stated."""
    if stated.first is None:
        return read_shape(str(name), method)
    path = Path(name) if name else Path()
    path = path / "config.json" if name and path.is_dir() else path
    config = read_json(path, any_number=True) if path.is_file() else None
    return stated.shape(name or f"a model of {stated.params} weights", config)


def drafter(options: DeviceOptions, numbers: StatedModel, target: ModelShape) -> tuple[Method, ModelShape]:
    """Return how a target's drafts are made, as the drafter's file or `--method` says, and what makes them.

    Raises:
        UserError: Neither is stated, or they are at odds.
    """
    stated = None if options.method is None else method_named(options.method)
    check_encoder(stated, target)
    if options.draft_model is None and numbers.first is None:
        if stated is None:
            what = f"--target-model: {options.target_model}" if options.target_model else "--params: a model"
            raise UserError(f"{what} alone, nothing drafts for it; expected --method or --draft-model beside it")
        if target.unstated and not stated.is_weightless:
            lacking = f"nobody states {' and '.join(target.unstated)} of {target.name}, which drafters are sized by"
            way_out = "expected a config.json that does (--target-model beside --params), or --draft-model"
            raise UserError(f"--method: {lacking}, {way_out}")
        return stated, stated.usual(target)
    draft = model_shape(options.draft_model, numbers, stated)
    method = method_named(draft.drafting.method) if draft.drafting else draft_model.METHOD
    if stated not in (None, method):
        raise UserError(
            f"--method: {stated.name}, but {draft.name} is a drafter of {method.name}, expected that or no such option"
        )
    check_encoder(method, target)
    return method, draft


def check_encoder(method: Method | None, target: ModelShape) -> None:
    """Refuse a method that drafts for decoders alone, of a target that has an encoder."""
    if target.encoder and method and not method.for_encoders:
        able = ", ".join(m.name for m in methods().values() if m.for_encoders and m.is_weightless)
        others = f"expected a --draft-model that has one as well, or {able}"
        raise UserError(f"--method {method.name}: {target.name} has an encoder, {others}")


def check_kinds(options: DeviceOptions, target: ModelShape, draft: ModelShape) -> None:
    """Refuse a draft of another kind than its target; of models of which numbers are stated alone, nobody knows."""
    if draft.parameters and target.family and draft.family and draft.kind != target.kind:
        names = options.draft_model or draft.name, options.target_model or target.name
        raise UserError(
            f"--draft-model {names[0]}: {draft.kind}, but --target-model {names[1]} is {target.kind}, "
            "expected two of a kind"
        )


def place_models(
    profile: Profile, options: DeviceOptions, target: ModelShape, draft: ModelShape, method: Method
) -> ModelPair:
    """Check how two models are to run."""
    devices, placement = (options.tp or 1) * (options.dp or 1), options.placement or SAME
    check_groups(options, target, draft)
    check_kinds(options, target, draft)
    if options.kv_dtype is not None and options.kv_dtype not in FORMATS:
        raise UserError(f"--kv-dtype: {options.kv_dtype!r} is not known, expected {one_of(FORMATS, options.kv_dtype)}")
    if devices > 1 and profile.link is None:
        raise UserError(f"--tp: {devices} devices, but the profile {profile.name} names no link, expected 1")
    if options.overlap and placement == SAME:
        raise UserError("--overlap: draft and target are on the same devices, expected --placement separate beside it")
    dtype = stored_as("--dtype", options.dtype, target, profile)
    # What the target's own file says of its weights holds for no other model, and neither does a quantization: engines
    # take that of the target alone.
    shared = options.dtype if options.dtype in PLAIN or method.is_within else None
    own = options.draft_dtype or shared or (None if draft.storage or draft.unread else usual_format(profile))
    draft_dtype = stored_as("--dtype" if own and own == shared else "--draft-dtype", own, draft, profile)
    if target.drafting:
        raise UserError(
            f"--target-model: {target.name} is a drafter ({target.drafting.architecture}), expected a model"
        )
    if method.waits and options.overlap:
        called = draft.drafting.architecture if draft.drafting else method.title
        raise UserError(f"--overlap: {called} waits for the target's states, expected no such option")
    why_same = "drafts without weights" if not draft.parameters else "is part of the target" if method.is_within else ""
    if why_same and placement == SEPARATE:
        raise UserError(f"--placement: {method.name} {why_same}, expected no such option")
    of_draft = devices_of_draft(options, draft)
    for option, sharing, shape in (
        ("--tp", options.tp or 1, target),
        ("--draft-tp" if options.draft_tp else "--tp", of_draft, draft),
    ):
        if shape.heads % sharing:
            raise UserError(
                f"{option}: {sharing} devices cannot share the {shape.heads} heads of {shape.name}, "
                f"expected a divisor of {shape.heads}"
            )
    if of_draft > devices and placement == SAME:
        raise UserError(f"--draft-tp: {of_draft} is above the {devices} of --tp, expected 1 to {devices}")
    return ModelPair(
        profile=profile,
        target=target,
        draft=draft,
        dtype=dtype,
        draft_dtype=draft_dtype,
        kv_dtype=options.kv_dtype,
        method=method,
        tree=tree_of(options, method),
        devices=devices,
        replicas=options.dp or 1,
        draft_devices=of_draft,
        placement=placement,
    )


def check_groups(options: DeviceOptions, target: ModelShape, draft: ModelShape) -> None:
    """Refuse groups of devices of a model without experts, or beside a draft that lies in memory."""
    if (options.dp or 1) == 1:
        return
    if not target.experts:
        apart = f"its replicas serve apart, each a share of the load: expected --concurrency divided by {options.dp}"
        raise UserError(f"--dp: {target.name} has no experts to share, {apart}, and no such option")
    if draft.parameters:
        raise UserError("--dp: drafts beside attention of several groups are not priced, expected no such option")


def devices_of_draft(options: DeviceOptions, draft: ModelShape) -> int:
    """Return how many devices share the draft: those of the target, unless said or placed apart.

    Where nobody names a draft, one of them if all cannot share it: engines allow no other numbers.
    """
    shared = (options.tp or 1) if (options.placement or SAME) == SAME else 1
    is_usual = options.draft_model is None and options.draft_params is None
    return options.draft_tp or (1 if is_usual and draft.heads % shared else shared)


def tree_of(options: DeviceOptions, method: Method) -> Tree | None:
    """Return how drafts branch, as `--topk` and `--nodes` say, or `--branching`."""
    option = "--topk" if options.branching is None else "--branching"
    if options.topk is None and options.nodes is None and options.branching is None:
        return None
    check_tree(options)
    if not method.branches:
        raise UserError(f"{option}: drafts of {method.title} do not branch, expected no such option")
    if options.branching is None:
        return Tree(options.topk or 1, options.nodes or 1)
    levels = branching(options.branching)
    return Tree(max(levels), 1 + int(np.cumprod(levels).sum()), levels)


def branching(text: str) -> tuple[int, ...]:
    """Read the children of every node by level, such as 4,2,1.

    Raises:
        UserError: They are no whole numbers above 0, or make too many nodes.
    """
    parts = text.split(",")
    levels = tuple(int(p) if p.strip().isascii() and p.strip().isdigit() and len(p) < 6 else 0 for p in parts)
    if min(levels) < 1 or len(levels) > MOST_LEVELS:
        raise UserError(f"--branching: {shortened(text)} is not allowed, expected children by level, such as 4,2,1")
    if (nodes := 1 + int(np.cumprod(np.array(levels, np.float64)).sum())) > MOST_NODES:
        raise UserError(f"--branching: {text} makes {nodes:,} tokens to verify, expected at most {MOST_NODES:,}")
    return levels


def check_tree(options: DeviceOptions) -> None:
    """Refuse half of what says how drafts branch, or too much of it."""
    if options.branching is not None and (options.topk or options.nodes):
        raise UserError(f"--branching: {options.branching} beside --topk or --nodes, expected one or the other")
    if (options.topk is None) != (options.nodes is None):
        one, other = ("--nodes", "--topk") if options.topk is None else ("--topk", "--nodes")
        raise UserError(f"{one}: {options.topk or options.nodes} alone, expected {other} beside it")


def usual_format(profile: Profile) -> str:
    """Return the number format of weights of which nothing is said: bfloat16 if the profile has it, else its first."""
    return "bfloat16" if "bfloat16" in profile.passes else next(iter(profile.passes), "bfloat16")


def stored_as(option: str, stated: str | None, shape: ModelShape, profile: Profile) -> str | Storage:
    """Return how a model's weights are stored: as stated, as its file says, or as is usual.

    Raises:
        UserError: The format is not known, the profile cannot compute in it, or the file names one that no one reads.
    """
    if stated is None and shape.unread:
        raise UserError(f"{shape.unread}, which is not read, expected {option} beside it")
    stored = shape.storage if stated is None else None
    dtype = stored.name if stored else stated or usual_format(profile)
    if not stored and dtype not in FORMATS:
        raise UserError(f"{option}: {dtype!r} is not known, expected {one_of(FORMATS, dtype)}")
    allowed = stored.format.arithmetic if stored else FORMATS[dtype].arithmetic
    if not set(allowed) & set(profile.passes):
        profile.refuse_format(option, dtype)
    return stored or dtype
