"""`devc check`: every error and warning of the files given; nothing where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

from ..compiler.driver import load
from ..dsl.diagnostics import DeviceFileError


def check(files: list[Path]) -> int:
    """0 if every file compiles (warnings allowed), else 1."""
    failed = 0
    for path in files:
        try:
            device = load(path, cache=None)
            device.reference_module()
        except DeviceFileError as error:
            print(error, end="\n\n", file=sys.stderr)
            failed += len(error.diagnostics)
            continue
        for warning in device.warnings:
            print(warning.render(device.source), end="\n\n", file=sys.stderr)
    if failed:
        print(f"{failed} error{'s' * (failed != 1)}", file=sys.stderr)
    return 1 if failed else 0
