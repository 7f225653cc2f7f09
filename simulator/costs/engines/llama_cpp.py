"""llama.cpp's flags of speculation."""

import shlex

from .settings import Recommended, Written

NGRAM = "ngram-simple"
DRAFT = "draft-simple"


def written(said: Recommended) -> Written:
    """Return a recommendation as llama.cpp takes it: one draft length, as it has no other."""
    kind, k = said.method.engines.llama_cpp, said.draft_length
    if not kind:
        return Written(None, notes=(f"llama.cpp has no {said.method.title}",))
    if said.branches:
        return Written(None, notes=("llama.cpp drafts no trees, expected chains: no --topk",))
    if not k:
        return Written(None)
    notes = list[str]()
    model = ["--model-draft", f"{said.draft}.gguf"] if said.draft is not None else []
    if said.method.engines.needs_model:
        whose = f"a GGUF file of {said.draft}" if said.draft else f"{said.lacks}, a GGUF file,"
        notes.append(f"--model-draft: {whose} is yours to name")
    if len(said.rows) > 1:
        notes.append("llama.cpp has one draft length for all batch sizes")
    length = "--spec-ngram-simple-size-m" if kind == NGRAM else "--spec-draft-n-max"
    flags = shlex.join(["--spec-type", kind, *model, length, str(k)])
    older = None
    if kind in (NGRAM, DRAFT):
        older = shlex.join([*(["--spec-type", kind] if kind == NGRAM else []), *model, "--draft-max", str(k)])
    lines = (flags, *([f"older releases: {older}"] if older else []))
    return Written({"flags": flags, "older_flags": older}, lines, tuple(notes))
