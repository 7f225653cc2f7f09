"""A result file beside the forecast: its page, as `report` makes it, and its settings as those of the controls."""

import html
import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from calibration.pages.rows import rows_in
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, parse_json, text_of
from simulator.ground.read_as import HISTOGRAMS, read_histogram
from simulator.ground.traces import KIND as TRACE

from .asking import answered, stamps
from .figures import GAIN
from .state import BATCH, CLIENTS, FILE, MORE, NAMES, WITHOUT, State, completed, words

# What results call an option of the page, where it is not its name.
COLUMNS = {"target-model": "target_model", "draft-model": "draft_model"}
# The largest file that is read, in bytes; what says that parameters are of a sweep's best point.
LARGEST, BEST = 50_000_000, "best point"
WORDS = {"True": True, "False": False}
# Options that are as they are where nobody states them.
USUALLY = {"tp": "1", "placement": "same"}


def is_histogram(path: Path) -> bool:
    """Whether a file, or a folder, is what `--hist` reads."""
    if path.is_dir():
        return any(path.glob(HISTOGRAMS))
    try:
        return read_histogram(path)["hist"].is_given
    except UserError:
        return False


def settings_of(path: Path) -> State | None:
    """Return the state that gives the same forecast; None where a file says none.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.is_file() and (size := path.stat().st_size) > LARGEST:
        raise UserError(f"{path}: {size / 1e6:,.0f} MB, expected at most {LARGEST / 1e6:.0f}; `report` reads it")
    if is_histogram(path):
        return completed({"hist": str(path), FILE: str(path), "draftN": str(longest_in(path))})
    if path.is_dir():
        raise UserError(f"{path}: a folder without {HISTOGRAMS}, expected a file")
    document = document_in(path)
    if document.get("kind") == TRACE:
        return measured_beside(path)
    parameters = document.get("parameters")
    if not isinstance(parameters, dict) or not parameters.get("target_model") or not parameters.get("profile"):
        return None
    return with_further(completed({**as_state(parameters), FILE: str(path)}), parameters)


def with_further(state: State, parameters: Mapping[str, Any]) -> State:
    """Return a state with all else that a result states and its forecast has otherwise, as further options."""
    from simulator.cli.simulate import simulate

    options = {str(option.name): option for option in simulate.params if option.name not in WITHOUT}
    try:
        here = flat(answered(words(state)).document["parameters"])
    except UserError:
        here = {}  # the page says why
    more: list[str] = []
    for name, told in flat(parameters).items():
        option = options.get(name)
        known = name.replace("_", "-") in NAMES or name in (*NAMES, "acceptance_published")
        if option is None or known or told in ("", "None", "False", here.get(name, "")):
            continue
        if (name, told) != ("replications", "0"):  # sweeps know the closed form alone
            more += [option.opts[0]] if told == "True" else [option.opts[0], told]
    return {**state, **({MORE: shlex.join(more)} if more and here else {})}


def flat(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters of a result, those of its load among them, as words; of lists nothing."""
    load = parameters.get("load")
    both = {**parameters, **(load if isinstance(load, dict) else {})}
    return {name: as_word(one) for name, one in both.items() if not isinstance(one, list | dict)}


def as_word(value: object) -> str:
    """Return a value as an option takes it."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def document_in(path: Path) -> Mapping[str, Any]:
    """Return what a file of JSON holds, or what all rows of a table have in common as its parameters; else nothing."""
    try:
        text = text_of(path)
        if text.lstrip().startswith(("{", "[")):
            document = parse_json(text)
            return at_best(document) if isinstance(document, dict) else {}
        rows = rows_in(path, text)
        told, is_sweep = dict(rows.constants()), GAIN in rows.heads
        if is_sweep:
            gains = [gain if gain == gain else -1.0 for gain in rows.numbers(GAIN)]
            told = dict(zip(rows.heads, rows.rows[gains.index(max(gains))], strict=True))
        parameters = {name: WORDS.get(value, value) for name, value in told.items() if value}
        return {"parameters": parameters, BEST: is_sweep}
    except (Malformed, UserError):
        return {}


def at_best(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result; of a sweep with the parameters of its best point."""
    answers, parameters = document.get("answers"), document.get("parameters")
    if document.get("kind") != "sweep" or not isinstance(answers, list) or not isinstance(parameters, dict):
        return document
    points = [one for one in answers if isinstance(one, dict) and isinstance(one.get("speedup"), int | float)]
    if not points:
        return document
    best = max(points, key=lambda one: float(one["speedup"]))
    values = best.get("values")
    at = {**(values if isinstance(values, dict) else {}), "draftN": best.get("draft_length")}
    return {**document, "parameters": {**parameters, **{k: v for k, v in at.items() if v is not None}}, BEST: True}


