"""The picture shows what the summaries say, and no speed of a lossy method without its quality."""

from pathlib import Path

import numpy as np
import pytest

from acceptance.results.plots import decode_figure, label_shifts
from acceptance.results.summary import summarise
from simulator.ground.pictures import save_figure

from .test_bench_summary import judged_plain, lossy, record


def summaries(logp: float | None = -1.2):
    records = []
    for p in range(6):
        own = None if logp is None else logp + (p - 2.5) / 1000
        records += [judged_plain(p), lossy(p, own), record("slow", p, ms={"verify": 300.0, "draft": 20.0 + p})]
    return summarise(records, 0)


def panels(found):
    return decode_figure(found, title="what was measured").axes


def test_the_first_panel_holds_speeds_and_intervals_the_fastest_on_top() -> None:
    found = summaries()
    speed, split, _ = panels(found)
    names = [t.get_text().split()[0] for t in speed.get_yticklabels()]
    assert names == ["lossy", "baseline", "slow"]
    assert [t.get_text() for t in split.get_yticklabels()] == ["1", "2", "3"]
    values = {s["method"]: s["speedup"]["value"] for s in found}
    drawn = {names[int(line.get_ydata()[0])]: line.get_xdata()[0] for line in speed.lines if len(line.get_xdata()) == 1}
    assert drawn == pytest.approx(values)
    (low, high) = next(s for s in found if s["method"] == "slow")["speedup"]["ci95"]
    ends = [tuple(c.get_segments()[0][:, 0]) for c in speed.collections]
    assert any(e == pytest.approx((low, high)) for e in ends)
    assert any("-0.20 [" in t.get_text() for t in speed.texts)


def test_the_bars_add_up_to_the_time_of_a_token() -> None:
    found = summaries()
    _, split, _ = panels(found)
    ends = np.zeros(3)
    for bar in split.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends[row], bar.get_x() + bar.get_width())
    ordered = sorted(found, key=lambda s: -s["speedup"]["value"])
    assert ends == pytest.approx([1e3 / s["tokens_per_s"] for s in ordered])


def test_the_third_panel_puts_a_method_on_the_line_of_its_speed() -> None:
    found = summaries()
    *_, rounds = panels(found)
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in rounds.lines if len(line.get_xdata()) == 1]
    ordered = sorted(found, key=lambda s: -s["speedup"]["value"])
    assert [y / x for x, y in points] == pytest.approx([s["speedup_decode"]["value"] for s in ordered])
    one = next(line for line in rounds.lines if line.get_linestyle() == ":")
    assert list(one.get_xdata()) == pytest.approx(list(one.get_ydata()))


def test_a_lossy_method_of_unknown_quality_is_left_out() -> None:
    speed, *_ = panels(summaries(None))
    assert [t.get_text().split()[0] for t in speed.get_yticklabels()] == ["baseline", "slow"]


def test_numbers_stay_clear_of_marks_and_of_each_other() -> None:
    rng = np.random.default_rng(0)
    points = 0.5 + 0.05 * rng.standard_normal((8, 2))
    places = points * (330, 300) + label_shifts(points)
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 100 * np.eye(8)
    assert apart.min() > 9


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_summaries_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save_figure(tmp_path / f"{name}{suffix}", decode_figure(summaries(), title="t"))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_nothing_to_show_is_an_empty_picture(tmp_path: Path) -> None:
    skipped = record("m") | {"status": "skipped", "error": "no"}
    save_figure(tmp_path / "a.png", decode_figure(summarise([skipped], 0), title="t"))
    assert (tmp_path / "a.png").stat().st_size > 0
