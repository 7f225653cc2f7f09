"""The CUDA runtime as CuPy shows it."""

from .emulation import alive, machine

CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF = 0, 2, 14
streamLegacy = 1
NAMES = {
    2: "cudaErrorMemoryAllocation: out of memory",
    9: "cudaErrorInvalidConfiguration: invalid configuration argument",
    46: "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    700: "cudaErrorIllegalAddress: an illegal memory access was encountered",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status):
        self.status = status
        super().__init__(NAMES[status])


def getDeviceCount():
    if machine.devices == 0:
        raise CUDARuntimeError(100)
    return machine.devices


def getDevice():
    return machine.current_device


def setDevice(device):
    alive()
    if "open" in machine.fails:
        raise CUDARuntimeError(machine.fails["open"])
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    machine.current_device = device


def getDeviceProperties(device):
    alive()
    return {
        "name": b"Emulated GPU",
        "multiProcessorCount": machine.multiprocessors,
        "l2CacheSize": machine.l2_bytes,
        "totalGlobalMem": machine.memory_bytes,
        "memoryBusWidth": 5120,
        "warpSize": 32,
    }


def deviceGetPCIBusId(device):
    alive()
    return f"0000:{0x18 + device:02X}:00.0"


def driverGetVersion():
    return 13000


def runtimeGetVersion():
    return 13020


def streamIsCapturing(stream):
    alive()
    from .stream import get_current_stream

    present = get_current_stream()
    return present.ptr == stream and present.is_capturing()
