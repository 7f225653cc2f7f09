"""What a benchmark found, for a terminal: a line a method, the fastest first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simulator.ground.command import table

from .records import ROUGE, SAMPLER, TEXT_SCORES, WORD_ERRORS, latest
from .settings import BASELINE

Summary = Mapping[str, Any]
HEADINGS = ("method", "output", "speedup", "95 % interval", "tokens/round", "accepted", "same")
ROUND_HEADINGS = ("where a round goes", "draft ms", "verify ms", "other ms", "if v = 1")


def span(estimate: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Write an interval; nothing where there is none."""
    ends = estimate and estimate["ci95"]
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else ""


def number(value: float | None, form: str = ".2f") -> str:
    """Write a number that may be missing."""
    return "-" if value is None else format(value, form)


def by_speed(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries, the fastest first; those without a speed last."""
    return sorted(summaries, key=lambda s: (s["speedup"] is None, -(s["speedup"] or {"value": 0})["value"]))


def shows_speed(summary: Summary) -> bool:
    """Whether a speed may be printed: of a lossy method never without what it does to the output."""
    delta = summary["quality_delta"]["mean_logp_nats"]
    return summary["speedup"] is not None and (summary["is_exact"] or delta is not None)


def output_text(summary: Summary) -> str:
    """Say whether a method keeps the output's law, or that it did not run."""
    if not summary["runs_ok"]:
        return "failed" if summary["runs_error"] else "skipped"
    return "exact" if summary["is_exact"] else "lossy"


def delta_text(difference: Mapping[str, Any] | None, digits: int, scale: float = 1) -> str:
    """Write a difference to the baseline with its interval."""
    if difference is None:
        return ""
    if difference["ci95"] is None and not difference["value"]:
        return "no difference"
    words = f"{scale * difference['value']:+.{digits}f}"
    if difference["ci95"] is None:
        return f"{words} (no interval)"
    low, high = sorted(scale * end for end in difference["ci95"])
    return f"{words} [{low:+.{digits}f}, {high:+.{digits}f}]"


def next_token_text(summary: Summary) -> str:
    """Write by how many points a method's next tokens are righter than the baseline's, and of how many."""
    delta = delta_text(summary["exact_match_delta"], 1, 100)
    return f"{delta} in {summary['exact_match']['trials']} trials" if delta else ""


def row_of(summary: Summary) -> tuple[str, ...]:
    """Return the line of one method, without what it does to quality."""
    tau, rate = summary["tokens_per_round"], summary["draft_acceptance_rate"]
    has_speed, same = shows_speed(summary), summary["identical"]
    return (
        summary["method"],
        output_text(summary),
        f"{summary['speedup']['value']:.2f}x" if has_speed else "-",
        span(summary["speedup"]) if has_speed and summary["algorithm"] != BASELINE else "",
        number(tau and tau["value"]),
        number(rate and rate["value"], ".0%"),
        f"{same['same']}/{same['of']}" if same["of"] else "",
    )


def round_row(summary: Summary) -> tuple[str, ...]:
    """Return where the time of a method's rounds goes, and what its speedup would be if verification were free."""
    ms = summary["round_ms"]
    return (
        summary["method"],
        number(ms and ms["draft"]),
        number(ms and ms["verify"]),
        number(ms and ms["sample"] + ms["kv"] + ms["other"]),
        ""
        if summary["algorithm"] == BASELINE or not shows_speed(summary)
        else f"{number(summary['closed_form_ideal'])}x",
    )


def quality_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Return headings and rows of what lossy methods do to the output; nothing where there is none."""
    lossy = [s for s in by_speed(summaries) if not s["is_exact"]]
    deltas: dict[str, Callable[[Summary], str]] = {
        "log p a token": lambda s: delta_text(s["quality_delta"]["mean_logp_nats"], 3)
    }
    if any(s["tv_per_position"] for s in lossy):
        # Greedy, each position that is not the target's first choice is a total variation of 1.
        deltas["TV a position"] = lambda s: delta_text(s["quality_delta"]["argmax_share"], 3, -1)
    if any(s["exact_match_delta"] for s in lossy):
        deltas["next token, points"] = next_token_text
    rows = [(s["method"], *(write(s) for write in deltas.values())) for s in lossy]
    return [("what lossy methods change", *deltas), *rows] if lossy else []


def score_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Return headings and rows of what texts are worth beside references; nothing where there are none."""
    scored = [s for s in by_speed(summaries) if s.get("text_scores")]
    names = [name for name in TEXT_SCORES if any(name in s["text_scores"] for s in scored)]
    compared = "rougeL" if "rougeL" in names else WORD_ERRORS
    rows = []
    for s in scored:
        difference = "" if s["algorithm"] == BASELINE else delta_text(s["text_scores_delta"].get(compared), 1, 100)
        rows.append((s["method"], *(score_text(s["text_scores"].get(n), n) for n in names), difference))
    heads = {name: "word error rate" if name == WORD_ERRORS else name.replace("rouge", "ROUGE-") for name in names}
    return [("beside references", *heads.values(), f"{heads[compared]} less plain decoding's"), *rows] if scored else []


def score_text(score: Mapping[str, Any] | None, name: str) -> str:
    """Write a score in hundredths; of speech with its interval."""
    if score is None:
        return "-"
    text = number(100 * score["value"], ".1f")
    if name != WORD_ERRORS:
        return text
    ends = score["ci95"]
    return f"{text} %" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else "")


