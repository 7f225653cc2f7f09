"""`measure-acceptance --trace T --by category`: a folder of histograms for each category, or each range of context."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import say, table

from .options import MeasureOptions

if TYPE_CHECKING:
    from acceptance.estimate.groups import Group
    from acceptance.trace.trace import Trace


def present_groups(trace: "Trace", parameters: dict[str, Any], options: MeasureOptions, sidecar: Path) -> None:
    """Write the histograms of every group into a folder of its own, and print what each accepts."""
    from acceptance.estimate.groups import folder_name, groups_of, places

    by, out = str(options.by), options.out_dir
    if options.plot or options.report:
        raise UserError(f"--by: {by} has no --plot and no --report, expected neither beside it")
    folders = {name: out / folder_name(name) for name in places(trace, by)}
    if len(set(folders.values())) < len(folders):
        raise UserError(f"--by: categories of one name but for marks, in {sidecar}; expected names apart")
    lengths = options.draft_lengths
    files = [folder / f"accept_hist_k{k}.json" for folder in folders.values() for k in lengths]
    check_outputs({"--out-dir": files}, options.force, {"--trace": sidecar})
    q_kind = "greedy" if parameters["draft_temperature"] == 0 else options.q_kind
    parameters = parameters | {"q_kind": q_kind, "analysis_seed": options.seed, "by": by}
    groups = groups_of(trace, by, lengths, q_kind, options.seed)
    written = [file for group in groups for file in write_group(group, folders[group.name], parameters)]
    if options.as_json:
        payload = {"groups": [as_payload(group) for group in groups], "files": [str(file) for file in written]}
        click.echo(to_json(envelope("acceptance_groups", 1, parameters) | payload), nl=False)
        return
    say(
        f"{trace.size:,} tokens of {trace.measured_prompts} prompts, by {by}, {q_kind} draft\n\n{rows_of(groups, by)}\n"
    )
    say(f"wrote {len(written)} histograms into {len(groups)} folders of {out}, for --hist {out}:NAME")


def write_group(group: "Group", folder: Path, parameters: dict[str, Any]) -> list[Path]:
    """Write the histograms of a group."""
    from simulator.ground.histogram import save_histogram

    own = parameters | {"group": group.name, "prompt_count": group.prompts}
    files = []
    for k, rounds in group.rounds.items():
        files.append(folder / f"accept_hist_k{k}.json")
        save_histogram(
            files[-1],
            rounds.histogram,
            own | {"k": k},
            metrics=group.metrics[k],
            definition=f"expected rounds along the decode walk that start in this {parameters['by']}, of a trace",
            draft_lengths=list(group.rounds),
        )
    return files


def rows_of(groups: "tuple[Group, ...]", by: str) -> str:
    """Return a row for each group."""
    from acceptance.estimate.report import span, with_span

    rows = [(by, "prompts", "tokens", "a single token", "K", "tokens/round", "95 % interval")]
    for g in groups:
        k = max(g.rounds, default=0)
        m = g.metrics.get(k)
        tau = (
            ("none counted", "") if m is None else (f"{m['tokens_per_round']:.3f}", span(m["ci95"]["tokens_per_round"]))
        )
        rows.append((g.name, str(g.prompts), f"{g.tokens:,}", with_span(g.alpha), str(k or ""), *tau))
    return table(rows)


def as_payload(group: "Group") -> dict[str, Any]:
    """Return a group under plain keys."""
    told = {str(k): m for k, m in group.metrics.items()}
    own = {"name": group.name, "prompts": group.prompts, "tokens": group.tokens}
    return own | {"alpha": group.alpha.as_json(), "metrics": told}
