"""SGLang's flags of speculation, alone or among those of a whole command."""

import json
import re
import shlex
from typing import Any

from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Method
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.ranges import number_in

from .settings import (
    ACCEPTED,
    MOST_TEXT,
    NOT_FORECAST,
    NOTHING,
    UNUSED,
    EngineSettings,
    Recommended,
    Stated,
    Written,
    called,
    gathered,
    refuse_key,
    refuse_word,
    stated_format,
)

OPTION = "--from-sglang"
SPECULATIVE = "--speculative-"
# Algorithms whose draft length is a number of steps; that of others is a block's.
BY_STEPS = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE")
# Two names of one, which the drafter tells apart.
ONE = ("EAGLE", "NEXTN")
# Those that --speculative-adaptive is for.
ADAPTIVE = ("EAGLE", "EAGLE3", "NEXTN")
MOST_NODES = 65_536
# Flags by what we call them here.
ALSO = {
    "--model": "--model-path",
    "--tp-size": "--tp",
    "--tensor-parallel-size": "--tp",
    "--speculative-algo": "--speculative-algorithm",
    "--speculative-draft-model": "--speculative-draft-model-path",
}
# Flags of speculation, without what they begin with: those that options of ours are for, then what is said of others.
OURS: tuple[str, ...] = (
    "algorithm",
    "draft-model-path",
    "num-steps",
    "eagle-topk",
    "num-draft-tokens",
    "draft-model-quantization",
)
OURS += ("dflash-block-size", "dspark-block-size")
OTHERS = {
    **dict.fromkeys(
        ("draft-model-revision", "draft-load-format", "attention-mode", "draft-attention-backend"), NOTHING
    ),
    **dict.fromkeys(("moe-runner-backend", "moe-a2a-backend", "draft-page-size"), NOTHING),
    **dict.fromkeys(("accept-threshold-single", "accept-threshold-acc", "dflash-draft-window-size"), ACCEPTED),
    **dict.fromkeys(("ngram-min-match-window-size", "ngram-max-match-window-size", "ngram-match-type"), ACCEPTED),
    **dict.fromkeys(("ngram-branch-length", "ngram-capacity", "ngram-max-trie-depth"), ACCEPTED),
    **dict.fromkeys(("ngram-external-corpus-path", "ngram-external-sam-budget"), ACCEPTED),
    "ngram-external-corpus-max-tokens": ACCEPTED,
    **dict.fromkeys(
        ("ngram-min-bfs-breadth", "ngram-max-bfs-breadth", "token-map", "draft-kv-cache-dtype"), NOT_FORECAST
    ),
    **dict.fromkeys(
        ("dspark-confidence-threshold", "dspark-sps-table-path", "adaptive", "adaptive-config"), NOT_FORECAST
    ),
    **dict.fromkeys(("dspark-confidence-sts-path", "dspark-align-verify-tokens-to-graph-tier"), NOT_FORECAST),
}
KNOWN = tuple(SPECULATIVE + name for name in (*OURS, *OTHERS))
# Other flags that mean something here.
MEMORY = "--mem-fraction-static"
MODEL = ("--model-path", "--tp", MEMORY)
FORMATS = ("--dtype", "--quantization", "--kv-cache-dtype")
MARK = re.compile(r"--[a-zA-Z]")


def read(text: str) -> EngineSettings:
    """Read flags of SGLang, alone or behind the command that they are of.

    Raises:
        UserError: They tell no way of drafting, or SGLang would not take them.
    """
    flags = flags_in(text)
    told: dict[str, list[str]] = {NOTHING: [], NOT_FORECAST: [], ACCEPTED: [], UNUSED: []}
    for flag in flags.object():
        if flag.startswith(SPECULATIVE) and flag not in KNOWN:
            refuse_key(Field(None, OPTION, flag), KNOWN, "SGLang")
        name = flag.removeprefix(SPECULATIVE)
        if flag not in (*MODEL, *FORMATS) and name not in OURS:
            told[OTHERS.get(name, UNUSED)].append(flag)
    options: dict[str, Stated] = {}
    if flags["--model-path"].is_given:
        options["target_model"] = stated(flags["--model-path"], flags["--model-path"].text())
    if flags["--tp"].is_given:
        options["tp"] = stated(flags["--tp"], flags["--tp"].whole(1, 1024))
    if flags[MEMORY].is_given:
        options["gpu_memory_utilization"] = stated(flags[MEMORY], share_of(flags[MEMORY]))
    read_formats(flags, options, told)
    draft, algorithm = of(flags, "draft-model-path"), of(flags, "algorithm")
    name = algorithm.text().upper()
    method = method_of(algorithm, name, str(draft.value).lower() if draft.is_given else "")
    options["method"] = Stated(method.name, f"{algorithm.where} {name}")
    if draft.is_given:
        options["draft_model"] = stated(draft, draft.text())
    notes = read_lengths(flags, name, options)
    group = ONE if name in ONE else (name,)
    alike = tuple(m.name for m in methods().values() if m.engines.sglang in group)
    return EngineSettings(option=OPTION, options=options, notes=(*gathered(told), *notes), alike=alike)


