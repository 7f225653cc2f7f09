"""`report`: results as one page, which says what they say, loads nothing, and holds whatever a file holds as text."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.pages.document import document
from calibration.pages.kinds import KINDS, page_of
from calibration.pages.page import Axis
from calibration.pages.scales import MOST_TICKS, scale_of
from simulator.ground.artefacts import UserError
from tests.calib.made_decode import write_decode
from tests.calib.page_reading import read_page

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
MEASURED = ROOT / "calibration" / "measured"
ADVICE = HERE / "pages" / "advice.json"
GIVEN = {
    "advice": ADVICE,
    "simulated load": HERE / "pages" / "serving.json",
    "its table": HERE / "pages" / "serving.csv",
    "load on a server": HERE / "vllm_load.jsonl",
    "forecasts of decoding": MEASURED / "epyc-2-core" / "live.json",
    "forecasts of methods": MEASURED / "xeon-2-core" / "methods.json",
    "forecasts of published results": HERE / "pages" / "published.json",
    "forecasts of loads": HERE / "pages" / "served.json",
}
PRICED = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b", "--alpha", 0.7)


def html_of(*paths: Path) -> str:
    return document([page_of(path) for path in paths])


@pytest.mark.parametrize("name", GIVEN)
def test_a_result_is_a_page_that_says_its_answer_first_and_all_that_it_holds(name: str) -> None:
    path = GIVEN[name]
    text = html_of(path)
    page, found = page_of(path), read_page(text)
    assert found.tags.count("h1") == 1
    assert found.texts.index(page.answer) < found.texts.index("Where it comes from")
    first = next(i for i, part in enumerate(page.parts) if part.shown)
    assert found.texts.index(page.answer) < found.texts.index(page.parts[first].heading)
    for figure in page.figures:
        assert figure.value in found.texts
    if path.suffix == ".json":
        numbers = set(re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.sub(r'"(?:[^"\\]|\\.)*"', "", path.read_text())))
        assert [number for number in numbers if number not in text] == []
    assert html_of(path) == text
    # Pictures are told to who cannot see them, with numbers.
    assert all(re.search(r"\d", said) for said in found.spoken if said.startswith(("Lines", "Bars")))


def test_the_answer_and_figures_of_advice_are_those_of_the_command() -> None:
    page, told = page_of(ADVICE), json.loads(ADVICE.read_text())
    assert page.answer == told["headline"]
    assert (page.mark, page.verdict) == ("open", "pays, conditionally")
    gain = told["serving"][told["take"]]["gain"]
    assert page.figures[0].value == f"{gain:.2f}x as fast"
    typed = [line for part in page.parts for shown in part.shown if hasattr(shown, "of") for line in shown.lines]
    assert typed == told["engine"]["lines"]
    assert dict(page.rests)["costs"] == "h100-sxm, datasheet, uncalibrated"
    assert dict(page.made)["made"] == told["created_utc"]
    assert dict(page.made)["seed"] == "0"


def test_several_results_make_one_page_with_a_list_that_leads_to_each(run, tmp_path) -> None:
    words = ("--draftN", "1:3", "--batch", "1:16", "--context", "512,4096", "--replications", 0, "--out", "sweep.csv")
    (tmp_path / "sweep.json").write_text(run("sweep", *PRICED, *words, "--json").stdout)
    (tmp_path / "one.json").write_text(run("simulate", "--alpha", 0.7, "--draftN", 3, "--json").stdout)
    published = GIVEN["forecasts of published results"]
    names = ("sweep.json", "sweep.csv", published, "one.json")
    done = run("report", *names, "--out", "all.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote all.html\n", "")
    found, sweep = read_page(tmp_path / "all.html"), json.loads((tmp_path / "sweep.json").read_text())
    # One heading, a list that leads to each, and each one's answer twice: there and above it.
    assert found.tags.count("h1") == found.tags.count("nav") == 1
    assert [value for _, name, value in found.attributes if name == "href"] == [f"#r{i}" for i in range(1, 5)]
    assert found.texts.count(sweep["headline"]) == 2
    # Each row of the answers, as the terminal has it.
    for answer in sweep["answers"]:
        assert f"{answer['speedup']:.2f}x" in found.text
    assert "leviathan" in found.text
    again = run("report", *names, "--out", "again.html")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "all.html").read_bytes(), again.stderr


def test_records_of_decoding_and_of_a_load_say_what_their_commands_print(run, tmp_path) -> None:
    write_decode(tmp_path / "decode.jsonl", prompts=8, lengths=(1, 3))
    page = page_of(tmp_path / "decode.jsonl")
    assert page.answer.startswith("Fastest: k3, ")
    assert page.mark == "good"
    load = page_of(GIVEN["load on a server"])
    # Arms stand as they were named, not as keys are sorted: the first is the one without drafts.
    assert load.answer.startswith("drafts: answers come 1.14x as fast at 2 clients, held against plain.")
    assert load.verdict == "faster, without an interval"


def changed(**members: object) -> dict:
    return json.loads(ADVICE.read_text()) | members


TEXTS = st.text(min_size=1, max_size=40) | st.sampled_from(
    [
        "</title><script>alert(1)</script>",
        "<img src=x onerror=y>",
        '" onload="z',
        "&lt;&amp;",
        "]]>",
        "<!--",
        "\x00\x1b[31m",
        "\ud800",
    ]
)


@given(names=st.lists(TEXTS, min_size=2, max_size=4, unique=True), said=TEXTS)
@settings(max_examples=8)
def test_whatever_a_file_says_is_text_of_the_page(tmp_path_factory, names: list[str], said: str) -> None:
    told = changed(headline=said, warnings=[said, *names], not_compared={name: said for name in names})
    plain = {"way": told["serving"]["plain"]} | {"plain": told["serving"]["plain"]}
    shapes = []
    path = tmp_path_factory.getbasetemp() / "said.json"
    for words, line in ((names, said), ([f"n{i}" for i in range(len(names))], "said")):
        serving = {name: told["serving"][told["take"]] for name in words} | {"plain": plain["plain"]}
        body = told | {"serving": serving, "take": words[0], "headline": line, "warnings": [line, *words]}
        path.write_text(json.dumps(body | {"not_compared": {"a": line}, "parameters": {line: line}}))
        try:
            shapes.append(read_page(html_of(path)))
        except UserError as error:
            # Halves of characters are no text; the name of plain decoding is taken.
            assert "\n" not in str(error)  # noqa: PT017
            return
    assert shapes[0].tags == shapes[1].tags
    assert [(tag, name) for tag, name, _ in shapes[0].attributes] == [
        (tag, name) for tag, name, _ in shapes[1].attributes
    ]
    shown = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", said)
    assert shown.strip() in shapes[0].text.replace("\r\n", "\n") or "\r" in shown


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8), log=st.booleans())
def test_what_stands_on_an_axis_is_on_it(values: list[float], log: bool) -> None:
    values = [abs(v) + 1e-9 for v in values] if log else values
    scale = scale_of(Axis("", log=log), values)
    assert all(-1e-6 <= scale.at(v) <= 100 + 1e-6 for v in values)
    assert 1 <= len(scale.ticks) <= MOST_TICKS + 2
    assert all(scale.low <= tick <= scale.high or math.isclose(tick, scale.low, rel_tol=1e-6) for tick in scale.ticks)
    places = [scale.at(tick) for tick in scale.ticks]
    assert places == sorted(places)


def test_what_is_no_result_is_refused_in_one_line(run, user_error, tmp_path) -> None:
    files = {
        "none.json": "{}",
        "list.json": "[1]",
        "other.json": json.dumps({"kind": "advice", "tool": "another"}),
        "strange.json": json.dumps({"kind": "thing", "tool": "specsim"}),
        "bare.json": json.dumps({"kind": "advice", "tool": "specsim"}),
        "half.json": ADVICE.read_text()[:500],
        "table.csv": "a,b\n1,2\n",
        "ragged.csv": "load,arm\n1\n",
        "words.csv": "load,arm,tpot_mean_s\none,plain,1\n",
        "empty.csv": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        user_error(run("report", name, "--out", "page.html"), name)
    profile = MEASURED / "epyc-2-core" / "device.json"
    user_error(run("report", profile, "--out", "page.html"), "kind is 'hardware_profile', expected a result of advise")
    user_error(run("report", "gone.json", "--out", "page.html"), "gone.json: no such file")
    user_error(run("report", ADVICE, "--out", "page.pdf"), "--out page.pdf: suffix '.pdf', expected .html")
    user_error(run("report", "--out", "page.html"), "RESULT")
    assert not (tmp_path / "page.html").exists()
    (tmp_path / "page.html").write_text("mine")
    user_error(run("report", ADVICE, "--out", "page.html"), "--out page.html: exists already (--force overwrites it)")
    assert (tmp_path / "page.html").read_text() == "mine"
    assert run("report", ADVICE, "--out", "page.html", "--force").returncode == 0
    user_error(run("report", "page.html", "--out", "page.html", "--force"), "is the file of RESULT page.html too")


def test_loads_of_which_each_way_is_held_against_another_have_a_page(tmp_path) -> None:
    told = json.loads(GIVEN["simulated load"].read_text())
    for point in told["points"]:
        for figures in point.values():
            if isinstance(figures, dict):
                figures["e2e_gain"] = 1.5
    (tmp_path / "load.json").write_text(json.dumps(told))
    assert read_page(html_of(tmp_path / "load.json")).text.count("1.50x") > 1


def test_every_kind_names_a_command_that_is_there() -> None:
    from calibration.cli.specsim import COMMANDS

    assert {kind.command for kind in KINDS.values()} <= set(COMMANDS)


def test_a_result_of_another_kind_that_says_its_answer_has_a_page(tmp_path) -> None:
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"kind": "new_thing", "tool": "specsim", "headline": "It is so.", "parameters": {}}))
    page = page_of(path)
    assert (page.kind, page.answer) == ("new thing", "It is so.")
