"""Timelines as Chrome trace events: the JSON that Perfetto and chrome://tracing open."""

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

FLUSH_AT = 8192


class ChromeTrace:
    """Writes spans into an open file; processes and their threads are numbered from 1, as they are named."""

    def __init__(
        self, file: IO[str], lanes: Sequence[tuple[str, Sequence[str]]], other_data: Mapping[str, Any] | None = None
    ) -> None:
        """Name the lanes: of each process, and of its threads; other_data: what else is known of the run."""
        self.file = file
        self.lines: list[str] = []
        file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(other_data or {}, sort_keys=True)},\n')
        file.write('"traceEvents": [\n')
        names = [
            {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}}
            for pid, (process, threads) in enumerate(lanes, 1)
            for kind, tid, name in (("process", 0, process), *(("thread", t, n) for t, n in enumerate(threads, 1)))
        ]
        file.write(",\n".join(map(json.dumps, names)))

    def span(self, pid: int, tid: int, name: str, start_s: float, end_s: float, detail: str = "") -> None:
        """Log one span; `detail` is the inside of a JSON object. Times are written in microseconds."""
        # The end is rounded as the next span's start will be, so that no two spans of a lane overlap.
        start_us, end_us = round(start_s * 1e6, 3), round(end_s * 1e6, 3)
        self.lines.append(
            f',\n{{"ph":"X","pid":{pid},"tid":{tid},"name":"{name}","ts":{start_us:.3f},'
            f'"dur":{end_us - start_us:.3f},"args":{{{detail}}}}}'
        )
        if len(self.lines) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        self.file.write("".join(self.lines))
        self.lines.clear()

    def close(self) -> None:
        """Write what is pending and end the JSON; the file itself stays open."""
        self.flush()
        self.file.write("\n]}\n")
