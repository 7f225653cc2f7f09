"""`simulate-serving` on a real Dask cluster, whose workers are killed on the way, and then its scheduler."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS, run_really

pytestmark = pytest.mark.whole
pytest.importorskip("distributed")

WORDS = (
    *("--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "eagle3", "--alpha", 0.7),
    *("--rate", "1:200:1", "--isl", "lognormal:1000:0.9", "--osl", "lognormal:200:0.8", "--requests", 4000),
)


class Cluster:
    """Processes of a scheduler and its workers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, list[subprocess.Popen]()
        file = folder / "scheduler.json"
        self.scheduler = self.started("distributed.cli.dask_scheduler", "--port", 0, "--scheduler-file", file)
        for _ in range(600):
            if file.exists() and file.stat().st_size:
                break
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        self.add()
        self.add()

    def started(self, module: str, *words: object) -> subprocess.Popen:
        command = [sys.executable, "-m", module, *map(str, words), "--no-dashboard"]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )

    def add(self) -> None:
        words = (self.address, "--nthreads", 1, "--no-nanny", "--local-directory", self.folder)
        self.workers.append(self.started("distributed.cli.dask_worker", *words))

    def kill_worker(self) -> None:
        worker = self.workers.pop(0)
        worker.kill()
        worker.wait()

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


def served(folder: Path, *words: object) -> subprocess.Popen:
    command = [str(SCRIPTS / "simulate-serving"), *map(str, (*WORDS, *words))]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen, file: Path, size: int) -> None:
    """Wait until so much is kept."""
    while not (file.exists() and file.stat().st_size > size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_a_lost_worker_loses_nothing_and_a_lost_scheduler_what_was_not_done(cluster: Cluster, tmp_path: Path) -> None:
    whole = run_really(tmp_path, "simulate-serving", *WORDS, "--out", "whole.csv")
    assert whole.returncode == 0, whole.stderr
    expected = (tmp_path / "whole.csv").read_bytes()

    command = served(tmp_path, "--cluster", cluster.address, "--out", "a.csv")
    kept = tmp_path / "a.csv.unfinished"
    for size in (1, 400_000):
        wait_for(command, kept, size)
        cluster.kill_worker()
        cluster.add()
    out, err = command.communicate()
    assert (command.returncode, err) == (0, "")
    assert out.replace("a.csv", "whole.csv") == whole.stdout
    assert (tmp_path / "a.csv").read_bytes() == expected

    command = served(tmp_path, "--cluster", cluster.address, "--out", "b.csv")
    kept = tmp_path / "b.csv.unfinished"
    wait_for(command, kept, 100_000)
    cluster.scheduler.kill()
    _, err = command.communicate()
    lost = f"--cluster {cluster.address}: the scheduler was lost, expected it to answer to the end"
    assert command.returncode == 2
    assert err == f"simulate-serving: {lost}; b.csv.unfinished keeps what is done, the same command goes on\n"
    assert kept.stat().st_size > 100_000
    assert run_really(tmp_path, "simulate-serving", *WORDS, "--out", "b.csv").returncode == 0
    assert (tmp_path / "b.csv").read_bytes() == expected

    nobody = run_really(tmp_path, "simulate-serving", *WORDS, "--cluster", cluster.address)
    assert nobody.returncode == 2
    assert nobody.stderr == (
        f"simulate-serving: --cluster {cluster.address}: no scheduler answers (OSError), expected `dask scheduler`\n"
    )
