"""Stands in for nvidia-ml-py where there is no driver: the same names and signatures, answers from a script.

The environment variable FAKE_NVML holds JSON: `gpus` (a list of the fields of Script), `fails` (function name to error
code) and `absent` (functions that this version does not have).
"""

import json
import os
from types import SimpleNamespace

NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15
NVML_TEMPERATURE_GPU = 0
NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
nvmlMemory_v2 = 0x02000028


class NVMLError(Exception):
    def __new__(cls, value):
        error = Exception.__new__(CLASSES.get(value, cls) if cls is NVMLError else cls)
        error.value = value
        return error

    def __str__(self):
        return {3: "Not Supported", 9: "Driver Not Loaded", 12: "NVML Shared Library Not Found"}.get(
            self.value, f"error {self.value}"
        )


NAMES = {
    NVML_ERROR_NOT_SUPPORTED: "NVMLError_NotSupported",
    NVML_ERROR_DRIVER_NOT_LOADED: "NVMLError_DriverNotLoaded",
    NVML_ERROR_LIBRARY_NOT_FOUND: "NVMLError_LibraryNotFound",
    NVML_ERROR_FUNCTION_NOT_FOUND: "NVMLError_FunctionNotFound",
    NVML_ERROR_GPU_IS_LOST: "NVMLError_GpuIsLost",
}
CLASSES = {code: type(name, (NVMLError,), {}) for code, name in NAMES.items()}
globals().update({kind.__name__: kind for kind in CLASSES.values()})

_script = json.loads(os.environ.get("FAKE_NVML", "{}"))
_fails = _script.get("fails", {})
_opened = 0
_energy_reads = {}


def _answer(function, handle, default, **more):
    if not _opened:
        raise NVMLError(1)
    if function in _fails:
        raise NVMLError(_fails[function])
    return _gpu(handle).get(function, default) if not more else SimpleNamespace(**more)


def _gpu(handle):
    return _script.get("gpus", [{}])[handle]


def nvmlInit():
    global _opened
    if "nvmlInit" in _fails:
        raise NVMLError(_fails["nvmlInit"])
    _opened += 1


def nvmlShutdown():
    global _opened
    _opened -= 1


def nvmlDeviceGetCount():
    return len(_script.get("gpus", [{}]))


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetHandleByPciBusId(pciBusId):
    text = pciBusId.decode() if isinstance(pciBusId, bytes) else pciBusId
    for handle in range(nvmlDeviceGetCount()):
        if _gpu(handle).get("pci", f"0000:{0x18 + handle:02X}:00.0") == text:
            return handle
    raise NVMLError(NVML_ERROR_NOT_FOUND)


def nvmlDeviceGetHandleByUUID(uuid):
    for handle in range(nvmlDeviceGetCount()):
        if _gpu(handle).get("nvmlDeviceGetUUID", f"GPU-{handle}") == uuid:
            return handle
    raise NVMLError(NVML_ERROR_NOT_FOUND)


def nvmlDeviceGetIndex(handle):
    return _answer("nvmlDeviceGetIndex", handle, handle)


def nvmlSystemGetDriverVersion():
    if "nvmlSystemGetDriverVersion" in _fails:
        raise NVMLError(_fails["nvmlSystemGetDriverVersion"])
    return "580.65.06"


def nvmlDeviceGetName(handle):
    return _answer("nvmlDeviceGetName", handle, "Fake GPU, 80GB")


def nvmlDeviceGetUUID(handle):
    return _answer("nvmlDeviceGetUUID", handle, f"GPU-{handle}")


def nvmlDeviceGetPowerUsage(handle):
    return _answer("nvmlDeviceGetPowerUsage", handle, 100_000 * (handle + 1))


def nvmlDeviceGetTotalEnergyConsumption(handle):
    start = _answer("nvmlDeviceGetTotalEnergyConsumption", handle, 5_000_000)
    reads = _energy_reads[handle] = _energy_reads.get(handle, -1) + 1
    return start + reads * 1000 * (handle + 1)


def nvmlDeviceGetPowerManagementLimit(handle):
    return _answer("nvmlDeviceGetPowerManagementLimit", handle, 700_000)


def nvmlDeviceGetPowerManagementDefaultLimit(handle):
    return _answer("nvmlDeviceGetPowerManagementDefaultLimit", handle, 700_000)


def nvmlDeviceGetMaxClockInfo(handle, type):
    return _answer("nvmlDeviceGetMaxClockInfo", handle, {NVML_CLOCK_SM: 1980, NVML_CLOCK_MEM: 3201}[type])


def nvmlDeviceGetMemoryBusWidth(device):
    return _answer("nvmlDeviceGetMemoryBusWidth", device, 6144)


def nvmlDeviceGetEccMode(handle):
    return _answer("nvmlDeviceGetEccMode", handle, [1, 1])


def nvmlDeviceGetPersistenceMode(handle):
    return _answer("nvmlDeviceGetPersistenceMode", handle, 1)


def nvmlDeviceGetUtilizationRates(handle):
    return _answer("nvmlDeviceGetUtilizationRates", handle, None, gpu=0, memory=0)


def nvmlDeviceGetMemoryInfo(handle, version=None):
    if version and "v2" in _fails:
        raise NVMLError(_fails["v2"])
    used = 3 * 2**30 if version else 4 * 2**30  # the older version counts what the driver reserves
    return _answer("nvmlDeviceGetMemoryInfo", handle, None, used=used, total=80 * 2**30, free=0)


def nvmlDeviceGetTemperature(handle, sensor):
    assert sensor == NVML_TEMPERATURE_GPU
    return _answer("nvmlDeviceGetTemperature", handle, 41)


def nvmlDeviceGetClockInfo(handle, type):
    return _answer("nvmlDeviceGetClockInfo", handle, {NVML_CLOCK_SM: 1980, NVML_CLOCK_MEM: 2619}[type])


def nvmlDeviceGetCurrentClocksEventReasons(handle):
    return _answer("nvmlDeviceGetCurrentClocksEventReasons", handle, 4)


def nvmlDeviceGetCurrentClocksThrottleReasons(handle):
    return _answer("nvmlDeviceGetCurrentClocksThrottleReasons", handle, 0x20)


def _processes(function, handle):
    return [SimpleNamespace(pid=pid) for pid in _answer(function, handle, [])]


def nvmlDeviceGetComputeRunningProcesses(handle):
    return _processes("nvmlDeviceGetComputeRunningProcesses", handle)


def nvmlDeviceGetGraphicsRunningProcesses(handle):
    return _processes("nvmlDeviceGetGraphicsRunningProcesses", handle)


for _name in _script.get("absent", []):
    del globals()[_name]
