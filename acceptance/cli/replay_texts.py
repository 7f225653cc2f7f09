"""The command `measure-acceptance replay`: what drafts of the text itself accept, of texts that are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acceptance.models.bundled import BUNDLED, load_libraries, place_of
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import FILE, command, say, table
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.names import one_of

from .import_histogram import told_of

if TYPE_CHECKING:
    from acceptance.estimate.estimators import Estimate
    from acceptance.measure.text_drafts import Output, Replayed

METHODS = ("suffix", "prompt-lookup", "anpd")
HEADINGS = ("method", "K", "tokens/step", "95 % interval", "steps with a draft", "drafted a step", "accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a method accepts at a draft length: the rounds of each text, and tokens a step."""

    method: str
    k: int
    rounds: "Sequence[Replayed]"
    tokens_per_step: "Estimate"

    def as_json(self) -> dict[str, Any]:
        """Return it under plain keys."""
        from acceptance.measure.text_drafts import total

        steps, _, drafted, accepted, with_draft = total(self.rounds)
        return {
            "method": self.method,
            "k": self.k,
            "tokens_per_step": self.tokens_per_step.as_json(),
            "steps": int(steps),
            "share_with_draft": with_draft / steps,
            "drafted_per_step": drafted / steps,
            "draft_acceptance_rate": accepted / drafted if drafted else None,
        }


@command("replay", short_help="Replay drafts of the text itself over texts.")
@click.argument("texts", type=FILE)
@click.option("--method", default=",".join(METHODS), metavar="NAME[,NAME...]", help="Methods to replay.")
@click.option("--k", default="1:8", metavar="VALUES", help="Most tokens of a draft, list or range.")
@click.option("--ngram", type=click.IntRange(2, 16), default=3, help="Longest n-gram, context and token.")
@click.option("--target", default=BUNDLED, help="Whose tokens texts are read in, where they are no token ids.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Of intervals.")
@click.option("--out-dir", type=FILE, default=Path(), show_default="here", help="For METHOD/accept_hist_k{K}.json.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def replay_texts(**given: Any) -> None:
    """Say what suffix, look-up and n-gram drafts accept of TEXTS that the target wrote, by replaying them.

    TEXTS are JSONL of {"prompt": ..., "output": ...} or of token ids, as of --texts. No model runs, and what comes out
    is exact at any temperature: a draft is accepted where it is what the target wrote. A histogram for each method and
    K, with the steps that found no draft, is written for simulate --method.
    """
    from simulator.ground.ranges import parse_whole

    lengths, methods = parse_whole("--k", given["k"], 1, MAX_DRAFT_LENGTH), chosen(given["method"])
    outs = {(m, k): given["out_dir"] / m / f"accept_hist_k{k}.json" for m in methods for k in lengths}
    check_outputs({"--out-dir": list(outs.values())}, given["force"], {"TEXTS": given["texts"]})
    load_libraries()
    from acceptance.measure.text_drafts import read_outputs

    outputs, notes = read_outputs(given["texts"], place_of(given["target"], "target"))
    rows = [row_of(outputs, m, k, given) for m in methods for k in lengths]
    files = [file for row in rows if (file := written(outs[row.method, row.k], row, given, notes))]
    if given["as_json"]:
        parameters = {name: given[name] for name in ("k", "ngram", "method", "target", "seed")}
        parameters |= {"texts": str(given["texts"]), "text_count": len(outputs)}
        found = {"rows": [row.as_json() for row in rows], "categories": by_category(rows, outputs)}
        payload = found | {"files": [*map(str, files)], "notes": notes}
        click.echo(to_json(envelope("acceptance_replay", 1, parameters) | payload), nl=False)
        return
    say(text_of(rows, outputs, notes) + "\n")
    click.echo("\n".join(f"wrote {file}" for file in files))


def chosen(names: str) -> list[str]:
    """Return methods by name."""
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in METHODS:
            raise UserError(f"--method: {name!r} is not known, expected {one_of(METHODS, name)}")
    return list(dict.fromkeys(found))


def row_of(outputs: "Sequence[Output]", method: str, k: int, given: dict[str, Any]) -> Row:
    """Replay all texts."""
    import numpy as np

    from acceptance.estimate.estimators import ratio
    from acceptance.measure.text_drafts import memories, replay

    memory = memories(given["ngram"])[method]
    rounds = [replay(memory(), output, k) for output in outputs]
    steps, tokens = np.array([r.sums[:2] for r in rounds]).T
    estimate = ratio(tokens, steps, np.random.default_rng(given["seed"]))
    return Row(method=method, k=k, rounds=rounds, tokens_per_step=estimate)


def written(path: Path, row: Row, given: dict[str, Any], notes: list[str]) -> Path | None:
    """Write a histogram; None, and a note, where no round drafted K tokens."""
    from acceptance.measure.text_drafts import histogram_of
    from simulator.ground.histogram import save_histogram

    try:
        found = histogram_of(given["texts"], row.rounds, row.k)
    except UserError:
        notes.append(f"{row.method} never drafted {row.k} tokens: no histogram of K = {row.k}")
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics, extra = told_of(given["texts"], found)
    parameters = {"texts": str(given["texts"]), "method": row.method, "ngram": given["ngram"], "k": row.k}
    target = None if given["target"] == BUNDLED else given["target"]
    parameters |= {"target": target, "prompt_count": len(row.rounds)}
    save_histogram(path, found.histogram, parameters, metrics=metrics, **extra)
    return path


def by_category(rows: Sequence[Row], outputs: "Sequence[Output]") -> dict[str, dict[str, float]]:
    """Return tokens a step of each category and method, at the longest draft."""
    from acceptance.measure.text_drafts import total

    longest = max(row.k for row in rows)
    found: dict[str, dict[str, float]] = {}
    for category in dict.fromkeys(o.category for o in outputs):
        for row in (row for row in rows if row.k == longest):
            own = total([r for r, o in zip(row.rounds, outputs, strict=True) if o.category == category])
            found.setdefault(category, {})[row.method] = float(own[1] / own[0])
    return found


def text_of(rows: Sequence[Row], outputs: "Sequence[Output]", notes: Sequence[str]) -> str:
    """Return what is printed: the best first, every method and draft length, and categories where there are several."""
    best = max(rows, key=lambda row: row.tokens_per_step.value)
    count = sum(len(o.tokens) for o in outputs)
    first = (
        f"{best.method} commits most, {best.tokens_per_step.value:.2f} tokens a step at K = {best.k}: "
        f"{len(outputs)} text{'s' * (len(outputs) != 1)} of {count:,} tokens replayed, no model ran."
    )
    cells = [HEADINGS]
    for row in rows:
        found, ends = row.as_json(), row.tokens_per_step.ci95
        rate = found["draft_acceptance_rate"]
        cells.append(
            (
                *(row.method, str(row.k), f"{row.tokens_per_step.value:.2f}"),
                f"[{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "",
                *(f"{found['share_with_draft']:.0%}", f"{found['drafted_per_step']:.2f}"),
                "-" if rate is None else f"{rate:.0%}",
            )
        )
    parts = [first, table(cells, left=(0,))]
    categories = by_category(rows, outputs)
    if len(categories) > 1:
        names = list(dict.fromkeys(row.method for row in rows))
        heads = (f"tokens/step, K = {max(row.k for row in rows)}", *names)
        lines = [(category or "-", *(f"{found[n]:.2f}" for n in names)) for category, found in categories.items()]
        parts.append(table([heads, *lines], left=(0,)))
    return "\n\n".join([*parts, *notes])
