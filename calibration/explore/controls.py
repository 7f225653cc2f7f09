"""The controls: what stands in them becomes options, and options stand in them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import streamlit as st

from simulator.ground.limits import MAX_DRAFT_LENGTH as LONGEST

from .state import BATCH, CLIENTS, FILE, MORE, USUAL, State, as_length, completed

PAIR, RATE, MEASURED, KNOWN = "a published pair", "a rate α, i.i.d.", "a measured histogram", "as the method is known"
ONE_BATCH, SERVED = "one batch", "clients of a server"
FORMATS = ("bfloat16", "float16", "fp8", "int8", "int4", "awq", "gptq", "mxfp4", "nvfp4")
AS_IT_IS, NONE, OF_DRAFT = "as its files", "usual of the method", "as the draft says"
SEPARATE = "separate"
DEVICES = (1, 2, 4, 8, 16)


@lru_cache(1)
def known() -> Mapping[str, tuple[str, ...]]:
    """Return what comes along, by the option that takes it."""
    from simulator.costs.drafters.methods import methods
    from simulator.costs.profile_file import presets
    from simulator.costs.shapes import catalogue

    return {
        "target-model": catalogue(),
        "draft-model": catalogue(),
        "profile": presets(),
        "method": tuple(methods()),
    }


def forget() -> None:
    """Forget what stands in the controls: an address is to be shown anew."""
    for key in list(st.session_state):
        if str(key).startswith("control "):
            del st.session_state[key]


def seeded(name: str, value: Any) -> str:
    """Return the key of a control; where it is new, with what stands in it."""
    key = f"control {name}"
    if key not in st.session_state:
        st.session_state[key] = value
    return key


def plain(text: str) -> str:
    """Return text that Markdown leaves as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!$~|<>:" else c for c in text)


def choice(label: str, name: str, value: str, among: Sequence[str], help_: str) -> str:
    """Choose one, or type another."""
    options = [*dict.fromkeys((*among, value, st.session_state.get(f"control {name}") or value))]
    found = st.selectbox(label, options, key=seeded(name, value), accept_new_options=True, help=help_)
    return str(found or value)


def text(label: str, name: str, value: str, help_: str, hint: str = "") -> str:
    """Type something; numbers as on the command line, such as 64k."""
    return str(st.text_input(label, key=seeded(name, value), help=help_, placeholder=hint) or "").strip()


def drawn(state: State) -> State:
    """Draw all controls, and return what stands in them."""
    found: dict[str, str] = {}
    st.subheader("Models and device", anchor=False)
    models(state, found)
    st.subheader("Acceptance", anchor=False)
    accepted(state, found)
    st.subheader("Load", anchor=False)
    load(state, found)
    st.subheader("Further", anchor=False)
    more = "Any other option of simulate, as typed on a command line: --kv-dtype fp8 --gpu-memory-utilization 0.8"
    found[MORE] = text("Further options", MORE, state.get(MORE, ""), more, "--kv-dtype fp8")
    file = "A file on this machine that simulate, sweep, bench-decode and the others wrote, or a histogram"
    found[FILE] = text("Result file", FILE, state.get(FILE, ""), file, "result.json")
    return completed({name: value for name, value in found.items() if value})


def models(state: State, found: dict[str, str]) -> None:
    """Choose models, device, method and draft length."""
    names, target = known(), state.get("target-model", "")
    hint = "A model of the catalogue, a config.json, its folder, or a hub id that is known"
    found["target-model"] = choice("Target model", "target-model", target, names["target-model"], hint)
    left, right = st.columns((3, 2))
    with left:
        device = "A device that comes along, or a profile.json of calibrate"
        found["profile"] = choice("Device", "profile", state.get("profile", ""), names["profile"], device)
    with right:
        count, among = state.get("tp", "1"), tuple(map(str, DEVICES))
        devices = choice("Devices", "tp", count, among, "Devices that share the target (tensor parallelism, --tp)")
        found["tp"] = "" if devices == "1" and "tp" not in state else devices
    of_method = state.get("method", OF_DRAFT)
    method = choice("Method", "method", of_method, (*names["method"], OF_DRAFT), "How it drafts")
    found["method"] = "" if method == OF_DRAFT else method
    draft(state, found)
    left, right = st.columns(2)
    with left:
        length(state, found)
    with right:
        of_files, formats = state.get("dtype", AS_IT_IS), (AS_IT_IS, *FORMATS)
        stored = choice("Weights", "dtype", of_files, formats, "Number format of the weights (--dtype)")
        found["dtype"] = "" if stored == AS_IT_IS else stored
    ahead(state, found)


def ahead(state: State, found: dict[str, str]) -> None:
    """Choose where the draft runs, and whether it does while the target verifies."""
    where = state.get("placement", "")
    apart = st.checkbox(
        "Draft on a device of its own", key=seeded("placement", where == SEPARATE), help="--placement separate"
    )
    found["placement"] = SEPARATE if apart else where.replace(SEPARATE, "")
    beside = st.checkbox(
        "Draft ahead meanwhile", key=seeded("overlap", "overlap" in state), help="--overlap: while the target verifies"
    )
    found["overlap"] = "1" if beside else ""


