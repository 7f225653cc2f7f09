"""What a lossy method costs: how the target sees its output, and a task of texts with what really follows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import acceptance
from acceptance.models.context import context_of, padded
from acceptance.models.laws import rank
from acceptance.models.model import Model
from acceptance.text.said import source_of
from simulator.ground.fields import Field
from simulator.ground.records import Records, read_jsonl

# Held-out code, cut in two; see its README.
BUNDLED_TASK = Path(acceptance.__file__).parent / "tiny_pair" / "task.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """An output as the target sees it, whatever it was sampled from.

    mean_logp_nats: mean of ln p(token) at temperature 1. mean_rank: mean of how many tokens the target likes as much or
    more; 1 is its first choice. argmax_share: share of first choices. At temperature 0 both laws are point masses:
    1 less that share is the mean total variation, along the output, of the law emitted from and the target's.
    """

    mean_logp_nats: float
    mean_rank: float
    argmax_share: float


def of_output(target: Model, prompt: Sequence[int], output: Sequence[int]) -> Quality:
    """Let the target read an output in one pass. Prompt and output are token ids, neither empty."""
    tokens, valid = padded([[*prompt, *output]], target.device)
    logits = context_of(target, [prompt]).read(tokens[:, :-1], valid[:, :-1], len(output))[0].float()
    written = tokens[0, -len(output) :]
    log_p = logits.log_softmax(-1).gather(-1, written[:, None])
    ranks, log_p = (rank(logits, written) + 1).cpu(), log_p.cpu()  # not every device has float64
    return Quality(
        mean_logp_nats=float(log_p.double().mean()),
        mean_rank=float(ranks.double().mean()),
        argmax_share=float((ranks == 1).double().mean()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A text to continue and what really follows it; source: finds it again."""

    prompt: str
    reference: str
    source: str


def load_task(path: Path = BUNDLED_TASK) -> Records[Item]:
    """Read a task from JSONL.

    Raises:
        UserError: The file cannot be read or holds no usable item.
    """

    def read(record: Field, number: int) -> Item:
        prompt, reference = (record[name].text() for name in ("prompt", "reference"))
        return Item(prompt=prompt, reference=reference, source=source_of(record, f"{path.name}:{number}"))

    return read_jsonl(path, read, '{"prompt": "...", "reference": "..."}')
