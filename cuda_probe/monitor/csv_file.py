"""The log of `monitor-gpu`: the columns of `nvidia-smi --query-gpu=... --format=csv,nounits`, written row by row.

The file is written in place, not under a temporary name: a log has to be there up to the moment at which the machine,
the command or the user ended it. A value that the driver does not give is an empty field. Fields are parted by a comma
alone, so that a reader finds `index`, not ` index`. The last column is NVML's counter, which nvidia-smi does not print.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO, StringIO
from pathlib import Path

from simulator.ground.artefacts import UserError, neutral
from simulator.ground.nvml import Gpu, Reading

Cell = Callable[[Gpu, Reading], str]


def cell(name: str, form: Callable[[float], str] = str) -> Cell:
    """Return what writes a field of a reading, or nothing where it is not known."""

    def write(_: Gpu, reading: Reading) -> str:
        value = getattr(reading, name)
        return "" if value is None else form(value)

    return write


def watts(value: float) -> str:
    return f"{value:.2f}"


def mebibytes(value: float) -> str:
    return str(int(value) >> 20)


def bits(value: float) -> str:
    return f"0x{int(value):016x}"


COLUMNS: dict[str, Cell] = {
    # As nvidia-smi: local time, milliseconds.
    "timestamp": lambda _, r: f"{r.timestamp:%Y/%m/%d %H:%M:%S}.{r.timestamp.microsecond // 1000:03d}",
    "index": lambda gpu, _: str(gpu.index),
    "name": lambda gpu, _: str(neutral(gpu.name)),
    "power.draw [W]": cell("power_w", watts),
    "utilization.gpu [%]": cell("utilization_gpu_percent"),
    "utilization.memory [%]": cell("utilization_memory_percent"),
    "memory.used [MiB]": cell("memory_used_bytes", mebibytes),
    "memory.total [MiB]": cell("memory_total_bytes", mebibytes),
    "temperature.gpu": cell("temperature_c"),
    "clocks.current.sm [MHz]": cell("sm_clock_mhz"),
    "clocks.current.memory [MHz]": cell("memory_clock_mhz"),
    "power.limit [W]": cell("power_limit_w", watts),
    "clocks_event_reasons.active": cell("clock_event_reasons", bits),
    "total_energy_consumption [mJ]": cell("total_energy_mj"),
}


def write_row(file: FileIO, fields: Iterable[str]) -> None:
    """Append a row whole, or raise OSError and leave none of it."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    row, before = text.getvalue().encode(), file.tell()
    try:
        while row:
            row = row[file.write(row) :]
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


@contextmanager
def logging_to(path: Path, *, force: bool = False) -> Iterator[Callable[[Gpu, Reading], None]]:
    """Open the log, write its header, and give what appends a row; a UserError says why there can be none.

    Nothing is buffered: a row is one write, so it is in the file or it is not, and a full disk shows at once.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "w" if force else "x")
    except OSError as error:
        if path.exists() and not force:
            raise UserError(f"{path}: exists already (--force overwrites it)") from None
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    with file:
        try:
            write_row(file, COLUMNS)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        yield lambda gpu, reading: write_row(file, (text(gpu, reading) for text in COLUMNS.values()))
