"""What NVML tells of one GPU: once for the record, and while it works what slows its clocks."""

import time
from datetime import datetime
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.nvml import Gpu, Nvml, reason_names

SLOWED = ("slowdown", "power_cap")


class GpuState:
    """Asks NVML about the GPU at a PCI address: NVML's order is not that of CUDA, and it sees hidden GPUs too."""

    def __init__(self, pci_bus_id: str) -> None:
        self.nvml = Nvml()
        try:
            self.gpu: Gpu = self.nvml.gpu_at(pci_bus_id)
        except UserError:
            self.nvml.close()
            raise

    def facts(self) -> dict[str, Any]:
        """Say what does not change while it is measured: driver, limits, modes; None where NVML does not tell."""
        return self.nvml.facts(self.gpu)

    def now(self) -> dict[str, Any]:
        """Say how clocks, temperature and power are now; `disturbed` where something slows the clocks."""
        reading = self.nvml.read(self.gpu, time.monotonic(), datetime.now())
        reasons = reason_names(reading.clock_event_reasons or 0)
        state = {
            "sm_clock_mhz": reading.sm_clock_mhz,
            "memory_clock_mhz": reading.memory_clock_mhz,
            "temperature_c": reading.temperature_c,
            "power_w": reading.power_w,
            "power_limit_w": reading.power_limit_w,
            "clock_event_reasons": list(reasons),
        }
        slowed = [r for r in reasons if r.endswith(SLOWED)]
        return state | ({"disturbed": "the GPU slowed its clocks: " + ", ".join(slowed)} if slowed else {})

    def close(self) -> None:
        """Let go of NVML."""
        self.nvml.close()


def open_state(pci_bus_id: str) -> GpuState | None:
    """Return the state of a GPU; None where NVML cannot be had."""
    try:
        return GpuState(pci_bus_id)
    except UserError:
        return None