def sampler_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Return headings and rows of what samplers cost and gain; nothing where the loop alone decides on drafts."""
    named = {s["method"]: s[SAMPLER]["name"] for s in summaries if SAMPLER in s}
    methods = {name.removesuffix(f"-{sampler}") for name, sampler in named.items()}
    rows = []
    for s in by_speed(summaries):
        if s["method"] in named or s["method"] in methods:
            over = s.get(SAMPLER, {}).get("speedup_over_loop")
            ms, share = ((s[part] or {}).get("sample") for part in ("round_ms", "phase_share"))
            gain = f"{over['value']:.3f}x {span(over, 3)}".strip() if over else ""
            rows.append((s["method"], number(ms, ".3f"), number(share, ".1%"), gain))
    return (
        [("who decides on drafts", "sample ms a round", "of all time", "over the loop's draws"), *rows] if named else []
    )


def source_rows(parameters: Mapping[str, Any], summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Return headings and rows of what comes before the rounds where an encoder reads the source; nothing elsewhere."""
    if "encoder" not in parameters:
        return []
    rows: list[tuple[str, ...]] = []
    for s in by_speed(summaries):
        first_s = s["ttft_s_median"]
        rows.append((s["method"], number(s["prefill_ms_median"]), number(first_s and 1e3 * first_s)))
    heard = any(s.get("sound_per_s") for s in summaries)
    if heard:
        rates = (s.get("sound_per_s") for s in by_speed(summaries))
        rows = [(*row, f"{rate['value']:.1f}x" if rate else "-") for row, rate in zip(rows, rates, strict=True)]
    return [
        ("medians before the rounds", "encoder and prompt ms", "first token ms", *(["real time"] if heard else [])),
        *rows,
    ]


def text(parameters: Mapping[str, Any], summaries: Sequence[Summary]) -> str:
    """Return the answer, the tables and what belongs beside them."""
    ordered = by_speed(summaries)
    parts = [f"{headline(summaries)}\n{heading(parameters, summaries)}"]
    parts.append(table([HEADINGS, *map(row_of, ordered)], left=(0, 1)))
    quality = quality_rows(summaries)
    parts += [table(quality, left=range(4))] if quality else []
    scores = score_rows(summaries)
    parts += [table(scores, left=(0, len(scores[0]) - 1))] if scores else []
    parts.append(table([ROUND_HEADINGS, *map(round_row, ordered)]))
    samplers = sampler_rows(summaries)
    parts += [table(samplers)] if samplers else []
    before = source_rows(parameters, summaries)
    parts += [table(before)] if before else []
    said = notes(summaries)
    return "\n\n".join([*parts, *(["\n".join(said)] if said else [])])


