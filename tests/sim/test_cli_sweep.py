"""`sweep` as a user meets it: real subprocesses, good input and bad."""

import os
import pty
import subprocess
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

from simulator.costs.parameters import MODEL_NAMES, PARAMETERS

GRID = ("--draftN", "1:4", "--alpha", "0.5:0.9:0.1", "--draft-cost", "0.05,0.1")


def test_a_sweep_writes_one_tidy_row_a_point(run, tmp_path: Path) -> None:
    done = run("sweep", *GRID, "--out", "s.csv")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    frame = pd.read_csv(tmp_path / "s.csv")
    assert len(frame) == 4 * 5 * 2
    assert {p.key for p in PARAMETERS if p.name not in MODEL_NAMES} <= set(frame.columns)
    assert frame.columns[frame.isna().any()].tolist() == ["hist"]
    assert (frame.overlap.unique().tolist(), frame.seed.unique().tolist()) == ([False], [0])
    assert len(frame.drop_duplicates(["draftN", "alpha", "draft_cost"])) == len(frame)
    assert ((frame.simulation_noise_low95 <= frame.speedup) & (frame.speedup <= frame.simulation_noise_high95)).all()
    assert frame.drafted.tolist() == pytest.approx((frame.rounds * frame.draftN).tolist())
    assert (frame.rounds + frame.accepted - frame.cut_tokens).tolist() == pytest.approx(frame.total.tolist())
    best = frame.loc[frame.speedup.idxmax()]
    assert f"best  {best.speedup:.3f}x" in done.stdout
    assert f"above 1x at {(frame.speedup > 1).sum()} of them" in done.stdout
    # Parquet holds the same; without replications there is the closed form alone.
    assert run("sweep", *GRID, "--out", "s.parquet").returncode == 0
    parquet = pd.read_parquet(tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(frame.drop(columns="hist"), parquet.drop(columns="hist"))
    assert run("sweep", *GRID, "--replications", 0, "--out", "s.csv", "--force").returncode == 0
    columns = pd.read_csv(tmp_path / "s.csv").columns
    assert "closed_form_speedup" in columns
    assert "speedup" not in columns


def test_a_histogram_is_swept_over_its_draft_lengths(run, hist_file: Path, tmp_path: Path) -> None:
    assert run("sweep", "--hist", hist_file, "--draftN", "1:4", "--out", "s.csv").returncode == 0
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.closed_form_tokens_per_round.tolist() == pytest.approx([1.8, 2.5, 3.1, 3.6])
    assert "alpha" not in frame
    # So is its iid equivalent, which is another one for each of them; in a folder each length has its own file.
    words = ("sweep", "--draftN", "1:4", "--out", "s.csv", "--force", "--hist")
    assert run(*words, hist_file, "--no-measured").returncode == 0
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.closed_form_tokens_per_round.tolist() == pytest.approx([1.8, 2.5, 3.1, 3.6])
    assert not frame.measured.any()
    (tmp_path / "accept_hist_k1.json").write_text('{"k": 1, "hist": {"0": 1, "1": 9}}')
    assert run(*words, ".").returncode == 0
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame.closed_form_tokens_per_round.tolist() == pytest.approx([1.9, 2.5, 3.1, 3.6])
    # A dollar in a name is no formula of the plot's title.
    hist_file.rename(tmp_path / "a$b^{$.json")
    assert run(*words, "a$b^{$.json", "--plot", "p.png").returncode == 0


def test_any_number_of_replications_works(run) -> None:
    done = run("sweep", "--draftN", "1:2", "--total", 8, "--replications", 70_000)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("kind", "suffix", "start"), [("auto", "png", b"\x89PNG"), ("curves", "svg", b"<?xml")])
def test_a_plot_is_written_beside_the_table(run, tmp_path: Path, kind: str, suffix: str, start: bytes) -> None:
    done = run("sweep", "--draftN", "1:6", "--alpha", "0.5:0.9:0.1", "--plot", f"p.{suffix}", "--plot-kind", kind)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"p.{suffix}").read_bytes().startswith(start)
    assert f"wrote p.{suffix}" in done.stdout


BAD_OPTIONS = [
    (("--draftN", "0:4"), "--draftN: 0 is not allowed"),
    (("--draftN", "x"), "--draftN: 'x'"),
    (("--alpha", "0.5:0.9"), "--alpha: '0.5:0.9' needs a step"),
    (("--draftN", "1:4", "--overlap-exponent", "1,2,4,inf", "--plot", "p.png"), "overlap_exponent includes inf"),
    (("--out", "s.xlsx"), "--out s.xlsx: suffix '.xlsx', expected .csv or .parquet"),
    (("--plot", "p.pdf", "--draftN", "1:4"), "--plot p.pdf: suffix '.pdf', expected .png or .svg"),
    (("--plot", "p.png"), "--plot: the grid has one point"),
    (("--alpha", "0:1:0.0001", "--draft-cost", "0.0001:1:0.0001"), "points, at most"),
    (("--hist", "absent.json"), "absent.json: no such file"),
    (("--workmem", "0,8", "--workflops", "0"), "are both 0"),
    (("--draftN", "1:5", "--hist", "accept_hist_k4.json"), "--draftN: 5", "expected 1 to 4"),
]


def test_a_bad_option_is_one_line(run, user_error, hist_file: Path, tmp_path: Path) -> None:
    for arguments, *messages in BAD_OPTIONS:
        user_error(run("sweep", *arguments), *messages)
        assert list(tmp_path.iterdir()) == [hist_file]


def test_existing_outputs_are_kept_unless_forced(run, user_error, tmp_path: Path) -> None:
    for option, path in (("--out", tmp_path / "kept.csv"), ("--plot", tmp_path / "kept.png")):
        path.write_text("precious")
        user_error(run("sweep", *GRID, option, path), "exists already")
        assert path.read_text() == "precious"
        assert run("sweep", *GRID, option, path, "--force").returncode == 0
        assert path.read_bytes() != b"precious"


def test_parquet_without_its_library_says_how_to_get_it(run_real, user_error, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked" / "pyarrow"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'pyarrow'\", name='pyarrow')")
    done = run_real("sweep", *GRID, "--out", "s.parquet", PYTHONPATH=str(blocked.parent))
    user_error(done, "pyarrow is not installed", 'pip install "specsim[parquet]"')


def test_a_terminal_sees_a_progress_bar(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    command = [f"{sysconfig.get_path('scripts')}/sweep", *GRID]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    process.communicate(timeout=60)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert process.returncode == 0
    assert "sweep" in shown
    assert "60/60" in shown