def draft(state: State, found: dict[str, str]) -> None:
    """Choose what drafts: a model of its own, or the method's usual; another method begins with its usual."""
    is_model = found["method"] in ("draft_model", "")
    among = known()["draft-model"] if is_model else (NONE, *known()["draft-model"])
    usual = usual_draft(found["target-model"]) if is_model else NONE
    stays = is_same(state, found, "method") and (not is_model or is_same(state, found, "target-model"))
    value = state.get("draft-model", usual) if stays else usual
    key = f"draft-model {found['method']} {found['target-model'] if is_model else ''}"
    value = choice("Draft model", key, value, among, "What drafts")
    found["draft-model"] = "" if value == NONE else value


def is_same(state: State, found: State, name: str) -> bool:
    """Whether a control is as it was."""
    return state.get(name, "") == found.get(name, "")


@lru_cache(256)
def usual_draft(target: str) -> str:
    """Return the smallest model of the catalogue that has a target's words; another where there is none."""
    from simulator.costs.shapes import read_shape

    if target in known()["target-model"]:
        family = target.partition("-")[0].rstrip("0123456789.")
        alike = [read_shape(name) for name in known()["draft-model"] if name.startswith(family) and name != target]
        of = read_shape(target)
        fit = [s for s in alike if s.vocabulary == of.vocabulary and s.parameters < of.parameters]
        if fit:
            nearer = target.partition("-")[0]
            return min(fit, key=lambda s: (not s.name.startswith(nearer), s.parameters)).name
    return "llama-3.2-1b"


def length(state: State, found: dict[str, str]) -> None:
    """Choose K; what is no number stays until it is changed."""
    asked_for = state.get("draftN", USUAL["draftN"])
    number = as_length(asked_for)
    value = number if number is not None and 1 <= number <= LONGEST else int(USUAL["draftN"])
    key = seeded("draftN", value)
    told = st.number_input("Draft length K", 1, LONGEST, step=1, key=key, help="Tokens that are drafted in a round")
    found["draftN"] = asked_for if told == value else str(told)


def accepted(state: State, found: dict[str, str]) -> None:
    """Choose what is accepted."""
    of = MEASURED if "hist" in state else PAIR if "acceptance" in state else RATE if "alpha" in state else KNOWN
    how = st.radio("What is accepted", (PAIR, RATE, MEASURED, KNOWN), key=seeded("accepts", of))
    if how == PAIR:
        found["acceptance"] = published(state, found)
    elif how == RATE:
        found["alpha"] = rate(state.get("alpha", USUAL["alpha"]))
    elif how == MEASURED:
        where = "accept_hist_k4.json of measure-acceptance, or a folder of them"
        found["hist"] = text("Histogram", "hist", state.get("hist", ""), where, "accept_hist_k4.json")
        if not found["hist"]:
            st.caption("No histogram is named: the forecast is of what is known of the method.")
    if how in (PAIR, MEASURED):
        beyond = "A Weibull tail beyond the longest K that is known"
        on = st.checkbox("Extrapolate beyond it", key=seeded("extrapolate", "extrapolate" in state), help=beyond)
        found["extrapolate"] = "1" if on else ""


def published(state: State, found: State) -> str:
    """Choose a published pair; another method or target has others, if any."""
    method, target = found["method"], found["target-model"]
    own, others = published_by(method, target)
    is_as_was = is_same(state, found, "method") and is_same(state, found, "target-model")
    asked_for = state.get("acceptance", "") if is_as_was else ""
    if not own and not others and not asked_for:
        st.caption(plain(f"No pair of {method} was published: it accepts as the method is known."))
        return ""
    hint = "PAIR or PAIR:TASK, see `pairs list`; those of this target come first"
    usual = asked_for or (own[0] if own else KNOWN)
    value = choice("Published pair", f"acceptance {method} {target}", usual, (*own, KNOWN, *others), hint)
    return "" if value == KNOWN else value


@lru_cache(64)
def published_by(method: str, target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the pairs of a target, and of others, that draft in one way; all where the draft says how."""
    from simulator.rounds.pairs import curves

    pairs = {c.pair: f"{c.target.lower().rpartition('/')[2]}-" for c in curves() if method in ("", c.method)}
    own = tuple(pair for pair, of in pairs.items() if of.startswith(f"{target.lower()}-"))
    return own, tuple(pair for pair in pairs if pair not in own)


def rate(asked_for: str) -> str:
    """Choose a rate; what is none stays until it is changed."""
    share = as_share(asked_for)
    value = float(USUAL["alpha"]) if share is None else share
    told = st.slider("Acceptance α", 0.0, 1.0, step=0.01, key=seeded("alpha", value), help="Of a drafted token")
    return asked_for if told == value else f"{told:g}"


def as_share(text_: str) -> float | None:
    """Return a share, None where it is none."""
    try:
        value = float(text_)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def load(state: State, found: dict[str, str]) -> None:
    """Choose one batch, or clients of a server."""
    at = SERVED if CLIENTS[0] in state else ONE_BATCH
    how = st.radio("What is decoded", (ONE_BATCH, SERVED), key=seeded("load", at), horizontal=True)
    labels = {
        "batch": ("Batch", "Sequences decoded together"),
        "context": ("Context", "Tokens of each sequence in the KV cache, on average"),
        "concurrency": ("Clients", "Each sends again and again"),
        "isl": ("Prompt", "Tokens of each prompt: ISL"),
        "osl": ("Answer", "Tokens of each answer: OSL"),
    }
    names = BATCH if how == ONE_BATCH else CLIENTS
    for column, name in zip(st.columns(len(names)), names, strict=True):
        with column:
            found[name] = text(labels[name][0], name, state.get(name, USUAL[name]), labels[name][1]) or USUAL[name]
