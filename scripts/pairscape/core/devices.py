"""Where a program computes: on the GPU that is there; a reserved one that can't be used stops it.

Without this a job that waited days for a GPU would compute on its CPU, a hundred times as long, and
not say a word: torch only warns where the driver is missing or too old.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pairscape.core.errors import InputError

# The least Linux driver by CUDA's major version (NVIDIA: CUDA minor version compatibility).
LEAST_DRIVER = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
# `cpu` computes on the CPU whatever there is.
CHOICE = "PAIRSCAPE_DEVICE"
_DRIVER = Path("/proc/driver/nvidia/version")
_NONE = ("", "-1", "NoDevFiles")  # the last is Slurm's word


def pick():
    """The ``torch.device`` to compute on: the first GPU that can be seen, else the CPU."""
    import torch

    return torch.device("cuda", 0) if has_gpu() else torch.device("cpu")


def has_gpu() -> bool:
    """Whether there is a GPU; ``InputError`` where a reserved one can't be used."""
    import torch

    if os.environ.get(CHOICE) == "cpu":
        return False
    if torch.cuda.is_available():
        return True
    variable = reserved(os.environ)
    if variable is not None:
        cuda = torch.version.cuda
        built = f"CUDA {cuda}" if cuda else "no CUDA"
        least = LEAST_DRIVER.get(str(cuda).split(".")[0])
        fault = (
            f"{os.environ[variable]}, a reserved GPU that can't be used: torch {torch.__version__}"
            f" is built for {built}, and {_driver()}"
        )
        remedy = f"use a node with driver {least} or later" if least else "install torch with CUDA"
        if str(cuda).startswith("13"):
            remedy += f", install by `make env CUDA=12` (driver {LEAST_DRIVER['12']} or later)"
        remedy += f", reserve no GPU, or set {CHOICE}=cpu to compute on the CPU"
        raise InputError("environment", variable, fault, remedy)
    return False


def reserved(environment: Mapping[str, str]) -> str | None:
    """The variable that says that a GPU is reserved for this process, or None."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        told = ("CUDA_VISIBLE_DEVICES",)
    else:
        told = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
    return next((name for name in told if environment.get(name, "").strip() not in _NONE), None)


def _driver() -> str:
    """The NVIDIA driver of this machine, in words."""
    try:
        version = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return "this machine has no NVIDIA driver"
    return f"the driver is {version[1] if version else 'unknown'}"


def driver_lack(cuda: str | None) -> str | None:
    """What this machine's driver lacks for torch with this CUDA, in words; None where it is enough."""
    least, found = LEAST_DRIVER.get(str(cuda).split(".")[0]), _driver()
    version = re.search(r"[\d.]+$", found)
    if least is None or (version and _parts(version[0]) >= _parts(least)):
        return None
    return f"{found}, and CUDA {cuda} of torch needs {least} or later"


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]
