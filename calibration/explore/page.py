"""The page: the answer, why, pictures, and the command lines that say the same."""

import html
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import streamlit as st

from simulator.ground.artefacts import UserError
from simulator.ground.command import DEBUG, LONGEST_WORD, without_middle
from simulator.ground.version import VERSION

from . import controls, figures, files
from .asking import Answer, answered, told_of
from .state import BATCH, CLIENTS, FILE, State, as_length, asked, line, words
from .views import SURFACES, View, curves

# What a browser is given to paint numbers before pictures, which it takes longer for; of a new page it loads them too.
PAINT_S, FIRST_PAINT_S = 0.05, 0.6
# Of what plotly shows beside a picture.
PLAIN = {"displayModeBar": False, "scrollZoom": False}
STYLE = """<style>
.stMainBlockContainer { padding-top: 2.5rem; padding-bottom: 2rem; }
@media (max-width: 768px) { .stMainBlockContainer { padding-top: 4.5rem; } }
.answer-numbers { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.answer-number { flex: 1 1 9rem; padding: .8rem 1rem; border: 1px solid rgba(128,128,128,.35); border-radius: .5rem; }
.answer-label { font-size: .875rem; }
.answer-value { font-size: 2rem; line-height: 1.4; }
.answer-of { margin-top: .5rem; }
.answer-beside { font-size: .875rem; opacity: .8; }
[data-testid=stCaptionContainer], [data-testid=stCaptionContainer] p { color: inherit; opacity: .9; }
</style>"""
TONES = {"pays": "46,160,107", "pays if": "46,160,107", "does not pay": "214,69,65", "does not pay if": "214,69,65"}
OPEN, NO_ROOM = "201,148,20", "does not fit"


def show() -> None:
    """Draw the page, as its address and controls have it."""
    st.set_page_config(page_title="specsim explore", layout="wide", initial_sidebar_state="auto")
    state, problems = current()
    st.html(STYLE)
    for problem in problems:
        alert(problem)
    guarded(lambda: shown(state))


def shown(asked_for: State) -> None:
    """Draw controls, and what they say."""
    early = first_numbers(asked_for)
    with st.sidebar:
        st.title("specsim", anchor=False)
        state = controls.drawn(asked_for)
    addressed(state)
    if early and state != asked_for:
        st.rerun()
    if state.get(FILE):
        guarded(lambda: files.show(state))
    guarded(lambda: forecast(state, has_numbers=early))


def first_numbers(state: State) -> bool:
    """Draw the answer before all controls, where a page is new; whether it did."""
    if st.session_state.get("drawn") or state.get(FILE):
        return False
    with suppress(Exception):  # said in its place
        summary(answered(words(state)).document)
        return True
    return False


def current() -> tuple[State, tuple[str, ...]]:
    """Return what is shown: what the address says, where it was not written by this page, else what stood there."""
    query = st.query_params.to_dict()
    kept = st.session_state.get("shown")
    if kept is None or query != st.session_state["address"]:
        controls.forget()
        found = asked(query)
        st.session_state["shown"], st.session_state["address"] = found.state, query
        return found.state, found.problems
    return kept, ()


def addressed(state: State) -> None:
    """Write what is shown into the address, where it changed."""
    if state != st.session_state["shown"]:
        st.session_state["shown"] = state
        st.session_state["address"] = dict(state)
        st.query_params.from_dict(dict(state))


def guarded(draw: Callable[[], None]) -> None:
    """Draw something; what is wrong with it is said in one line."""
    try:
        draw()
    except UserError as error:
        alert(str(error))
    except (OSError, UnicodeError, MemoryError) as error:
        alert(told_of(error))
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        what = without_middle(f"{type(error).__name__}: {error}", LONGEST_WORD)
        alert(f"a mistake in specsim {VERSION}, not in what you gave ({what}); {DEBUG}=1 shows its traceback")


def alert(text: str) -> None:
    """Say what is wrong."""
    said(text, "214,69,65", role="alert")


def said(text: str, tone: str, *, role: str = "note") -> None:
    """Say something in a box that is readable in light and dark."""
    st.html(box(text, tone, role))