def share_of(flag: Field) -> float:
    """Return a share above 0."""
    share = number_in(str(flag.value))
    if share is None or not 0 < share <= 1:
        flag.refuse("a number above 0, at most 1")
    return float(share)


def stated(flag: Field, value: str | float) -> Stated:
    """Return a value and the flag that states it."""
    return Stated(value, f"{flag.where} {flag.value}")


def of(flags: Field, name: str) -> Field:
    """Return the value of a flag of speculation."""
    return flags[SPECULATIVE + name]


def flags_in(text: str) -> Field:
    """Return flags and their values: text, whole numbers, lists of several, true where there is none."""
    if len(text) > MOST_TEXT:
        raise UserError(f"{OPTION}: {len(text):,} characters, expected at most {MOST_TEXT:,}")
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise UserError(f"{OPTION}: {str(error).lower()}, expected flags as a shell takes them") from None
    found: dict[str, list[str]] = {}
    last = None
    for word in words:
        if MARK.match(word):
            flag, has_value, value = word.partition("=")
            last = own_name(flag)
            if last in found:
                raise UserError(f"{OPTION}: {last[:80]} appears twice, expected it once")
            found[last] = [value] if has_value else []
        elif last is not None:
            found[last].append(word)
    if not found:
        raise UserError(
            f"{OPTION}: {text[:80]!r} holds no flag, expected those of SGLang (--speculative-algorithm ...)"
        )
    for flag in found:
        if not found[flag] and (flag in (*MODEL, *FORMATS) or flag.removeprefix(SPECULATIVE) in OURS):
            raise UserError(f"{OPTION}: {flag} has no value, expected one behind it")
    values = {flag: True if not v else in_numbers(v[0]) if len(v) == 1 else v for flag, v in found.items()}
    return Field(values, OPTION)


def own_name(flag: str) -> str:
    """Return a flag by its own name: of one of speculation, any beginning that no other has."""
    flag = ALSO.get(flag, flag)
    begins = [name for name in KNOWN if name.startswith(flag)]
    return begins[0] if flag not in KNOWN and flag.startswith(SPECULATIVE) and len(begins) == 1 else flag


def in_numbers(value: str) -> str | int:
    """Return a whole number, or text as it is."""
    return int(value) if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else value


def read_formats(flags: Field, options: dict[str, Stated], told: dict[str, list[str]]) -> None:
    """Add number formats; those that checkpoints tell themselves are only named."""
    dtype, quantization = flags["--dtype"], flags["--quantization"]
    weights = quantization if quantization.is_given else dtype
    pairs = (("dtype", weights), ("kv_dtype", flags["--kv-cache-dtype"]))
    for name, flag in (*pairs, ("draft_dtype", of(flags, "draft-model-quantization"))):
        if not flag.is_given or flag.text() in ("auto", "unquant"):
            continue
        found = stated_format(flag.text())
        if found is None:
            told[NOTHING].append(flag.where)
        else:
            options[name] = stated(flag, found)


def method_of(algorithm: Field, name: str, drafter: str) -> Method:
    """Return the method of an algorithm; EAGLE without a drafter, or with one that is called so, is MTP."""
    known = called("sglang")
    if name in ONE and (not drafter or "nextn" in drafter or "mtp" in drafter):
        return methods()["mtp"]
    if name not in known:
        refuse_word(algorithm, tuple(known))
    return known[name]


def read_lengths(flags: Field, algorithm: str, options: dict[str, Stated]) -> list[str]:
    """Add draft length and tree; return what is taken in another way than it is stated."""
    steps, topk, nodes = (of(flags, name) for name in ("num-steps", "eagle-topk", "num-draft-tokens"))
    tokens = nodes.whole(2, MOST_NODES) if nodes.is_given else None
    branches = topk.whole(1, 1024) if topk.is_given else 1
    if steps.is_given:
        steps.whole(1, MAX_DRAFT_LENGTH)
    if algorithm not in BY_STEPS:
        read_block(flags, algorithm, tokens, options)
        return []
    if not steps.is_given:
        if tokens is not None or topk.is_given:
            steps.refuse("the number of steps beside --speculative-eagle-topk and --speculative-num-draft-tokens")
        return []
    k = steps.whole(1, MAX_DRAFT_LENGTH)
    options["draft_length"] = stated(steps, k)
    if branches == 1:
        if not topk.is_given and tokens not in (None, k + 1):
            topk.refuse(f"it beside {tokens} draft tokens of {k} steps")
        if tokens in (None, k + 1):
            return []
        return [f"{nodes.where} {tokens} is taken as {k + 1}, steps + 1, as SGLang does without branches"]
    if tokens is None:
        nodes.refuse("the tokens of a tree that are verified")
    most = 1 + branches + (k - 1) * branches**2
    if not k < tokens <= most:
        nodes.refuse(f"{k + 1} to {most}: a tree of {k} steps of {branches} branches, and the token before it")
    options["topk"], options["nodes"] = stated(topk, branches), stated(nodes, tokens)
    return []


