"""Opens a device by the name that a user gives it."""

from cuda_probe.probe.probes import Device
from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

CUPY = Dependency(import_name="cupy", purpose="measuring a CUDA device", extra="gpu")


def open_device(name: str = "auto") -> Device:
    """Open cpu, cuda:N, or auto: the first CUDA device; a UserError says what is missing. The caller closes it."""
    if name == "cpu":
        from .cpu import CpuDevice

        return CpuDevice()
    kind, _, index = name.partition(":")
    if name != "auto" and (kind != "cuda" or (index and not index.isdecimal()) or name.endswith(":")):
        raise UserError(f"--device: {name!r} is no device, expected auto, cpu or cuda:N")
    try:
        require(CUPY)
        from . import cuda

        return cuda.open_device(int(index or 0))
    except UserError as error:
        raise UserError(f"--device {name}: {error}; --device cpu measures this machine's processor") from None
