"""The page of `explore` as Streamlit runs it, without a browser: controls, address and command line say the same."""

import json
import re
import shlex
from pathlib import Path

import pytest

from calibration.explore import asking, files
from calibration.explore.state import line, words
from tests.calib.test_explore import QUICK, made

APP = Path(asking.__file__).with_name("app.py")


def test_the_page_of_a_result_is_shown_by_what_streamlit_keeps(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    told = pytest.importorskip("streamlit.deprecation_util")
    monkeypatch.setattr(told, "show_deprecation_warning", lambda text, **_: warned.append(text))
    path = tmp_path / "result.json"
    path.write_text(run("simulate", *words(made("rate")), "--json").stdout)
    shown = page(file=str(path), more=" ".join(QUICK))
    assert not shown.exception
    assert [button.label for button in shown.button] == ["Take its settings"]
    assert len(shown.get("iframe")) == 1
    assert warned == []


def test_a_forecast_beside_a_file_says_whose_it_is(run, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(run("simulate", *words(made("rate")), "--json").stdout)
    heads = [each.value for each in page(file=str(path), more=" ".join(QUICK)).subheader]
    assert "Forecast of the controls, not of this file" in heads
    heads = [each.value for each in page(**(files.settings_of(path) or {})).subheader]
    assert "Forecast of the controls, not of this file" not in heads


def page(**query: str):
    """Return the page as Streamlit runs it, without a browser."""
    testing = pytest.importorskip("streamlit.testing.v1")
    from calibration.explore import page as drawn

    drawn.PAINT_S = drawn.FIRST_PAINT_S = 0.0  # of browsers
    found = testing.AppTest.from_file(str(APP), default_timeout=60)
    for name, value in query.items():
        found.query_params[name.replace("_", "-")] = value
    return found.run()


def address(shown) -> dict[str, str]:
    """Return the query of a page; older releases of Streamlit have a list of each value."""
    return {name: value if isinstance(value, str) else value[-1] for name, value in dict(shown.query_params).items()}


def numbers(shown) -> dict[str, str]:
    """Return the numbers that stand out on a page, by label."""
    found = "".join(each.value for each in shown.markdown)
    return dict(re.findall(r'answer-label">([^<]*)</div><div class="answer-value">([^<]*)<', found))


def test_a_control_changes_the_numbers_to_what_the_command_says(run) -> None:
    shown = page(**{"target-model": "llama-3.1-8b", "method": "eagle3", "alpha": "0.6", "more": " ".join(QUICK)})
    assert not shown.exception
    before = numbers(shown)["Speedup"]
    shown.slider[0].set_value(0.9).run()
    assert not shown.exception
    typed = next(code.value for code in shown.code if code.value.startswith("simulate "))
    assert "--alpha 0.9" in typed
    told = json.loads(run(*shlex.split(typed.replace(" --why", "")), "--json").stdout)
    assert before != numbers(shown)["Speedup"] == f"{told['verdict']['speedup']:.2f}x"
    assert address(shown)["alpha"] == "0.9"


@pytest.mark.parametrize("name", ["rate", "histogram", "load"])
def test_an_address_alone_shows_what_it_says(name: str) -> None:
    state = made(name)
    shown = page(**state)
    assert not shown.exception
    assert any(f"{state['target-model']} on {state.get('tp', 1)} x h100-sxm, " in each.value for each in shown.markdown)
    assert line("simulate", (*words(state), "--why")) in [code.value for code in shown.code]
    assert address(shown) == dict(state)


def test_a_bad_address_is_said_on_the_page() -> None:
    shown = page(draftN="x", foo="1", target_model="lama-9")
    assert not shown.exception
    assert not numbers(shown)
    assert [code.value for code in shown.code if "--target-model lama-9 " in code.value]
    said = " ".join(str(part.proto) for part in shown.get("html"))
    assert "foo&#x27;: no control of this page" in said.replace("\\", "")
    assert "--draftN: " in said


def test_a_page_that_is_new_has_its_numbers_once_and_before_its_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its controls, where they have it otherwise."""
    from calibration.explore import controls
    from calibration.explore import page as drawn

    order: list[str] = []
    summary, all_controls = drawn.summary, controls.drawn
    monkeypatch.setattr(drawn, "summary", lambda document: (order.append("numbers"), summary(document))[1])
    monkeypatch.setattr(controls, "drawn", lambda state: (order.append("controls"), all_controls(state))[1])
    shown = page(alpha="0.7", more=" ".join(QUICK))
    assert order == ["numbers", "controls"]
    shown.slider[0].set_value(0.9).run()
    assert order == ["numbers", "controls", "controls", "numbers"]
    expected = numbers(shown)
    monkeypatch.setattr(controls, "drawn", lambda state: {**all_controls(state), "alpha": "0.9"})
    shown = page(alpha="0.7", more=" ".join(QUICK))
    assert sum('class="answer-numbers"' in each.value for each in shown.markdown) == 1
    assert numbers(shown) == expected


def pick(shown, name: str, value: str) -> None:
    """Choose something."""
    shown.selectbox(key=f"control {name}").set_value(value).run()
    assert not shown.exception


def test_another_method_or_target_accepts_as_one_of_its_own_pairs() -> None:
    shown = page(more=" ".join(QUICK), acceptance="eagle3-llama-3.1-8b")
    pick(shown, "target-model", "qwen3-8b")
    assert address(shown)["acceptance"].startswith("eagle3-qwen3-8b")
    pick(shown, "method", "dflash")
    assert address(shown)["acceptance"].startswith("dflash-qwen3-8b")
    pick(shown, "target-model", "phi-4")
    assert "acceptance" not in shown.query_params
    assert numbers(shown)


def test_another_method_begins_with_its_usual_draft() -> None:
    shown = page(target_model="qwen3-32b", method="eagle3", more=" ".join(QUICK))
    pick(shown, "method", "draft_model")
    assert address(shown)["draft-model"] == "qwen3-0.6b"
    for name in ("ngram", "eagle3"):
        pick(shown, "method", name)
        assert "draft-model" not in shown.query_params
        assert numbers(shown)


def test_a_surface_of_trees_is_not_over_a_rate() -> None:
    shown = page(more=f"--topk 4 --nodes 8 {' '.join(QUICK)}")
    assert shown.radio(key="over").options == ["batch", "context"]
    assert sum(code.value.startswith("sweep ") for code in shown.code) == 2


def test_what_curves_show_changes_with_what_is_decoded() -> None:
    shown = page(concurrency="4", alpha="0.7")
    shown.radio(key="measure").set_value("first token").run()
    shown.radio(key="over").set_value("load").run()
    shown.radio(key="control load").set_value("one batch").run()
    assert not shown.exception
    assert "first token" not in shown.radio(key="measure").options
    assert sum(code.value.startswith("sweep ") for code in shown.code) == 2


def test_what_does_not_fit_says_what_would_and_draws_no_rounds() -> None:
    shown = page(target_model="llama-3.1-70b", draft_model="llama-3.2-1b", profile="rtx-4090", alpha="0.7")
    assert not shown.exception
    assert any("Does not fit" in each.value and "It would with --tp 8." in each.value for each in shown.markdown)
    told = [each.value for each in shown.caption]
    assert "Nothing runs that does not fit." in told
    # Neither of the two pictures is drawn.
    assert told.count("None of it fits into memory.") == 2