def measured_beside(path: Path) -> State:
    """Return the histograms that lie beside a trace as what is accepted.

    Raises:
        UserError: There are none.
    """
    if not is_histogram(path.parent):
        counts = f"measure-acceptance --trace {path} --k 1:8 --out-dir {path.parent} writes them"
        raise UserError(f"{path}: a trace, expected {HISTOGRAMS} beside it: {counts}")
    return completed({"hist": str(path.parent), FILE: str(path), "draftN": str(longest_in(path.parent))})


def longest_in(path: Path) -> int:
    """Return the K of a histogram, or the largest of a folder."""
    if path.is_dir():
        return max(longest_in(each) for each in path.glob(HISTOGRAMS))
    return int(Field(read_histogram(path).value, path)["k"].number())


def as_state(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return what parameters of a result say of the controls; of several values, the first."""
    told = {name: parameters.get(COLUMNS.get(name, name)) for name in NAMES}
    told["acceptance"] = parameters.get("acceptance_published") and parameters.get("hist")
    told["hist"] = None if told["acceptance"] or parameters.get("acceptance_prior") else told["hist"]
    told["alpha"] = None if told["hist"] or told["acceptance"] or parameters.get("acceptance_prior") else told["alpha"]
    drop = BATCH if told["concurrency"] is not None else CLIENTS
    found = {}
    for name, value in told.items():
        one = value[0] if isinstance(value, list) and value else value
        if name in drop or one is None or one is False or isinstance(one, dict | list):
            continue
        found[name] = "1" if one is True else as_word(one)
    return {name: value for name, value in found.items() if USUALLY.get(name) != value}


def show(state: State) -> None:
    """Show a result file."""
    import streamlit as st

    path = Path(state[FILE])
    (changed,) = stamps((str(path),))
    settings, page, of = looked_at(path, changed)
    if settings is not None and settings != state:
        label = "Take the settings of its best point" if of.get(BEST) else "Take its settings"
        st.button(label, on_click=take, args=(settings,), help=f"Those of {path.name}, in the controls")
    if page:
        with st.expander(f"Result file {path.name}", expanded=settings is None):
            if hasattr(st, "iframe"):
                st.iframe(page, height=700)
            else:  # before Streamlit 1.56
                st.components.v1.html(page, height=700, scrolling=True)
    if settings != state:
        st.subheader("Forecast of the controls, not of this file", anchor=False)
        return
    here, told = answered(words(state)).document, of.get("headline")
    if told and of.get("kind") == here["kind"] and told != here["headline"]:
        st.html(f"<p>The file itself says: {html.escape(str(told))} It has more than its settings tell.</p>")


@lru_cache(4)
def looked_at(path: Path, changed: int) -> tuple[State | None, str, Mapping[str, Any]]:
    """Return the settings of a file, its page, "" where `report` makes none of it, and what stands at its top.

    changed: when the file was.

    Raises:
        UserError: It has neither.
    """
    from calibration.pages.document import document
    from calibration.pages.kinds import page_of

    settings = settings_of(path)
    of = document_in(path) if path.is_file() else {}
    top = {name: of.get(name) for name in ("headline", "kind", BEST)}
    try:
        return settings, document([page_of(path)]), top
    except UserError:
        if settings is None:
            raise
        return settings, "", top


def take(settings: State) -> None:
    """Put the settings of a file into the address, and so into the controls."""
    import streamlit as st

    st.query_params.from_dict(dict(settings))
