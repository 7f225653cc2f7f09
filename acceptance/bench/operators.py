"""PyTorch's own profile of a decoding: every operator and kernel; `clock` keeps the timeline of phases."""

import os
import tempfile
from pathlib import Path

from torch.profiler import profile, record_function

from acceptance.models.static_context import no_captures
from simulator.ground.artefacts import writing

from .timed import WARM_UP_TOKENS, attempt, warm_up
from .turns import Bench, batches


def write_operators(bench: Bench, path: Path) -> list[str]:
    """Decode the first batch's first tokens by every arm under torch's profiler, and write its Chrome trace.

    Nothing of it is timed for records: operators take longer while they are watched. Each arm is a range of its name,
    what decides on drafts one of the name "sample" inside it.

    Returns:
        Why arms did not run, where they did not.
    """
    batch = batches(len(bench.prompts), bench.settings.batch_size)[0]
    few = min(WARM_UP_TOKENS, bench.settings.max_new_tokens)
    warm_up(bench, {(r.arm.name, len(batch)) for r in bench.running})
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it says on stderr when it starts and stops
    failed = []
    with no_captures(), profile() as watched:
        for r in bench.running:
            assert r.begin is not None
            with record_function(r.arm.name):
                taken = attempt(bench, r.begin, batch, max_new_tokens=few)
            if isinstance(taken, str):
                failed.append(f"{r.arm.name}: {taken}")
    with tempfile.TemporaryDirectory() as folder, writing(path, "wb") as file:
        whole = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(whole))
        file.write(whole.read_bytes())
    return failed