def box(text: str, tone: str, role: str, style: str = "") -> str:
    """Return a box that says something."""
    of = f"background:rgba({tone},.14);border-left:4px solid rgb({tone});padding:.6rem .9rem;border-radius:.3rem;"
    return f'<div role="{role}" style="{of}overflow-wrap:anywhere;{style}">{html.escape(text)}</div>'


def forecast(state: State, *, has_numbers: bool) -> None:
    """Show the forecast of a state; has_numbers: whether its numbers stand there."""
    given = words(state)
    try:
        found = answered(given)
    except UserError as error:
        alert(str(error))
        same_line(given)
        return
    document = found.document
    if not has_numbers:
        summary(document)
    time.sleep(FIRST_PAINT_S if has_numbers else PAINT_S)
    for warning in document.get("warnings", ()):
        st.caption(controls.plain(f"Warning: {warning}"))
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Where the time goes", anchor=False)
        rounds(found)
    with right:
        st.subheader("Why", anchor=False)
        why(found)
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Speedup surface", anchor=False)
        guarded(lambda: surface(state, found))
    with right:
        st.subheader("Load curves", anchor=False)
        guarded(lambda: load_curves(state, found))
    same_line(given)
    with st.expander("All that it prints"):
        st.code(found.text, language=None)


def same_line(given: tuple[str, ...]) -> None:
    """Show the command line that says the same."""
    st.subheader("The same on the command line", anchor=False)
    st.code(line("simulate", (*given, "--why")), language="sh", wrap_lines=True)


def summary(document: Any) -> None:
    """Show the answer and the numbers that stand out, at once: one piece, which the browser has nothing to load for."""
    st.session_state["drawn"] = True
    verdict = document["verdict"]
    answer = verdict["answer"] if isinstance(verdict, dict) else str(verdict)
    remedy = " ".join(("", *document.get("notes", ()))) if answer == NO_ROOM else ""
    headline = box(document["headline"] + remedy, TONES.get(answer, OPEN), "note", "font-size:1.3rem;font-weight:600")
    told = served_metrics(document) if document["kind"] == "load" else batch_metrics(document)
    # Not by st.html, for which a browser loads more first.
    parameters = document["parameters"]
    load = ", ".join(f"{name} {parameters[name]}" for name in (*CLIENTS, *BATCH) if parameters.get(name) is not None)
    of = f"{parameters['target_model']} on {parameters['tp']} x {parameters['profile']}, {parameters['method']}, {load}"
    headline += f'<div class="answer-of">{html.escape(of)}</div>'
    inside = f'{headline}<div class="answer-numbers">{"".join(block(*each) for each in told)}</div>'
    st.markdown(inside, unsafe_allow_html=True)


def block(label: str, value: str, beside: str | None) -> str:
    """Return a number, what it is of, and what is beside it."""
    parts = [("label", label), ("value", value), ("beside", beside or "")]
    inside = "".join(f'<div class="answer-{name}">{html.escape(text)}</div>' for name, text in parts if text)
    return f'<div class="answer-number" role="group" aria-label="{html.escape(label)}">{inside}</div>'


def batch_metrics(document: Any) -> Iterator[tuple[str, str, str | None]]:
    """Yield the numbers of a batch."""
    verdict = document["verdict"]
    yield "Speedup", times(verdict["speedup"]), between(verdict["speedup_ci95"], "x")
    ms = document["speculative_ms_per_token"] if verdict["speedup"] else None
    yield "Time a token", number(ms, "ms"), f"plain {number(document['baseline_ms_per_token'], 'ms')}"
    yield "Tokens a round", number(document["tokens_per_round"]), f"of {document['parameters']['draftN'] + 1} at most"
    yield "Break-even acceptance", number(verdict["break_even_alpha"]), f"here {number(verdict['alpha_iid'])}"
    best = verdict["best_draft_length"]
    yield "Best K", "-" if best is None else str(best), None if best is None else times(verdict["best_speedup"])


