"""Energy that a GPU says it has used, from the driver's own library (NVML): no package is needed for one counter.

The counter is of the whole device: what else runs on it at the time is in it. A device without one (a CPU, an older or
a shared GPU) gives None.

May import: the standard library, torch. Must not import: anything else of the suite. Reads: the driver's counter.
"""

import ctypes
from functools import cache
from typing import Any

import torch

SUCCESS = 0
LIBRARY = "libnvidia-ml.so.1"


def joules(device: torch.device) -> float | None:
    """What the device has used since its driver was loaded; None where it does not say."""
    if device.type != "cuda":
        return None
    library = _nvml()
    handle = _handle(str(torch.cuda.get_device_properties(device).uuid)) if library else None
    if library is None or handle is None:
        return None
    millijoules = ctypes.c_ulonglong()
    status = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    return millijoules.value / 1000 if status == SUCCESS else None


@cache
def _nvml() -> Any:
    try:
        library = ctypes.CDLL(LIBRARY)
        return library if library.nvmlInit_v2() == SUCCESS else None
    except (OSError, AttributeError):  # no driver, or one before 2012
        return None


@cache
def _handle(uuid: str) -> ctypes.c_void_p | None:
    """NVML numbers devices otherwise than torch (CUDA_VISIBLE_DEVICES), so it is asked by the device's own name."""
    handle = ctypes.c_void_p()
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    found = _nvml().nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    return handle if found == SUCCESS else None
