"""The machine and the libraries that a result belongs to, and what the process takes of its memory."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cosyvoice
from cosyvoice.config.base import StrictModel
from cosyvoice.native.runtime import available_threads

BUSY_LOAD = 0.5
"""Processes that wanted to run, on average over the last minute, from which on results are doubtful."""
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm")
_PACKAGES = ("numpy", "onnxruntime", "torch", "onnx")


class Machine(StrictModel):
    """What a time depends on besides the program."""

    cpu: str
    cores: int
    """Cores that the process may use."""
    memory_gb: float
    instruction_sets: list[str]
    system: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    """This machine, as far as the system tells."""
    cpuinfo = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    known = set(cpuinfo.split())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return Machine(
        cpu=model[1].strip() if model else platform.processor() or "unknown",
        cores=available_threads(),
        memory_gb=round(pages / 2**30, 1),
        instruction_sets=[name for name in _INSTRUCTIONS if name in known],
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={"cosyvoice": cosyvoice.__version__, "python": platform.python_version(), **_versions()},
    )


def load_average() -> float | None:
    """Processes that wanted to run, on average over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def resident_mb() -> float | None:
    """Memory of this process now, mapped weights that were touched included; None where the system does not tell."""
    return _status_mb("VmRSS")


def peak_resident_mb() -> float | None:
    """The most memory that this process had at a time, as in `resident_mb`."""
    return _status_mb("VmHWM")


def _status_mb(key: str) -> float | None:
    found = re.search(rf"^{key}:\s*(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    return round(int(found[1]) / 1024, 1) if found else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
