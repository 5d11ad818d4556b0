"""The C side of the comparisons, compiled on the spot by this machine's gcc.

Non-goals: other compilers (the targets name `gcc -O3`); keeping what was built.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

from .result import Unavailable

FLAGS = ("-O3", "-fPIC", "-shared", "-Wall")
TIME_LIMIT = 120
"""Seconds that one compilation may take."""


@cache
def gcc() -> str:
    """gcc's path. `Unavailable` if there is none."""
    path = shutil.which("gcc")
    if path is None:
        raise Unavailable("there is no gcc; install it to compare with C")
    return path


def version() -> str:
    """The first line of `gcc --version`."""
    shown = subprocess.run(
        [gcc(), "--version"], capture_output=True, text=True, timeout=TIME_LIMIT, check=False
    )
    return shown.stdout.partition("\n")[0]


@cache
def library(source: str, *flags: str) -> ctypes.CDLL:
    """A C file of this package as a shared library. `Unavailable` if gcc is missing or refuses it."""
    text = resources.files(__package__).joinpath(source).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="devc-bench-") as folder:
        where = Path(folder)
        (where / source).write_text(text, encoding="utf-8")
        built = where / f"{source}.so"
        command = [gcc(), *FLAGS, *flags, str(where / source), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        if done.returncode:
            raise Unavailable(f"gcc refused {source}: {done.stderr.strip()[:400]}")
        return ctypes.CDLL(str(built))
