"""The picture shows what the summaries say, and no speed of a lossy method without its quality."""

from pathlib import Path

import numpy as np
import pytest

from acceptance.results.plots import decode_figure, label_shifts
from acceptance.results.summary import summarise
from simulator.ground.pictures import save_figure

from .test_bench_summary import judged_plain, lossy, pairs, record


def summaries(logp: float | None = -1.2):
    def judged(p: int):
        return lossy(p, None if logp is None else logp + (p - 2.5) / 1000)

    slow = {"verify": 300.0, "draft": 20.0}
    return summarise(pairs(6, judged_plain, judged, lambda p: record("slow", p, ms=slow | {"draft": 20.0 + p})), 0)


def test_the_panels_hold_speeds_times_and_rounds_the_fastest_on_top() -> None:
    found = sorted(summaries(), key=lambda s: -s["speedup"]["value"])
    speed, split, rounds = decode_figure(found, title="what was measured").axes
    names = [t.get_text().split()[0] for t in speed.get_yticklabels()]
    assert names == ["lossy", "baseline", "slow"] == [s["method"] for s in found]
    assert [t.get_text() for t in split.get_yticklabels()] == ["1", "2", "3"]
    values = {s["method"]: s["speedup"]["value"] for s in found}
    drawn = {names[int(line.get_ydata()[0])]: line.get_xdata()[0] for line in speed.lines if len(line.get_xdata()) == 1}
    assert drawn == pytest.approx(values)
    ends = [tuple(c.get_segments()[0][:, 0]) for c in speed.collections]
    assert any(e == pytest.approx(tuple(found[2]["speedup"]["ci95"])) for e in ends)
    assert any("-0.20 [" in t.get_text() for t in speed.texts)
    # The bars add up to the time of a token.
    ends = np.zeros(3)
    for bar in split.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends[row], bar.get_x() + bar.get_width())
    assert ends == pytest.approx([1e3 / s["tokens_per_s"] for s in found])
    # A method is on the line of its speed.
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in rounds.lines if len(line.get_xdata()) == 1]
    assert [y / x for x, y in points] == pytest.approx([s["speedup_decode"]["value"] for s in found])
    one = next(line for line in rounds.lines if line.get_linestyle() == ":")
    assert list(one.get_xdata()) == pytest.approx(list(one.get_ydata()))


def test_a_lossy_method_of_unknown_quality_is_left_out() -> None:
    speed, *_ = decode_figure(summaries(None), title="t").axes
    assert [t.get_text().split()[0] for t in speed.get_yticklabels()] == ["baseline", "slow"]


def test_numbers_stay_clear_of_marks_and_of_each_other() -> None:
    rng = np.random.default_rng(0)
    points = 0.5 + 0.05 * rng.standard_normal((8, 2))
    places = points * (330, 300) + label_shifts(points)
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 100 * np.eye(8)
    assert apart.min() > 9


def test_the_same_summaries_give_the_same_bytes_and_nothing_to_show_an_empty_picture(tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        for name in ("a", "b"):
            save_figure(tmp_path / f"{name}{suffix}", decode_figure(summaries(), title="t"))
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    skipped = record("m") | {"status": "skipped", "error": "no"}
    save_figure(tmp_path / "none.png", decode_figure(summarise([skipped], 0), title="t"))
    assert (tmp_path / "none.png").stat().st_size > 0
