"""`devc check`: every error and warning of the files given; nothing where there is none.

A device file with a lock beside it is held to it; `--lock` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..compiler import locks
from ..compiler.driver import DeviceType, load
from ..dsl import tree as t
from ..dsl.diagnostics import NOWHERE, DeviceFileError, Diagnostic, Span
from ..dsl.parser import parse


def check(files: list[Path], lock: bool = False) -> int:
    """0 if every file compiles and keeps to its lock (warnings allowed), else 1."""
    failed = 0
    for path in files:
        try:
            device = load(path, cache=None)
            found = [*device.warnings, *_against_lock(device, lock)]
        except DeviceFileError as error:
            print(error, end="\n\n", file=sys.stderr)
            failed += len(error.diagnostics)
            continue
        for diagnostic in found:
            print(diagnostic.render(device.source), end="\n\n", file=sys.stderr)
        failed += sum(diagnostic.severity == "error" for diagnostic in found)
    if failed:
        print(f"{failed} error{'s' * (failed != 1)}", file=sys.stderr)
    return 1 if failed else 0


def _against_lock(device: DeviceType, lock: bool) -> list[Diagnostic]:
    module, path, places = device.reference_module(), locks.beside(device.path), _places(device)
    if not lock:
        return locks.check(module, path, places)
    try:
        return locks.lock(module, path, places)
    except OSError as error:
        why = f"{path.name} cannot be written: {error.strerror}"
        return [
            Diagnostic(
                "E704", why, places[0], "a lock lies beside its device file: copy that, and lock the copy"
            )
        ]


def _places(device: DeviceType) -> dict[int, Span]:
    """Where the device file says its checkpoint (else: its name), and each step."""
    places = {0: NOWHERE}
    for item in parse(device.source).items:
        if isinstance(item, t.Device):
            places[0] = item.name.span
            for member in item.members:
                if isinstance(member, t.Checkpoint):
                    places |= {0: member.span, **{step.version: step.span for step in member.upgrades}}
    return places
