"""The chances of a recorded text, from a trace: what `acceptance` writes, as far as simulations take it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import Numbers, read_arrays
from .artefacts import UserError, check_kind, read_hashed
from .fields import read_json

KIND = "acceptance_trace"
# 1: one acceptance a position. 2: both kinds of draft, ranks, entropies, turns, prompts with categories.
# 3: margin_q, log_q and log_q_rejected, by which engines tell how sure a draft is.
SCHEMA_VERSIONS = (2, 3)
# What both files of a trace are of.
TOGETHER = "one measurement (one that was interrupted here goes on with the same command)"
WHOLE, UNIT = Numbers(dtype=np.int32, least=0), Numbers(dtype=np.float32, least=0, most=1)
SAMPLED, GREEDY = "accept_sampled", "accept_greedy"
READ = {SAMPLED: UNIT, GREEDY: Numbers(dtype=np.bool_), "position": WHOLE, "prompt": WHOLE}


class Output(NamedTuple):
    """An output of a trace: its prompt's category, and of each token the chance that its draft is accepted."""

    category: str
    likely: NDArray[np.float64]


def read_outputs(sidecar: Path) -> list[Output]:
    """Read the outputs of a trace by its JSON; of a draft at temperature 0 chances are 0 or 1.

    Raises:
        UserError: Names the file and what is wrong with it.
    """
    about = read_json(sidecar)
    check_kind(sidecar, about.object(), KIND, SCHEMA_VERSIONS)
    name, greedy = about["arrays"].text(), about["parameters"]["draft_temperature"].number(0) == 0
    if Path(name).name != name:
        about["arrays"].refuse("the name of the .npz beside it")
    categories = [prompt["category"].text(empty=True) for prompt in about["prompts"].elements()]
    path = sidecar.parent / name
    data, _ = read_hashed(path, about.object().get("arrays_sha256"), sidecar.name, of=TOGETHER)
    arrays = read_arrays(path, data, READ)
    likely = arrays[GREEDY if greedy else SAMPLED].astype(np.float64)
    starts = np.flatnonzero(arrays["position"] == 0)
    owners = arrays["prompt"][starts]
    if not len(starts) or starts[0] or owners.max() >= len(categories):
        raise UserError(f"{path}: not the outputs of {len(categories)} prompts, expected those of {sidecar.name}")
    pieces = np.split(likely, starts[1:])
    return [Output(categories[owner], piece) for owner, piece in zip(owners.tolist(), pieces, strict=True)]
