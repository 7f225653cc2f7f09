"""On a real GPU: compute-sanitizer finds nothing in any kernel, and something in one that is broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("device")
ROOT, SCRIPT = Path(__file__).parents[2], Path(__file__).with_name("smoke.py")
FOUND = 66


def sanitizer() -> str:
    """Return compute-sanitizer, from the path or from where toolkits are installed."""
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [Path(home) / "bin" for home in (*filter(None, homes), "/usr/local/cuda")]
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(map(str, folders))
    )
    if found is None:
        pytest.skip("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    return found


def under(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sanitizer(), "--tool", tool, "--error-exitcode", str(FOUND), "--report-api-errors", "no"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    words = [*command, sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    done = under(tool, "sanitized")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "done" in done.stdout


def test_the_sanitizer_sees_a_write_past_an_array() -> None:
    done = under("memcheck", "broken")
    assert done.returncode == FOUND, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Invalid __global__ write" in done.stdout
