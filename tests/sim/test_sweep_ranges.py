"""A sweep over many batch sizes: ranges of one draft length each, "off" among them, and where to turn it off."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

GPUS = ("--profile", "h100-sxm", "--tp", 4, "--target-model", "llama-3.3-70b", "--draft-model", "llama-3.2-1b")


def test_a_sweep_over_many_batch_sizes_tells_ranges_of_them_and_where_to_turn_it_off(run, tmp_path: Path) -> None:
    words = ("sweep", *GPUS, "--context", "512,4096", "--batch", "1:256", "--draftN", "1:6", "--alpha", 0.4)
    done = run(*words, "--replications", 0, "--out", "s.csv", "--json")
    found, frame = json.loads(done.stdout), pd.read_csv(tmp_path / "s.csv")
    assert {a["values"]["context"] for a in found["answers"]} == {512, 4096}
    for context, last in ((512, 256), (4096, 256)):
        answers = [a for a in found["answers"] if a["values"] == {"context": context}]
        ends = [a["batches"] for a in answers]
        assert (ends[0][0], ends[-1][1]) == (1, last)
        assert all(one[1] + 1 == two[0] for one, two in pairwise(ends))
        for a in answers:
            rows = frame[(frame.context == context) & frame.batch.between(*a["batches"])]
            if a["draft_length"] is None:
                assert not rows.fits.any()
                continue
            assert rows.fits.all()
            assert a["batches"][1] >= 1.2 * a["batches"][0] or a["draft_length"] == 0
            below = by_k_below(rows, a["draft_length"])
            assert a["below_1"] == ([below[0], below[-1]] if below else None)
            by_k = rows.pivot(index="batch", columns="draftN", values="closed_form_speedup")
            off = pd.Series(1.0, by_k.index)
            chosen = by_k[a["draft_length"]] if a["draft_length"] else off
            # As near to the best as switches worth 2 % allow, but where a narrower range would be needed.
            assert (np.maximum(by_k.max(axis=1), off) <= chosen * 1.03).all()
            ties = [k for k, of in {0: off, **by_k}.items() if (of * 1.02 > chosen).all() and k != a["draft_length"]]
            assert a["as_good"] == ties
            drafted = by_k[a["drafted"]]
            assert [a["speedup"], a["speedup_at_last"]] == pytest.approx([drafted.iloc[0], drafted.iloc[-1]])
            assert a["speedup_ci95"][0] < min(a["speedup"], a["speedup_at_last"])
            assert a["speedup_ci95"][1] > max(a["speedup"], a["speedup_at_last"])
    ends = [a["batches"][0] - 1 for a in found["answers"] if a["draft_length"] == 0]
    assert [s["off_above_batch"] for s in found["schedules"]] == [*ends, None]
    assert found["schedules"][0]["vllm"]["num_speculative_tokens_per_batch_size"][-1] == [ends[0] + 1, 256, 0]
    said = run(*words, "--replications", 0).stdout
    where = " ".join(said.split())
    assert f"turn it off: at context 512 above batch {ends[0]}, a little below 1x at batch " in where
    assert "; at context 4,096 nowhere up to batch" in where
    assert max(map(len, said.splitlines())) <= 100
    rows = [line.split() for line in said.splitlines() if line.startswith(("    512 ", "  4,096 "))]
    assert [row[1] for row in rows] == ["{}-{}".format(*a["batches"]) for a in found["answers"]]


def by_k_below(rows: pd.DataFrame, k: int) -> list[int]:
    """Batch sizes of a range, of those in a table, at which its draft length is below 1x."""
    return [] if k == 0 else rows[(rows.draftN == k) & (rows.closed_form_speedup < 1)].batch.tolist()


def test_where_to_turn_it_off_hangs_on_no_batch_size_that_was_looked_at_last(run) -> None:
    words = ("sweep", *GPUS, "--context", 512, "--draftN", "1:2", "--alpha", 0.5, "--replications", 0)
    (short,), (long,) = (
        json.loads(run(*words, "--batch", f"1:{last}", "--json").stdout)["schedules"] for last in (256, 300)
    )
    assert short["off_above_batch"] == long["off_above_batch"] == 247
    assert short["vllm"]["num_speculative_tokens_per_batch_size"][-1] == [248, 256, 0]
    said = " ".join(run(*words, "--batch", "1:256").stdout.split())
    assert "turn it off: above batch 247, a little below 1x at batch 234-247, cannot tell within" in said
    # What is below 1x by less than a switch is worth is named, though nothing is off.
    said = " ".join(run(*words, "--batch", "1:240").stdout.split())
    assert "turn it off: nowhere up to batch 240, the last looked at, a little below 1x at batch 234-240" in said


def test_a_picture_says_on_how_many_devices(run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr("simulator.answers.plots.set_title", lambda figure, title, under: said.append(under))
    words = ("--draftN", "1:2", "--alpha", 0.8, "--replications", 0, "--plot", "p.svg", "--force")
    for more in ((), ("--placement", "separate")):
        assert run("sweep", *GPUS, *words, *more).returncode == 0
    assert "llama-3.3-70b drafted by llama-3.2-1b, i.i.d. acceptance, 4 x h100-sxm, alpha 0.8" in said[0]
    assert "4 x h100-sxm, the draft on one more, alpha 0.8" in said[1]


def test_a_sweep_of_noise_cannot_tell(run, tmp_path: Path) -> None:
    (tmp_path / "few.json").write_text('{"k": 2, "hist": {"0": 2, "1": 1, "2": 2}}')
    one = ("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b")
    words = ("sweep", *one, "--hist", "few.json", "--draftN", "1:2", "--replications", 0)
    said = run(*words, "--batch", "1:40").stdout
    assert said.startswith("Cannot tell: at most ")
    assert "turn it off: not known up to batch 40, 1x is in every interval" in " ".join(said.split())
    assert said.splitlines()[-1].endswith("cannot tell")
    rows = json.loads(run(*words, "--batch", "1,2", "--json").stdout)["answers"]
    assert [a["verdict"] for a in rows] == ["cannot tell"] * 2
    # As `simulate` answers, and where the interval is on one side, both say that.
    assert run("simulate", *words[1:-4], "--draftN", 2).stdout.startswith("Cannot tell: ")
    (tmp_path / "few.json").write_text('{"k": 2, "hist": {"0": 200, "1": 100, "2": 4000}}')
    assert run(*words, "--batch", "1:40").stdout.startswith("At most ")


def test_ranges_of_batch_sizes_say_what_is_off_everywhere_and_what_never_fits(run) -> None:
    words = ("sweep", *GPUS, "--batch", "1:40", "--draftN", "1:2", "--replications", 0)
    never = run(*words, "--alpha", 0.01, "--context", 512).stdout
    assert "turn it off: everywhere up to batch 40 " in never
    assert [line.split()[:2] for line in never.splitlines()[-1:]] == [["1-40", "off"]]
    unfit = " ".join(run(*words, "--context", "1024,10000000").stdout.split())
    assert "at context 10,000,000 nothing fits into memory" in unfit
    # Of a K that nobody asked for the answer says so.
    default = run("sweep", *GPUS, "--batch", "1:40", "--alpha", 0.7, "--replications", 0).stdout
    assert "K = 4 alone, a default: --draftN 1:8 names the best" in " ".join(default.split())
    # A few batch sizes keep a row each, the only draft length is told where it does not always pay.
    few = run("sweep", *GPUS, "--batch", "1,300", "--context", 512, "--draftN", 3, "--alpha", 0.4).stdout
    assert [line.split()[:2] for line in few.splitlines()[-2:]] == [["1", "3"], ["300", "off"]]
