"""The process in which LLVM's assembler runs: it ends the process on an error in its input.

    python assembler_child.py TRIPLE < text > object

Stands alone (it imports nothing of this package), so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import sys

import llvmlite.binding as llvm

MEMORY = 1 << 30
"""Bytes of address space; a `.skip` can ask for any amount."""


def quoted(text: str) -> str:
    """Text as a string of LLVM IR."""
    plain = "".join(chr(c) for c in range(32, 127)).replace('"', "").replace("\\", "")
    return "".join(
        char if char in plain else "".join(f"\\{b:02x}" for b in char.encode("utf-8")) for char in text
    )


def main() -> None:
    (triple,) = sys.argv[1:]
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    # All targets' code generators, but a parser of assembly for the process's own architecture.
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()
    module = llvm.parse_assembly(f'target triple = "{triple}"\nmodule asm "{quoted(text)}"\n')
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="static")
    sys.stdout.buffer.write(machine.emit_object(module))


if __name__ == "__main__":
    main()
