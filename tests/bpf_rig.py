"""Where eBPF can be used, and a process that may not use it, for the tests that need either."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from devc.runtime import bpf

ROOT = Path(__file__).parent.parent


@cache
def missing() -> str:
    """Why eBPF cannot be used here; empty if it can."""
    try:
        bpf.available()
    except bpf.BpfUnavailable as error:
        return error.reason
    return "this process has no CAP_PERFMON, so the verifier refuses more" if bpf.distrusted() else ""


needs_bpf = pytest.mark.skipif(bool(missing()), reason=missing())

WITHOUT = """
import ctypes, os, sys

class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

class Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]

libc = ctypes.CDLL(None, use_errno=True)
header, sets = Header(0x20080522, 0), (Sets * 2)()
assert libc.capget(ctypes.byref(header), sets) == 0
for capability in (21, 38, 39):  # CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
    word, bit = sets[capability // 32], 1 << capability % 32
    word.effective &= ~bit
    word.permitted &= ~bit
assert libc.capset(ctypes.byref(header), sets) == 0
from devc.cli.main import main
main()
"""
"""A `devc` that has given up every right to bpf(2)."""


def devc(*arguments: str | Path, permitted: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with or without the right to use eBPF."""
    start = ["-m", "devc.cli.main"] if permitted else ["-c", WITHOUT]
    command = [sys.executable, *start, *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
