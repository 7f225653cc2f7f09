"""A result file beside the forecast: its page, as `report` makes it, and its settings as those of the controls."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from calibration.pages.rows import rows_in
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, parse_json, text_of
from simulator.ground.read_as import HISTOGRAMS, read_histogram
from simulator.ground.traces import KIND as TRACE

from .asking import stamps
from .state import BATCH, CLIENTS, FILE, NAMES, State, completed

# What results call an option of the page, where it is not its name.
COLUMNS = {"target-model": "target_model", "draft-model": "draft_model"}
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
    return completed({**as_state(parameters), FILE: str(path)})


def document_in(path: Path) -> Mapping[str, Any]:
    """Return what a file of JSON holds, or what all rows of a table have in common as its parameters; else nothing."""
    try:
        text = text_of(path)
        if text.lstrip().startswith(("{", "[")):
            document = parse_json(text)
            return document if isinstance(document, dict) else {}
        return {"parameters": {name: WORDS.get(told, told) for name, told in rows_in(path, text).constants()}}
    except (Malformed, UserError):
        return {}


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
        found[name] = "1" if one is True else f"{one:.10g}" if isinstance(one, float) else str(one)
    return {name: value for name, value in found.items() if USUALLY.get(name) != value}


def show(state: State) -> None:
    """Show a result file."""
    import streamlit as st

    path = Path(state[FILE])
    (changed,) = stamps((str(path),))
    settings, page = looked_at(path, changed)
    if settings is not None and settings != state:
        st.button("Take its settings", on_click=take, args=(settings,), help=f"Those of {path.name}, in the controls")
    if page:
        with st.expander(f"Result file {path.name}", expanded=settings is None):
            if hasattr(st, "iframe"):
                st.iframe(page, height=700)
            else:  # before Streamlit 1.56
                st.components.v1.html(page, height=700, scrolling=True)


@lru_cache(4)
def looked_at(path: Path, changed: int) -> tuple[State | None, str]:
    """Return the settings of a file and its page, "" where `report` makes none of it; changed: when the file was.

    Raises:
        UserError: It has neither.
    """
    from calibration.pages.document import document
    from calibration.pages.kinds import page_of

    settings = settings_of(path)
    try:
        return settings, document([page_of(path)])
    except UserError:
        if settings is None:
            raise
        return settings, ""


def take(settings: State) -> None:
    """Put the settings of a file into the address, and so into the controls."""
    import streamlit as st

    st.query_params.from_dict(dict(settings))