def served_metrics(document: Any) -> Iterator[tuple[str, str, str | None]]:
    """Yield the numbers of a load."""
    plain_, drafted, verdict = document["plain"] or {}, document["speculative"] or {}, document["verdict"]
    yield "Speedup, tokens a second", times(verdict.get("speedup")), between(verdict.get("speedup_ci95"), "x")
    for label, key, unit in (
        ("Time a token", "tpot_ms", "ms"),
        ("First token", "ttft_ms", "ms"),
        ("Tokens a second", "output_tokens_per_s", ""),
    ):
        yield label, number(drafted.get(key), unit), f"plain {number(plain_.get(key), unit)}"
    best = verdict.get("best_draft_length")
    yield "Best K", "-" if best is None else str(best), None if best is None else times(verdict.get("best_speedup"))


def number(value: float | None, unit: str = "") -> str:
    """Return a number of three or four figures, with its unit."""
    if value is None or isinstance(value, str):
        return "-"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{shown} {unit}".strip()


def times(value: float | None) -> str:
    """Return a speedup."""
    return "-" if value is None else f"{value:.2f}x"


def between(ends: Any, unit: str) -> str | None:
    """Return an interval."""
    return None if not ends else f"{ends[0]:.2f}{unit} to {ends[1]:.2f}{unit}"


def rounds(found: Answer) -> None:
    """Show what rounds spend, or requests."""
    if found.document["verdict"].get("answer") == NO_ROOM:
        st.caption("Nothing runs that does not fit.")
    elif found.spans:
        draw(figures.timeline(found), "timeline")
        st.caption("The first rounds of the first run; every draft pass is a bar of its own, +N are committed tokens.")
    elif found.document["kind"] != "load" and found.reasons:
        st.caption("Of so many tokens no timeline is drawn.")
    elif found.document["kind"] == "load" and (found.document["plain"] or {}).get("ttft_ms") is not None:
        draw(figures.request(found), "timeline")


def why(found: Answer) -> None:
    """Say why, and what it rests on."""
    basis = found.document["basis"]
    rests = [f"{name}: {basis[f'{name}_text']}" for name in ("acceptance", "costs") if basis.get(f"{name}_text")]
    lines = [*found.reasons, *rests, *found.document.get("notes", ())]
    st.html("".join(f'<p style="margin:0 0 .5rem">{html.escape(text.strip())}</p>' for text in lines))


def surface(state: State, found: Answer) -> None:
    """Show speedup over K and something else."""
    names = {"acceptance": "acceptance", "load": "clients" if CLIENTS[0] in state else "batch", "context": "context"}
    if found.is_tree:  # which one rate does not say
        del names["acceptance"]
    over = st.radio("Over draft length and", list(names), format_func=names.__getitem__, key="over", horizontal=True)
    view = SURFACES[over](state, longest(found), found.most)
    parameters = found.document["parameters"]
    alpha = found.document.get("alpha_iid", parameters.get("alpha"))
    x = alpha if view.x == "alpha" else parameters.get(view.x)
    of_view(view, lambda: figures.surface(view, x, parameters.get("draftN")), "surface")
    if over == "acceptance":
        st.caption("By an i.i.d. rate α; what was measured stands at the rate that gives as many tokens a round.")
    st.code(view.line, language="sh", wrap_lines=True)


def longest(found: Answer) -> int:
    """Return the longest K that a forecast knows of, or has."""
    k = found.document["parameters"].get("draftN") or 1
    return max(k, found.document["verdict"].get("searched_to") or k)


def load_curves(state: State, found: Answer) -> None:
    """Show what it comes to over the load."""
    view = curves(state, longest(found), found.document["verdict"].get("best_draft_length"))
    known = figures.measures(view)
    measure = st.radio("What", known, key="measure", horizontal=True)
    of_view(view, lambda: figures.load_curves(view, str(measure), as_length(state["draftN"])), "curves")
    st.code(view.line, language="sh", wrap_lines=True)


def of_view(view: View, figure: Callable[[], figures.Figure], key: str) -> None:
    """Draw what a sweep found, and say what of it does not fit."""
    unfit = figures.fitting(view)
    if unfit != figures.NOTHING_FITS:
        draw(figure(), key)
    if unfit:
        st.caption(unfit)


def draw(figure: figures.Figure, key: str) -> None:
    """Draw a picture."""
    st.plotly_chart(figure, key=f"picture {key}", config=PLAIN)