def read_block(flags: Field, algorithm: str, tokens: int | None, options: dict[str, Stated]) -> None:
    """Add the draft length of methods that draft a block: all that is verified but the token before it."""
    more = {"DFLASH": ("dflash-block-size", 1), "DSPARK": ("dspark-block-size", 0)}.get(algorithm)
    nodes = of(flags, "num-draft-tokens")
    block = of(flags, more[0]) if more else Field(None)
    if more is not None and block.is_given:
        k = block.whole(1 + more[1], MAX_DRAFT_LENGTH) - more[1]
        if tokens not in (None, k + 1):
            nodes.refuse(f"{k + 1}, as {block.where} {block.value} says")
        options["draft_length"] = stated(block, k)
    elif tokens is not None:
        if tokens - 1 > MAX_DRAFT_LENGTH:
            nodes.refuse(f"2 to {MAX_DRAFT_LENGTH + 1}")
        options["draft_length"] = stated(nodes, tokens - 1)


def written(said: Recommended) -> Written:
    """Return a recommendation as SGLang takes it, with a configuration of adaptive steps where it has those."""
    algorithm = said.method.engines.sglang
    if not algorithm:
        return Written(None, notes=(f"SGLang has no {said.method.title}",))
    if said.branches and algorithm not in BY_STEPS:
        return Written(None, notes=(f"SGLang drafts no trees with {algorithm}, expected chains: no --topk",))
    if said.tree is not None and said.tree.levels:
        return Written(None, notes=("SGLang grows its trees, expected --topk and --nodes in place of --branching",))
    if said.draft_length == 0:
        return Written(None)
    flags, notes = flags_of(said), list[str]()
    if said.lacks:
        notes.append(f"--speculative-draft-model-path, {said.lacks}, is yours to add")
    if said.draft_devices not in (None, said.devices):
        notes.append(f"SGLang shares a draft among all {said.devices} devices, not {said.draft_devices}")
    adaptive, lines = adaptive_config(said), [flags]
    if adaptive is not None:
        lines += ["--speculative-adaptive --speculative-adaptive-config FILE, which holds", json.dumps(adaptive)]
        if any(k == 0 for _, _, k in said.rows):
            notes.append("candidate_steps of 0 is plain decoding; releases of SGLang that refuse it want 1 there")
    elif len(said.rows) > 1:
        notes.append("SGLang has one draft length for all batch sizes here")
    return Written({"flags": flags, "adaptive_config": adaptive}, tuple(lines), tuple(notes))


def flags_of(said: Recommended) -> str:
    """Return the flags of a method at one draft length."""
    algorithm, k = said.method.engines.sglang, said.draft_length
    words: list[Any] = ["--speculative-algorithm", algorithm]
    words += ["--speculative-draft-model-path", said.draft] if said.draft is not None else []
    topk, nodes = 1, k + 1
    if said.tree is not None and said.branches:
        topk, nodes = said.tree.topk, said.tree.nodes
        k = min(k, nodes - 1)
    if algorithm in BY_STEPS:
        words += ["--speculative-num-steps", k, "--speculative-eagle-topk", topk]
    words += ["--speculative-dspark-block-size", k] if algorithm == "DSPARK" else []
    words += ["--speculative-ngram-max-bfs-breadth", 1] if algorithm == "NGRAM" else []
    words += ["--speculative-num-draft-tokens", nodes]
    words += ["--speculative-draft-model-quantization", said.draft_format] if said.draft_format else []
    return shlex.join(map(str, words))


def adaptive_config(said: Recommended) -> dict[str, Any] | None:
    """Return steps by the first batch size of each range, where SGLang has that; of 0 it decodes plainly."""
    if len(said.rows) < 2 or said.branches or said.method.engines.sglang not in ADAPTIVE:
        return None
    return {str(first): {"candidate_steps": [k]} for first, _, k in said.rows}
