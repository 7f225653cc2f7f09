"""Runs of bench-decode whose truth is known: rounds drawn from a law, each as long as a cost says, in its own files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from acceptance.bench.clock import PHASES, Phases
from acceptance.bench.machine import surroundings
from acceptance.bench.record import Measured, Origin, Skipped, as_record
from acceptance.decoders.batch import Round
from acceptance.results.journal import KIND, SCHEMA_VERSIONS, to_line
from acceptance.results.settings import config_sha256
from simulator.costs.step import step_s
from simulator.ground.artefacts import envelope

ALPHA = 0.8
# What every record says of where it comes from.
ALWAYS = {"is_exact": True, "prompt_category": "", "prompt_tokens": 7, "run": 0}
ALWAYS |= {"timestamp_utc": "2026-01-02T03:04:05+00:00"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Seconds of a pair at work. A target pass: seconds a token and seconds of the weights, joined by an exponent."""

    token_s: float = 2e-4
    weights_s: float = 8e-3
    exponent: float = 2.0
    draft_step_s: float = 6e-4
    draft_start_s: float = 2e-4
    rest_s: float = 3e-4
    plain_rest_s: float = 1e-4

    @cache  # noqa: B019 - of a few
    def target_s(self, tokens: int) -> float:
        """Return what a pass over so many tokens takes."""
        return float(
            step_s(tokens, 1, flop_scale=self.token_s, mem_scale=self.weights_s, overlap_exponent=self.exponent)
        )

    def draft_s(self, drafted: int) -> float:
        """Return what drafting takes in a round."""
        return self.draft_start_s + drafted * self.draft_step_s if drafted else 0.0


def draw_rounds(k: int, tokens: int, alpha: float, rng: np.random.Generator) -> list[Round]:
    """Decode an output: rounds of i.i.d. acceptance; a round never drafts into the last token of the budget."""
    found, left = [], tokens
    while left:
        drafted = min(k, left - 1)
        misses = np.flatnonzero(rng.random(drafted) >= alpha)
        accepted = int(misses[0]) if len(misses) else drafted
        counts = {"start": tokens - left, "accepted": accepted, "committed": accepted + 1, "leaves": min(drafted, 1)}
        counts |= dict.fromkeys(("drafted", "draft_passes", "depth"), drafted)
        found.append(Round(**counts, cut_by="" if drafted == k else "max"))
        left -= accepted + 1
    return found


def phases_of(batch: Sequence[Sequence[int]], truth: Truth, noise: float, rng: np.random.Generator) -> Phases:
    """Return what a batch takes, drafted tokens by row and round: a step is as long as its longest row."""
    sums = dict.fromkeys(("draft", "verify", "sample"), 0.0)
    is_plain = not any(map(any, batch))
    for i in range(max(map(len, batch))):
        drafted = max(rounds[i] for rounds in batch if i < len(rounds))
        sums["draft"] += truth.draft_s(drafted)
        sums["verify"] += truth.target_s(drafted + 1)
        sums["sample"] += truth.plain_rest_s if is_plain else truth.rest_s
    times = {f"{name}_s": s * float(np.exp(noise * rng.standard_normal())) for name, s in sums.items()}
    times |= {"prefill_s": 0.03, "kv_s": 0.0, "other_s": 0.0}
    return Phases(**times, total_s=sum(times.values()), first_token_s=0.031)


def header(lengths: Sequence[int], changes: Mapping[str, object]) -> dict:
    """Return the first line."""
    knobs = {f"k{k}": {"name": f"k{k}", "method": "speculative", "knobs": {"k": k}} for k in lengths}
    plain = {"name": "baseline", "method": "baseline", "knobs": {"k": 4}}
    models = {role: {"name": f"made-{role}", "revision": None} for role in ("target", "draft")}
    parameters = {"items_sha256": "0" * 64, "models": models, "methods": [plain, *knobs.values()], "dtype": "bfloat16"}
    parameters |= {"seed": 0, "runs": 1, "inflate_target": 4.0, "temperature": 0.0, "system": {"cpu": "Made CPU"}}
    parameters |= changes
    found = envelope(KIND, SCHEMA_VERSIONS[-1], parameters | {"config_sha256": config_sha256(parameters)})
    return found | {"environment": found["environment"] | surroundings(["cpu"])}


def write_decode(
    path: Path,
    truth: Truth | None = None,
    *,
    lengths: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
    prompts: int = 12,
    tokens: int = 64,
    batch: int = 1,
    alpha: float = ALPHA,
    noise: float = 0.0,
    seed: int = 0,
    failed: Sequence[tuple[str, int]] = (),
    **changes: object,
) -> Path:
    """Write a run of outputs of equal length; noise: of each phase of each batch, relative.

    failed: methods and batches whose records are errors. changes: of the parameters in the header.
    """
    rng = np.random.default_rng(seed)
    lines = [header(lengths, {"prompt_count": prompts, "max_new_tokens": tokens, "batch_size": batch} | changes)]
    for number, first in enumerate(range(0, prompts, batch)):
        rows = range(first, min(first + batch, prompts))
        for order, k in enumerate((0, *lengths)):
            name = f"k{k}" if k else "baseline"
            rounds = [draw_rounds(k, tokens, alpha, rng) for _ in rows]
            phases = phases_of([[r.drafted for r in row] for row in rounds], truth or Truth(), noise, rng)
            turn = {"method": name, "order": order, "batch_index": number, "batch_size": len(rows)}
            turn["algorithm"] = "speculative" if k else "baseline"
            for row, index in enumerate(rows):
                prompt = {"prompt_index": index, "prompt_source": f"p{index}", "batch_row": row}
                is_lost = (name, number) in failed
                found = Skipped(status="error", reason="made to fail") if is_lost else measured(rounds[row], phases)
                lines.append(as_record(Origin(**ALWAYS, **turn, **prompt), found))
    path.write_bytes(b"".join(map(to_line, lines)))
    return path


def with_known_times(record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return a record of a batch of one as if its rounds had taken known times, to 1 %; every token shows in them."""
    phases = phases_of([record["rounds"]["drafted"]], Truth(token_s=2e-3), 0.01, rng)
    decode_s, tokens = phases.total_s - phases.prefill_s, record["generated_tokens"]
    found = {f"{name}_ms": 1e3 * getattr(phases, f"{name}_s") for name in PHASES}
    found |= {"total_s": phases.total_s, "decode_s": decode_s, "ttft_s": phases.first_token_s}
    found |= {"tokens_per_s": tokens / phases.total_s, "decode_tokens_per_s": tokens / decode_s}
    return {**record, **found}


def measured(rounds: Sequence[Round], phases: Phases) -> Measured:
    """Return one row of a batch."""
    nothing = dict.fromkeys(("divergence", "memory_peak_bytes", "energy", "quality"))
    kind = {"is_tree": False, "has_judge": False, "identical": True}
    return Measured(
        tokens=list(range(sum(r.committed for r in rounds))), rounds=rounds, phases=phases, **kind, **nothing
    )
