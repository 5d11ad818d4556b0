"""`devc compile`: headers, objects, libraries and listings into a directory."""

from __future__ import annotations

import sys
from pathlib import Path

from ..compiler.driver import load
from ..compiler.emit import KINDS, EmitError, emit
from ..dsl.diagnostics import DeviceFileError

FAILED, USAGE = 1, 2


def compile(files: list[Path], output: Path, kinds: str, cpu: str | None) -> int:
    """0 if all was written; 1 if a file was refused, 2 if `kinds` names none."""
    wanted = {kind.strip() for kind in kinds.split(",") if kind.strip()}
    if unknown := sorted(wanted - set(KINDS)):
        print(f"cannot emit {', '.join(unknown)}; choose from {', '.join(KINDS)}", file=sys.stderr)
        return USAGE
    status = 0
    for path in files:
        try:
            device = load(path)
            module = device.reference_module()
            for warning in device.warnings:
                print(warning.render(device.source), end="\n\n", file=sys.stderr)
            for written in emit(module, wanted, output, cpu, source=device.source).values():
                print(written)
        except DeviceFileError as error:
            print(error, end="\n\n", file=sys.stderr)
            status = FAILED
        except EmitError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
    return status
