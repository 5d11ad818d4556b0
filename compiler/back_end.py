"""Objects for other targets than this machine, made in a child process.

LLVM's back ends may end the process on what they cannot do; here that is an
exception, with all that LLVM said.

    object_code(text, Target("bpfel", "v3"))      # text: LLVM IR without a data layout

Non-goals: what LLVM's words mean for a device (bpf_compile.py, wasm.py); this
machine's code (jit.py), whose back end is not expected to end anything.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SECONDS = 300
"""For the child; a device takes one or two."""

_CHILD = Path(__file__).with_name("back_end_child.py")


@dataclass(frozen=True, slots=True)
class Target:
    """What an object is made for. `features` as in `+avx,-sse4a`."""

    triple: str
    cpu: str
    features: str = ""


class Died(Exception):
    """There is no object. `said` is what the child wrote, `ended` how it ended."""

    def __init__(self, said: str, ended: str) -> None:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        super().__init__(f"LLVM's back end ended with {ended}: {last}")
        self.said, self.ended = said, ended


def object_code(text: str, target: Target) -> bytes:
    """The object of LLVM IR. Raises `Died`."""
    command = [sys.executable, str(_CHILD), target.triple, target.cpu, target.features]
    try:
        run = subprocess.run(command, input=text.encode(), capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Died(str(error), "no answer") from None
    if run.returncode or not run.stdout:
        status = run.returncode
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise Died(run.stderr.decode(errors="replace"), ended)
    return run.stdout