def headline(summaries: Sequence[Summary]) -> str:
    """Say which method is fastest and by how much, or that none beats plain decoding."""
    others = [s for s in by_speed(summaries) if s["algorithm"] != BASELINE and shows_speed(s)]
    if not others:
        return "Nothing to compare: no method ran beside plain decoding."
    fastest = others[0]
    if fastest["speedup"]["value"] <= 1:
        return f"No method beats plain decoding: the fastest is {speed_text(fastest)}."
    ends = fastest["speedup"]["ci95"]
    sure = "" if ends is None or ends[0] > 1 else ", which may be no gain"
    exact = next((s for s in others if s["is_exact"]), None)
    also = "" if fastest["is_exact"] or exact is None else f"; of the exact ones {speed_text(exact)}"
    return f"Fastest: {speed_text(fastest)}{sure}{also}."


def speed_text(summary: Summary) -> str:
    """Write a method and its speedup, with the interval where there is one."""
    ends = summary["speedup"]["ci95"]
    within = f" ({ends[0]:.2f}x to {ends[1]:.2f}x)" if ends else " (too few prompts for an interval)"
    lossy = "" if summary["is_exact"] else ", lossy"
    return f"{summary['method']}{lossy}, {summary['speedup']['value']:.2f}x as fast{within}"


def heading(parameters: Mapping[str, Any], summaries: Sequence[Summary]) -> str:
    """Say what was measured."""
    plain = next((s for s in summaries if s["algorithm"] == BASELINE), None)
    rule = f"temperature {parameters['temperature']:g}" if parameters["temperature"] else "greedy"
    words = [
        f"{parameters['prompt_count']} prompt{'s' if parameters['prompt_count'] > 1 else ''}",
        f"{parameters['runs']} run{'s' if parameters['runs'] > 1 else ''}",
        f"up to {parameters['max_new_tokens']} tokens",
        rule,
        f"batch {parameters['batch_size']}",
        f"{parameters['device']}, {parameters['dtype']}",
    ]
    if parameters.get("inflate_target", 1) != 1:
        words.append(f"target inflated {parameters['inflate_target']:g} times")
    if plain and plain["tokens_per_s"]:
        words.append(f"baseline {plain['tokens_per_s']:.1f} tokens/s")
    if plain and plain["exact_match"]:
        match = plain["exact_match"]
        words.append(
            f"next token of the common prefix right {match['matched']}/{match['trials']} ({match['value']:.1%})"
        )
    return ", ".join(words)


def notes(summaries: Sequence[Summary]) -> list[str]:
    """Say what went wrong, and what the columns mean."""
    lines = []
    for s in summaries:
        if s["is_exact"] and s["identical"]["same"] < s["identical"]["of"]:
            lines.append(apart_text(s))
        if s["runs_error"]:
            lines.append(f"{s['method']}: {s['runs_error']} failed ({s['first_reason']})")
        if s["runs_skipped"]:
            lines.append(f"{s['method']}: skipped ({s['first_reason']})")
    return lines + meanings(summaries)


