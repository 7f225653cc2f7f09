"""The page of `explore` without a browser: state, address and command line say the same, and so do the numbers.

Long because answers, files and the page itself are held against the same commands, from the same states.
"""

import json
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.explore import asking, figures, files, server, views
from calibration.explore.state import BATCH, CLIENTS, FILE, FLAGS, NAMES, asked, completed, line, words
from simulator.ground.artefacts import UserError, to_json

HIST = Path(__file__).parents[2] / "examples/accept_hist_k4.json"
QUICK = ("--replications", "2", "--total", "64")
PAIR = {"target-model": "llama-3.1-70b", "draft-model": "llama-3.1-8b", "profile": "h100-sxm", "tp": "4", "draftN": "3"}
STATES = {
    "usual": {},
    "rate": {**PAIR, "alpha": "0.7", "placement": "separate", "overlap": "1", "batch": "8", "context": "4k"},
    "histogram": {**PAIR, "hist": str(HIST), "batch": "2"},
    "load": {"target-model": "llama-3.1-8b", "method": "eagle3", "concurrency": "16", "isl": "2k"},
    "does not fit": {"target-model": "llama-3.1-70b", "method": "eagle3", "profile": "h100-sxm", "alpha": "0.8"},
}
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=8).map(str.strip).filter(bool)


def given_states() -> st.SearchStrategy[Mapping[str, str]]:
    """States of any texts, complete."""
    free = [name for name in NAMES if name not in (*FLAGS, "more")]
    some = st.dictionaries(st.sampled_from(free), TEXTS, max_size=6)
    flags = st.dictionaries(st.sampled_from(FLAGS), st.just("1"))
    more = st.lists(TEXTS, max_size=3).map(shlex.join).map(lambda text: {"more": text} if text else {})
    return st.builds(lambda a, b, c: completed({**a, **b, **c}), some, flags, more)


@given(given_states())
@settings(max_examples=30)
def test_an_address_gives_back_what_it_was_made_of(state: Mapping[str, str]) -> None:
    found = asked(dict(parse_qsl(urlencode(state), keep_blank_values=True)))
    assert (found.state, found.problems) == (state, ())
    assert shlex.split(line("simulate", words(state))) == ["simulate", *words(state)]
    assert bool(BATCH[0] in state) != bool(CLIENTS[0] in state)


def made(name: str) -> Mapping[str, str]:
    """A complete state, of few runs where it is simulated."""
    state = asked(STATES[name]).state
    return state if CLIENTS[0] in state else {**state, "more": " ".join(QUICK)}


@pytest.mark.parametrize("name", STATES)
def test_the_page_has_the_numbers_of_the_command_line_that_it_prints(name: str, run) -> None:
    state = made(name)
    found = asking.answered(words(state))
    command, *typed = shlex.split(line("simulate", words(state)))
    told = json.loads(run(command, *typed, "--json").stdout)
    assert {**json.loads(to_json(found.document)), "created_utc": told["created_utc"]} == told
    text = run(command, *typed, "--why").stdout
    assert " ".join(found.text.split()) == " ".join(text.split())
    assert all(" ".join(reason.split()) in " ".join(text.split()) for reason in found.reasons)
    assert bool(found.reasons) == (name != "does not fit")


@pytest.mark.parametrize("name", ["rate", "load"])
def test_pictures_have_the_numbers_of_the_sweeps_that_they_name(
    name: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOADS", "1,16")
    monkeypatch.setattr(views, "ALPHAS", "0.5,0.9")
    monkeypatch.setattr(views, "LONGEST", 3)
    monkeypatch.setattr(views, "FEW_LENGTHS", (1,))
    state = made(name)
    for view in (views.across_acceptance(state, 3), views.curves(state, 3)):
        command, *typed = shlex.split(view.line)
        done = run(command, *typed, "--out", tmp_path / "t.csv", "--force")
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "t.csv")
        for column in (view.x, view.y, figures.GAIN):
            np.testing.assert_allclose(table[column], view.columns[column], rtol=1e-12)
    assert set(views.curves(state, 3, best=2).columns[view.y]) == set(view.columns[view.y]) | {2}
    drawn = figures.surface(view, 16.0, 3)["data"]
    assert len(drawn[0]["z"]) == len(set(view.columns[view.y]))


