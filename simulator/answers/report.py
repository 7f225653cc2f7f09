"""Results as people and programs read them: the terminal report, the JSON, and tables as CSV or Parquet."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError, envelope, writing
from simulator.ground.command import table
from simulator.ground.dependency import Dependency, require
from simulator.rounds.experiment import Summary

from .verdict import Verdict, in_words

KIND = "simulation"
# 1: first version.
SCHEMA_VERSION = 1
PARQUET = Dependency(import_name="pyarrow", purpose="writing Parquet", extra="parquet")
TABLE_SUFFIXES = (".csv", ".parquet")


def result_json(summary: Summary, verdict: Verdict, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `simulate` with its provenance, under plain keys."""
    found = asdict(summary) | {"alpha_iid": verdict.alpha_iid, "verdict": asdict(verdict)}
    return envelope(KIND, SCHEMA_VERSION, parameters) | found


def result_text(
    summary: Summary, verdict: Verdict, heading: str, draft_length: int, overhead_ms: float, *, more: str = ""
) -> str:
    """Return the report of `simulate` for a terminal; `more` goes before the verdict."""
    s = summary
    low_high = "" if s.speedup_ci95 is None else "[{:.3f}, {:.3f}]".format(*s.speedup_ci95)
    rows = [
        ("", "simulated", "95 % interval", "closed form"),
        ("baseline, ms/token", f"{s.baseline_ms_per_token:.4f}", "", f"{s.baseline_ms_per_token:.4f}"),
        (
            "speculative, ms/token",
            f"{s.speculative_ms_per_token:.4f}",
            "",
            f"{s.closed_form_speculative_ms_per_token:.4f}",
        ),
        ("speedup", f"{s.speedup:.3f}x", low_high, f"{s.closed_form_speedup:.3f}x"),
        ("tokens per round", f"{s.tokens_per_round:.3f}", "", f"{s.closed_form_tokens_per_round:.3f}"),
    ]
    phases = [
        ("", "ms/round", "ms/token"),
        ("draft", f"{s.draft_ms_per_round:.4f}", f"{s.draft_ms_per_token:.4f}"),
        ("verify", f"{s.verify_ms_per_round:.4f}", f"{s.verify_ms_per_token:.4f}"),
    ]
    if overhead_ms > 0:
        phases.append(("overhead", f"{overhead_ms:.4f}", f"{overhead_ms * s.rounds / s.tokens:.4f}"))
    counts = (
        f"a run: {s.tokens} tokens in {s.rounds:.1f} rounds, {s.drafted:.1f} drafted, "
        f"{s.accepted:.1f} accepted ({s.draft_acceptance_rate:.1%})"
    )
    words = in_words(verdict, summary, draft_length)
    if overhead_ms == 0:
        words.append("No overhead a round is assumed; engines spend 9 to 18 % of a token (--round-overhead MS).")
    parts = [heading, table(rows), table(phases), counts, more, "\n".join(words)]
    return "\n\n".join(filter(None, parts))


def check_table_format(option: str, path: Path | None, suffixes: tuple[str, ...] = TABLE_SUFFIXES) -> None:
    """Refuse a table suffix we do not write, or Parquet where its library is missing.

    Raises:
        UserError: Names the option, the file, and what is allowed or missing.
    """
    if path is None:
        return
    if path.suffix not in suffixes:
        raise UserError(f"{option} {path}: suffix {path.suffix!r}, expected {' or '.join(suffixes)}")
    if path.suffix == ".parquet":
        require(PARQUET)


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns as CSV or Parquet by suffix, atomically.

    Args:
        path: File to write; `check_table_format` has passed it.
        columns: Arrays or lists of one length, by name; a scalar is repeated.
    """
    import pandas as pd

    frame = pd.DataFrame(dict(columns))
    with writing(path, "wb") as file:
        if path.suffix == ".parquet":
            frame.to_parquet(file, index=False)
        else:
            frame.to_csv(file, index=False)
