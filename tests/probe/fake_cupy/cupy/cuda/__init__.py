"""What of cupy.cuda is used."""

from . import compiler, device, emulation, memory, runtime, stream
from .device import Device
from .memory import MemoryPointer
from .stream import Event, Graph, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Device", "Event", "Graph", "MemoryPointer", "Stream", "compiler", "device", "get_current_stream",
    "get_elapsed_time", "memory", "runtime", "stream",
]  # fmt: skip


def __getattr__(name):
    if name == "cublas":  # loaded when it is asked for, from a library that may be missing
        if "cublas" in emulation.machine.fails:
            raise ImportError(emulation.machine.fails["cublas"])
        import importlib

        return importlib.import_module(".libcublas", __name__)
    raise AttributeError(name)