def test_a_timeline_has_the_rounds_of_events(run, tmp_path: Path) -> None:
    state = made("rate")
    run("simulate", *words(state), "--events", tmp_path / "e.json")
    events = [e for e in json.loads((tmp_path / "e.json").read_text())["traceEvents"] if e["name"] == "verify"]
    spans = [span for span in asking.answered(words(state)).spans if span.phase == "verify"]
    assert len(spans) == asking.ROUNDS
    assert [span.begin_ms for span in spans] == [e["ts"] / 1e3 for e in events[: asking.ROUNDS]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"alpha": "70"}, "70 is not"),
        ({"profile": "nowhere"}, "nowhere: no such file"),
        ({"draftN": "0"}, "--draftN: "),
        ({"more": "--no-such 1"}, "--no-such"),
        ({"more": "--alpha 0.5"}, "--alpha"),
        ({"more": "stray"}, "stray"),
    ],
)
def test_what_is_wrong_is_said_as_the_command_says_it(wrong: dict[str, str], said: str, run) -> None:
    given_ = words({**made("rate"), **wrong})
    with pytest.raises(UserError, match=said) as error:
        asking.answered(given_)
    assert f"simulate: {error.value}" in run("simulate", *given_).stderr


@pytest.mark.parametrize(
    "more", ["--csv out.csv", "--events out.json", "--json", "--help", "--version", "--compare", "'"]
)
def test_a_page_writes_and_prints_nothing(more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        asking.answered(words({**made("rate"), "more": more}))
    assert not list(tmp_path.iterdir())


def test_what_would_take_long_is_refused() -> None:
    with pytest.raises(UserError, match="runs longer"):
        asking.answered(words({**made("rate"), "more": "--replications 1000000 --total 100000"}))


def test_what_an_address_has_wrong_is_said_a_line_each() -> None:
    found = asked({"foo": "1", "overlap": "maybe", "alpha": "0.5", "hist": "x", "batch": "2", "isl": "5"})
    told = "\n".join(found.problems)
    assert len(found.problems) == 4
    for part in ("'foo': no control", "overlap: 'maybe'", "alpha: beside hist", "batch: beside isl"):
        assert part in told
    assert "batch" not in found.state
    assert "alpha" not in found.state


@pytest.mark.parametrize("name", ["rate", "histogram", "load"])
def test_a_result_gives_the_settings_that_made_it(name: str, run, tmp_path: Path) -> None:
    state = {name: value for name, value in made(name).items() if name != "more"}
    path = tmp_path / "result.json"
    path.write_text(run("simulate", *words(state), "--json").stdout)
    found = files.settings_of(path)
    assert found is not None
    again = asking.answered(words(found)).document
    assert again["headline"] == json.loads(path.read_text())["headline"]
    assert found[FILE] == str(path)


FURTHER = {
    "kv": ("--draft-model llama-3.2-1b --alpha 0.7 --context 32k --batch 16", "--kv-dtype fp8 --seed 3"),
    "load": ("--method eagle3 --alpha 0.7 --concurrency 16", "--gpu-memory-utilization 0.8 --max-running 8"),
}


@pytest.mark.parametrize("name", FURTHER)
def test_settings_without_a_control_become_further_options(name: str, run, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    usual, more = FURTHER[name]
    typed = shlex.split(f"--target-model llama-3.1-8b --profile h100-sxm {usual} {more}")
    path.write_text(run("simulate", *typed, "--json").stdout)
    found = files.settings_of(path)
    assert found is not None
    assert set(shlex.split(more)) <= set(shlex.split(found["more"]))
    assert asking.answered(words(found)).document["headline"] == json.loads(path.read_text())["headline"]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_of_a_sweep_the_best_point_is_taken(form: str, run, tmp_path: Path) -> None:
    path = tmp_path / f"result.{form}"
    typed = "--target-model llama-3.1-8b --profile h100-sxm --draft-model llama-3.2-1b --alpha 0.6,0.8 --draftN 2,4"
    done = run("sweep", *typed.split(), "--replications", "0", *(["--json"] if form == "json" else ["--out", path]))
    if form == "json":
        path.write_text(done.stdout)
    found = files.settings_of(path)
    assert found is not None
    assert (found["alpha"], found["draftN"], found.get("more")) == ("0.8", "4", None)


def test_a_file_that_is_too_large_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 10)
    (tmp_path / "much.json").write_text('{"kind": "sweep"}')
    with pytest.raises(UserError, match="expected at most"):
        files.settings_of(tmp_path / "much.json")


def test_a_histogram_becomes_what_is_accepted(tmp_path: Path) -> None:
    found = files.settings_of(HIST)
    assert found is not None
    assert (found["hist"], found["draftN"]) == (str(HIST), "4")
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert files.settings_of(other) is None
    with pytest.raises(UserError, match="no such file"):
        files.settings_of(tmp_path / "none.json")


def test_a_port_that_is_taken_and_a_library_that_is_missing_are_a_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("streamlit")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("explore", "--port", taken.getsockname()[1], "--no-browser")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--port" in done.stderr
    monkeypatch.setitem(sys.modules, "streamlit", None)
    done = run("explore", "--no-browser")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert 'pip install "specsim[explore]"' in done.stderr


def test_pages_of_strangers_are_refused_whatever_a_folder_says_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This page reads files: another's, open in the same browser, must not talk to it."""
    config = pytest.importorskip("streamlit.config")
    from streamlit import net_util
    from streamlit.web.server.server_util import is_url_from_allowed_origins

    (tmp_path / ".streamlit").mkdir()
    lax = 'enableCORS = false\nenableXsrfProtection = false\ncorsAllowedOrigins = ["http://evil.example"]\n'
    (tmp_path / ".streamlit/config.toml").write_text(f'[server]\naddress = "0.0.0.0"\n{lax}')
    asked_of: list[str] = []
    monkeypatch.setattr(net_util, "_make_blocking_http_get", lambda url, *_, **__: asked_of.append(url))
    for name in ("_internal_ip", "_external_ip"):
        monkeypatch.setattr(net_util, name, None)
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        config.get_config_options(force_reparse=True)
        assert is_url_from_allowed_origins("http://evil.example"), "the folder says so"
        server.configured(8501)
        origins = ("http://evil.example", "http://127.0.0.1:8501")
        assert [is_url_from_allowed_origins(url) for url in origins] == [False, True]
        assert (config.get_option("server.address"), config.get_option("server.enableXsrfProtection"), asked_of) == (
            "127.0.0.1",
            True,
            [],
        )
    config.get_config_options(force_reparse=True)


def test_what_is_typed_is_no_markdown_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would have the browser ask other machines for pictures."""
    pytest.importorskip("streamlit")
    from calibration.explore import controls

    said: list[str] = []
    monkeypatch.setattr(controls.st, "caption", said.append)
    assert controls.published({}, {"method": "![x](http://evil.example/x.png)", "target-model": "llama-3.1-8b"}) == ""
    assert "evil" in said[0]
    assert "![x](" not in said[0]


@pytest.mark.parametrize(("method", "target", "k"), [("dflash", "qwen3-8b", 15), ("medusa", "llama-3.1-8b", 3)])
def test_a_surface_ends_where_a_method_does(method: str, target: str, k: int) -> None:
    state = asked({"method": method, "target-model": target, "draftN": str(k), "profile": "h200"}).state
    found = asking.answered(words({**state, "more": " ".join(QUICK)}))
    assert found.most is not None
    view = views.across_acceptance(state, k, found.most)
    assert max(view.columns["draftN"]) == found.most < views.LONGEST


NAMED = ("hist", "file", "target-model", "profile", "more", "acceptance", "batch", "dtype", "tp")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("value", ["\0", "/dev/zero", "é" * 300, "9" * 5000, "/", "[]", "-1", "1e400"])
def test_no_value_of_an_address_leads_to_a_mistake_of_ours(name: str, value: str) -> None:
    """Whatever it is: an answer, or a line that says what is wrong."""
    found = asked({name: value})
    with suppress(UserError, OSError):
        files.settings_of(Path(found.state.get(FILE, HIST)))
    with suppress(UserError):
        asking.answered(words(found.state))
