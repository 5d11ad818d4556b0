"""The dispatcher's native code: its texts, and how a thread waits on this machine.

Non-goals: what the code works on (bus.py), who calls it (dispatch.py, hosts/).
"""

from __future__ import annotations

import platform
import sys
from functools import cache

from ..compiler.jit import NativeCode
from .bus import CONSTANTS, STRUCTURES
from .native_module import compile_text, expand, read_text

TEXTS = (
    "locks.ll",
    "timing.ll",
    "quiet.ll",
    "dispatch.ll",
    "deadlines.ll",
    "delivery.ll",
    "edges.ll",
    "handlers.ll",
)

_SYMBOLS = (
    "devc_access",
    "devc_settle",
    "devc_earliest",
    "devc_now",
    "devc_deliver",
    "devc_hold",
    "devc_let_go",
)

_PAUSE = {"x86_64": "pause", "amd64": "pause", "aarch64": "yield", "arm64": "yield"}
"""The instruction that tells a processor that a loop waits."""

_YIELD = {
    ("linux", "x86_64"): (
        'call i64 asm sideeffect "syscall", "={rax},{rax},~{rcx},~{r11},~{memory}"(i64 24) ; sched_yield'
    ),
    ("linux", "aarch64"): 'call i64 asm sideeffect "svc #0", "={x0},{x8},~{memory}"(i64 124) ; sched_yield',
}
"""How a thread lets others run, by system and processor. Where neither is known it goes on looking."""


def _waiting() -> str:
    machine = platform.machine().lower()
    pause = _PAUSE.get(machine)
    told = f'  call void asm sideeffect "{pause}", "~{{memory}}"()\n' if pause else ""
    let_run = _YIELD.get((sys.platform, machine))
    yielded = f"  %status = {let_run}\n" if let_run else ""
    return (
        f"define internal void @pause() alwaysinline {{\n{told}  ret void\n}}\n"
        f"define internal void @yield() {{\n{yielded}  ret void\n}}\n"
    )


@cache
def dispatch_text() -> str:
    """The dispatcher's text, for a host to put before its loop's."""
    return _waiting() + "".join(read_text(__package__, name) for name in TEXTS)


@cache
def native() -> NativeCode:
    """The dispatcher's code, once for all machines."""
    return compile_text(expand(dispatch_text(), STRUCTURES, CONSTANTS), _SYMBOLS)