def meanings(summaries: Sequence[Summary]) -> list[str]:
    """Say what needs a word."""
    lines = []
    others = [s for s in summaries if s["algorithm"] != BASELINE and s["speedup"]]
    if others and not any(s["speedup"]["ci95"] for s in others):
        lines.append("too few prompts for intervals")
    if any(not s["is_exact"] and s["runs_ok"] for s in summaries):
        lines.append("log p: of the target, mean over tokens in nats, less that of plain decoding's output")
    if any(not s["is_exact"] and s["tv_per_position"] for s in summaries):
        lines.append(
            "TV: total variation of the law emitted from and the target's, both greedy, mean over the output, "
            "less that of plain decoding's output (rounding)"
        )
    if any(s["exact_match_delta"] for s in summaries):
        lines.append(
            "next token: on the prefix that output and true text have in common and one token on, share that is right, "
            "less plain decoding's"
        )
    if any(s.get("sound_per_s") for s in summaries):
        lines.append("real time: seconds of sound a second of decoding, from its features to the last token")
    if any(WORD_ERRORS in (s.get("text_scores") or {}) for s in summaries):
        lines.append(
            "word error rate: words put in, left out or changed over words said, of all utterances; its difference in "
            "pairs, utterance by utterance: none of exact methods where they are greedy"
        )
    if any(ROUGE[0] in (s.get("text_scores") or {}) for s in summaries):
        lines.append(
            "ROUGE: F1 x 100 of stemmed words, mean over outputs; its difference in pairs, prompt by prompt: none of "
            "exact methods where they are greedy, whose outputs are plain decoding's own"
        )
    if any(s["energy_net_j_per_token"] is not None for s in summaries):
        lines.append(energy_text(summaries))
    if others:
        lines.append("if v = 1: tokens a round over draft + one step of plain decoding, all else free")
    return lines


def cut_notes(records: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Say how many texts of plain decoding end at the budget, where what they lack counts as word errors."""
    plain = [r for r in latest(records) if r["algorithm"] == BASELINE and WORD_ERRORS in (r.get("text_scores") or {})]
    cut = sum(r["generated_tokens"] >= most for r in plain)
    if not cut:
        return []
    are = (
        "texts are as long as --max-new-tokens {} lets them"
        if len(plain) > 1
        else "text is as long as --max-new-tokens {} lets it"
    )
    return [f"{cut} of {len(plain)} {are.format(most)}: what is cut off is an error"]


def energy_text(summaries: Sequence[Summary]) -> str:
    """Say what a token of each method takes beyond idling."""
    counted = [s for s in by_speed(summaries) if s["energy_net_j_per_token"] is not None]
    each = ", ".join(f"{s['method']} {s['energy_net_j_per_token']:.3g}" for s in counted)
    reliable = all(s["energy_is_reliable"] for s in counted)
    doubt = "" if reliable else "; not reliable, of windows under 2 s (more --max-new-tokens makes them longer)"
    return f"J a token beyond idling: {each}{doubt}"


def apart_text(summary: Summary) -> str:
    """Say how many greedy outputs of an exact method are not plain decoding's, and why."""
    same = summary["identical"]
    low, high = same["ci95"]
    words = [f"{same['rounding']} by rounding"]
    words += [f"{same['bug']} by more than rounding: please report it"] if same["bug"] else []
    words += [f"{same['unchecked']} unchecked"] if same["unchecked"] else []
    apart = same["of"] - same["same"]
    return (
        f"{summary['method']}: {apart} outputs differ from plain decoding's, {', '.join(words)} "
        f"(the same: {same['same'] / same['of']:.0%} [{low:.0%}, {high:.0%}])"
    )


def forecast_text(parameters: Mapping[str, Any], forecast: Mapping[str, Any]) -> str:
    """Return what a run would take."""
    rows: list[tuple[str, ...]] = [("method", "s/output", "in all", "")]
    for m in forecast["methods"]:
        total = "-" if m["total_s"] is None else duration(m["total_s"])
        rows.append((m["method"], number(m["output_s"], ".3g"), total, m["reason"] or ""))
    plan = (
        f"{forecast['prompts']} prompts in {forecast['batches']} batches x {forecast['runs']} runs x "
        f"{sum(m['reason'] is None for m in forecast['methods'])} methods = {forecast['decodings']} decodings, "
        f"up to {parameters['max_new_tokens']} tokens each"
    )
    start, warm_up, total = (duration(forecast[name]) for name in ("start_s", "warm_up_s", "total_s"))
    estimate = f"estimate: {total}, of them {start} to load and {warm_up} to warm up"
    return "\n".join([plan, "", table(rows, left=(0, 3)), "", estimate])


def duration(seconds: float) -> str:
    """Write a time, in minutes from two of them on."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
