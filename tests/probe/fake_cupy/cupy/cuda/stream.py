"""Streams, events and graphs: what is launched is done at once, or recorded."""

from .emulation import alive, do, machine
from .runtime import CUDARuntimeError, getDevice


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        alive()
        self.ptr = 0 if null else id(self)
        self.device_id, self.captured = getDevice(), None

    def __hash__(self):
        return self.ptr

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def use(self):
        if self.device_id != getDevice():
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id})"
                f" does not match with the current device ({getDevice()})"
            )
        CURRENT[self.device_id] = self
        return self

    def synchronize(self):
        alive()
        if self.captured is not None:
            raise CUDARuntimeError(900)

    def begin_capture(self, mode=None):
        alive()
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.captured is not None:
            raise CUDARuntimeError(900)
        self.captured = []

    def end_capture(self):
        nodes, self.captured = self.captured, None
        alive()
        return Graph.from_stream(nodes)

    def is_capturing(self):
        return self.captured is not None


CURRENT = {}


def get_current_stream(device_id=-1):
    device = getDevice() if device_id == -1 else device_id
    if device not in CURRENT:
        CURRENT[device] = Stream(null=True)
    return CURRENT[device]


class Graph:
    def __init__(self, *args, **kwargs):
        raise NotImplementedError("currently this class cannot be initiated by the user")

    @classmethod
    def from_stream(cls, nodes):
        graph = cls.__new__(cls)
        graph.nodes = nodes
        return graph

    def launch(self, stream=None):
        alive()
        for name, action in self.nodes:
            do(name, action)


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        alive()
        self.at_s = None

    def record(self, stream=None):
        alive()
        self.at_s = machine.time_s

    def synchronize(self):
        alive()


def get_elapsed_time(start_event, end_event):
    """Return milliseconds."""
    if start_event.at_s is None or end_event.at_s is None:
        raise CUDARuntimeError(400)
    return (end_event.at_s - start_event.at_s) * 1e3
